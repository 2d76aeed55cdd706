// SPDX-License-Identifier: BSD-3-Clause
// reset_load serve tcp|verbs ADDRESS FILE OFFSET
//   lends 2 MiB of FILE (a device of DAX, or a file) from OFFSET on, until it is killed.
// reset_load work tcp|verbs ADDRESS [--more N] [--seconds S] [--reports FILE]
//   writes and reads there. The server must be reset once, and come back within S seconds; then all
//   is verified, and N more writes are done. Reports, each before the next operation of its kind:
//     @btd ack ENGINE SLOT VERSION             a write was acknowledged
//     @btd found ENGINE SLOT OLDEST NEWEST     what is there after the reset
// Exit code: 0; 1 something is wrong; 2 usage.
#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>

#include "alloc/persist.h"
#include "net/tcp/tcp.h"
#include "net/verbs/verbs_engine.h"
#include "tests/stress/stress_util.h"
#include "tests/vm/guest/reset_worker.h"

namespace btd::vm {

namespace {

constexpr const char* kUsage =
    "reset_load serve tcp|verbs ADDRESS FILE OFFSET | reset_load work tcp|verbs ADDRESS [--more N] "
    "[--seconds S] [--reports FILE]";
constexpr std::size_t kBytes = 2 << 20;  // devices of DAX are mapped in such pieces
static_assert(kSlots * kSlotBytes <= kBytes);

Result<std::unique_ptr<net::Engine>> make_engine(const std::string& kind) {
  net::EngineOptions options;
  // The other machine has to boot.
  options.patience.reconnect = std::chrono::minutes(5);
  if (kind == "tcp")
    return net::make_tcp_engine(
        {.engine = options, .security = net::NoSecurity{.is_everywhere = true}});
  return net::make_verbs_engine(
      {.engine = options, .device = {}, .cluster_key = "the key of the test"});
}

class Mapping {
 public:
  static Result<std::unique_ptr<Mapping>> make(const std::string& path, std::uint64_t offset) {
    const stress::Fd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    void* at = MAP_FAILED;
    if (file.valid())
      at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(),
                static_cast<off_t>(offset));
    if (at == MAP_FAILED) return fail(errno, path + ": " + std::strerror(errno));
    return std::unique_ptr<Mapping>(new Mapping(static_cast<std::byte*>(at)));
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(at_, kBytes); }
  [[nodiscard]] std::span<std::byte> bytes() const { return {at_, kBytes}; }

 private:
  explicit Mapping(std::byte* at) : at_(at) {}
  std::byte* const at_;
};

// Tells each peer of the memory.
class Lender final : public net::Handler {
 public:
  Lender(net::Engine& engine, const net::RegionDescriptor& region)
      : engine_(engine), region_(region) {}
  void on_up(net::Endpoint& endpoint) override {
    const iovec message{&region_, sizeof(region_)};
    static_cast<void>(endpoint.send({&message, 1}, 0, engine_.now() + std::chrono::seconds(10)));
  }
  void on_completion(net::Endpoint& /*endpoint*/, const net::Completion& /*completion*/) override {}

 private:
  net::Engine& engine_;
  net::RegionDescriptor region_;
};

Status serve(const stress::Options& options) {
  BTD_ASSIGN(const auto memory,
             Mapping::make(options.Positional(3),
                           std::strtoull(options.Positional(4).c_str(), nullptr, 0)));
  Persist persist(Domain::kCacheLine);
  BTD_ASSIGN(const auto engine, make_engine(options.Positional(1)));
  BTD_ASSIGN(
      const net::RegionDescriptor region,
      engine->register_region(memory->bytes(), net::kRemoteRead | net::kRemoteWrite, &persist));
  Lender lender(*engine, region);
  BTD_ASSIGN(const std::string address,
             engine->listen(options.Positional(2), [&](net::Endpoint&) { return &lender; }));
  std::printf("%s\n", address.c_str());
  std::fflush(stdout);
  while (true) BTD_TRY(engine->wait(net::kNever));
}

Status work(const stress::Options& options) {
  const std::string path = options.Text("reports", "/dev/stdout");
  const stress::Fd reports(open(path.c_str(), O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC));
  if (!reports.valid()) return fail(errno, path + ": " + std::strerror(errno));
  const std::string kind = options.Positional(1);
  BTD_ASSIGN(const auto engine, make_engine(kind));
  ResetWorker worker(*engine, kind, [&](const std::string& report) {
    const std::string line = "@btd " + report + "\n";
    static_cast<void>(!write(reports.get(), line.data(), line.size()));
  });
  const std::chrono::seconds patience(static_cast<long>(options.Number("seconds", 60)));
  return worker.run(options.Positional(2), options.Number("more", 100), patience);
}

int main_of(int argc, char** argv) {
  const stress::Options options(argc, argv, kUsage);
  const std::string what = options.Positional(0), kind = options.Positional(1);
  if ((what != "serve" && what != "work") || (kind != "tcp" && kind != "verbs")) {
    std::fprintf(stderr, "usage: %s\n", kUsage);
    return 2;
  }
  const Status status = what == "serve" ? serve(options) : work(options);
  if (status) return 0;
  std::fprintf(stderr, "reset_load %s %s: %s\n", what.c_str(), kind.c_str(),
               status.error().message.c_str());
  return 1;
}

}  // namespace

}  // namespace btd::vm

int main(int argc, char** argv) { return btd::vm::main_of(argc, argv); }
