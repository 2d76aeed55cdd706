// A stand-in for the pool's store: MemoryStore with a log of its commits in a file.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>

#include "alloc/memory_store.h"
#include "fs/namespace/namespace.h"
#include "fs/pool/metadata.h"

namespace btd {
namespace {

class LoggedStore final : public MetaStore {
 public:
  explicit LoggedStore(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::string all((std::istreambuf_iterator<char>(in)), {});
    std::size_t at = 0;
    auto word = [&] {
      std::uint32_t v;
      std::memcpy(&v, all.data() + at, 4);
      at += 4;
      return v;
    };
    while (at + 4 <= all.size()) {
      std::uint32_t n = word();
      Batch batch;
      for (; n > 0; --n) {
        std::uint32_t k = word(), v = word();
        std::string key = all.substr(at, k);
        at += k;
        if (v == ~0U) {
          batch.erase(key);
        } else {
          batch.put(key, std::string_view(all).substr(at, v));
          at += v;
        }
      }
      (void)store_.commit(batch);
    }
    fd_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  }
  Result<std::optional<std::string>> get(std::string_view key) const override {
    return store_.get(key);
  }
  Status scan(std::string_view a, std::string_view b, const Visitor& v) const override {
    return store_.scan(a, b, v);
  }
  Status commit(const Batch& batch) override {
    std::lock_guard lock(mutex_);
    BTD_TRY(store_.commit(batch));
    std::string out;
    auto word = [&](std::size_t v) {
      auto w = static_cast<std::uint32_t>(v);
      out.append(reinterpret_cast<char*>(&w), 4);
    };
    word(batch.changes().size());
    for (const auto& c : batch.changes()) {
      word(c.key.size());
      word(c.value ? c.value->size() : ~0U);
      out += c.key;
      if (c.value) out += *c.value;
    }
    (void)!write(fd_, out.data(), out.size());
    return {};
  }
  std::unique_ptr<WatchHandle> watch(std::string_view p, Watcher w) override {
    return store_.watch(p, std::move(w));
  }
  Stats stats() const override { return store_.stats(); }

 private:
  MemoryStore store_;
  std::mutex mutex_;
  int fd_;
};

class StubMetadata final : public Metadata {
 public:
  explicit StubMetadata(const std::string& dir) : store_(dir + "/log") {}
  MetaStore& store() override { return store_; }
  const Persistence& persistence() const override { return persistence_; }
  Result<Structures> check_structures(bool) override { return Structures{}; }
  Status close() override { return {}; }

 private:
  LoggedStore store_;
  Persistence persistence_{"stub", "log", "process crash"};
};

}  // namespace

Status Metadata::format(const std::string& dir, std::uint64_t, std::uint32_t root_mode) {
  LoggedStore store(dir + "/log");
  return Namespace::format(store, root_mode);
}
Result<std::unique_ptr<Metadata>> Metadata::open(const std::string& dir, std::uint64_t, bool) {
  return std::make_unique<StubMetadata>(dir);
}
}  // namespace btd
