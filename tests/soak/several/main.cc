// SPDX-License-Identifier: BSD-3-Clause
// several [--rounds N] [--seed S] [--workers 1..4] [--directory DIR]: processes work on one heap,
// and some of them are killed, round after round. After each kill the others must go on, and a
// process that joins must find what was acknowledged, and of what was under way all or nothing;
// every 25 rounds all leave, and one alone finds no leak and no damage. Ends with 1, and a
// sentence, where that is not so.
//
// This process has the heap never open: it forks those who do, and waits for each with a deadline.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <algorithm>
#include <cinttypes>
#include <csignal>
#include <filesystem>
#include <functional>
#include <new>

#include "alloc/result.h"
#include "tests/soak/several/checker.h"
#include "tests/soak/several/heap.h"
#include "tests/soak/several/worker.h"
#include "tests/stress/stress_util.h"

namespace btd::soak {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kRoundsBetweenChecks = 25;
constexpr int kGoesOnSeconds = 5;          // a survivor's time for its next operation
constexpr std::int64_t kStep = 1'000'000;  // ns; how often a deadline is looked at

volatile std::sig_atomic_t g_stopped = 0;

double now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Whether `holds` came to hold in time.
template <class Condition>
bool within(double seconds, Condition holds) {
  for (const double until = now() + seconds; now() < until && g_stopped == 0;) {
    if (holds()) return true;
    const timespec step{.tv_sec = 0, .tv_nsec = kStep};
    nanosleep(&step, nullptr);
  }
  return holds();
}

// A child that is killed and reaped at the latest when this goes.
class Child {
 public:
  Child() = default;
  explicit Child(const std::function<void()>& body) {
    std::fflush(nullptr);
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    body();
    _exit(0);
  }
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Child& operator=(Child&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { kill(); }

  [[nodiscard]] bool runs() const { return pid_ > 0; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  // Whether it has ended by itself, and then how.
  bool ended(int& status) {
    if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) != pid_) return false;
    pid_ = -1;
    return true;
  }

 private:
  pid_t pid_ = -1;
};

class Soak {
 public:
  Soak(Common& common, unsigned rounds)
      : common_(common), rounds_(rounds), random_(common.seed), workers_(common.workers) {}

  Status run() {
    BTD_TRY(finish("making the heap", Child([&] { make_tables(common_); })));
    for (unsigned worker = 0; worker < common_.workers; ++worker) start(worker);
    for (round_ = 1; round_ <= rounds_; ++round_) {
      BTD_TRY(round());
      if (round_ % kRoundsBetweenChecks == 0 || round_ == rounds_) BTD_TRY(check_all());
    }
    return {};
  }
  [[nodiscard]] std::uint64_t operations() const {
    std::uint64_t sum = 0;
    for (const Lane& lane : common_.lanes) sum += lane.operations;
    return sum;
  }
  [[nodiscard]] unsigned round_number() const { return std::min(round_, rounds_); }
  [[nodiscard]] unsigned kills() const { return kills_; }

 private:
  void start(unsigned worker) {
    const std::uint64_t life = ++lives_;
    workers_.at(worker) = Child([&] { work(common_, worker, life); });
  }
  [[nodiscard]] Error wrong(const std::string& otherwise) const {
    return {.code = EIO, .message = common_.reported ? common_.report : otherwise};
  }
  // How a child ended that should have ended well.
  [[nodiscard]] Status verdict(const std::string& what, int status) const {
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    return std::unexpected(
        wrong(what + (WIFSIGNALED(status) ? " died by signal " + std::to_string(WTERMSIG(status))
                                          : " ended with " + std::to_string(WEXITSTATUS(status)))));
  }
  [[nodiscard]] Status finish(const std::string& what, Child child) const {
    int status = 0;
    if (!within(kPatienceSeconds, [&] { return child.ended(status); })) {
      return std::unexpected(
          wrong(what + " took longer than " + std::to_string(kPatienceSeconds) + " s"));
    }
    return verdict(what, status);
  }
  // No worker ends before it is told to.
  [[nodiscard]] Status all_run() {
    for (unsigned worker = 0; worker < common_.workers; ++worker) {
      int status = 0;
      if (!workers_.at(worker).ended(status)) continue;
      BTD_TRY(verdict("worker " + std::to_string(worker), status));
      return std::unexpected(wrong("worker " + std::to_string(worker) + " left by itself"));
    }
    return g_stopped != 0 ? fail(EINTR, "stopped by a signal") : Status{};
  }

  [[nodiscard]] Status round() {
    within(0.001 * static_cast<double>(random_.Below(60)), [] { return false; });
    BTD_TRY(all_run());
    const std::vector<unsigned> victims = choose_victims();
    for (const unsigned each : victims) workers_.at(each).kill();
    kills_ += static_cast<unsigned>(victims.size());
    BTD_TRY(survivors_go_on());
    if (random_.OneIn(8)) kill_a_joiner();
    const bool alone = victims.size() == common_.workers;
    BTD_TRY(finish("the check", Child([&] { (alone ? check_alone : check_joining)(common_); })));
    for (const unsigned each : victims) start(each);
    return survivors_go_on();
  }
  // Mostly one, sometimes several, now and then all.
  std::vector<unsigned> choose_victims() {
    const std::uint64_t dice = random_.Below(10);
    const std::size_t most = dice < 7 ? 1 : dice < 9 ? 2 : common_.workers;
    std::vector<unsigned> all;
    for (unsigned worker = 0; worker < common_.workers; ++worker) all.push_back(worker);
    while (all.size() > most) {
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(random_.Below(all.size())));
    }
    return all;
  }
  // Each thread of each worker that runs gets on with its operations.
  [[nodiscard]] Status survivors_go_on() {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      const unsigned worker = lane / kMostThreads;
      if (!used(common_, lane) || !workers_.at(worker).runs()) continue;
      const auto& operations = common_.lanes.at(lane).operations;
      const std::uint64_t before = operations;
      const bool goes_on =
          within(kGoesOnSeconds, [&] { return operations > before + 1 || common_.reported; });
      BTD_TRY(all_run());
      if (goes_on) continue;
      return std::unexpected(wrong("thread " + std::to_string(lane % kMostThreads) + " of worker " +
                                   std::to_string(worker) + " did nothing for " +
                                   std::to_string(kGoesOnSeconds) + " s after a kill"));
    }
    return {};
  }
  // Somebody who dies while joining, or soon after.
  void kill_a_joiner() {
    Child joiner([&] {
      btd_cluster* const heap = open_heap(common_);
      for (;;) btd_free(btd_malloc(heap, 100));
    });
    within(0.001 * static_cast<double>(random_.Below(6)), [] { return false; });
    joiner.kill();
    ++kills_;
  }

  [[nodiscard]] Status check_all() {
    common_.stop = true;
    for (unsigned worker = 0; worker < common_.workers; ++worker) {
      BTD_TRY(finish("the leaving of worker " + std::to_string(worker),
                     std::move(workers_.at(worker))));
    }
    common_.stop = false;
    BTD_TRY(finish("the check alone", Child([&] { check_alone(common_); })));
    BTD_TRY(expect_bounded());
    std::printf("round %u of %u: %u kills, %" PRIu64 " operations, %.1f of %.1f MiB in use\n",
                round_, rounds_, kills_, operations(), mib(common_.allocated_bytes),
                mib(common_.mapped_bytes));
    std::fflush(stdout);
    for (unsigned worker = 0; round_ < rounds_ && worker < common_.workers; ++worker) {
      start(worker);
    }
    return {};
  }
  static double mib(std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
  // The tables have a fixed number of cells, so what the heap takes has a bound, too.
  [[nodiscard]] Status expect_bounded() {
    constexpr std::uint64_t kSlack = std::uint64_t{64} << 20;
    if (first_mapped_ == 0) first_mapped_ = common_.mapped_bytes;
    if (common_.mapped_bytes <= 2 * first_mapped_ + kSlack) return {};
    return fail(ENOSPC, "the heap grew from " + std::to_string(first_mapped_) + " to " +
                            std::to_string(common_.mapped_bytes) + " bytes");
  }

  Common& common_;
  unsigned rounds_;
  stress::Random random_;
  std::vector<Child> workers_;
  std::uint64_t lives_ = 0;
  unsigned round_ = 0;
  unsigned kills_ = 0;
  std::uint64_t first_mapped_ = 0;
};

Common* make_common() {
  void* const at =
      mmap(nullptr, sizeof(Common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  auto* const common = new (at) Common{};
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  for (Lane& lane : common->lanes) pthread_mutex_init(&lane.lock, &kind);
  return common;
}

// Of a soak that was killed: its directory is named after its process.
void remove_leftovers(const fs::path& base, const std::string& prefix) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(base, ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(prefix)) continue;
    const std::string pid = name.substr(prefix.size());
    if (!fs::exists("/proc/" + pid, ignored)) fs::remove_all(entry.path(), ignored);
  }
}

int run(const stress::Options& options) {
  const std::string base = options.Text("directory", "/dev/shm");
  const std::string prefix = "btd-several.";
  remove_leftovers(base, prefix);
  const std::string directory = base + "/" + prefix + std::to_string(getpid());
  Common* const common = make_common();
  std::error_code error;
  if (common == nullptr || directory.size() >= sizeof common->directory ||
      !fs::create_directory(directory, error)) {
    std::fprintf(stderr, "no heap can be made in %s\n", base.c_str());
    return 1;
  }
  directory.copy(common->directory, directory.size());
  common->workers =
      std::clamp(static_cast<unsigned>(options.Number("workers", kMostWorkers)), 1U, kMostWorkers);
  common->seed = options.Number("seed", static_cast<std::uint64_t>(time(nullptr)));
  std::printf("seed %" PRIu64 ", %u workers\n", common->seed, common->workers);

  Status result;
  {
    Soak soak(*common, static_cast<unsigned>(options.Number("rounds", 500)));
    result = soak.run();
    std::printf("%u rounds, %u kills, %" PRIu64 " operations, %s\n", soak.round_number(),
                soak.kills(), soak.operations(), result ? "no violation" : "VIOLATED");
    if (!result) {
      std::fprintf(stderr, "round %u: %s\n", soak.round_number(), result.error().message.c_str());
    }
  }  // nobody is left who has the heap
  fs::remove_all(directory, error);
  return result ? 0 : 1;
}

}  // namespace
}  // namespace btd::soak

int main(int argc, char** argv) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    std::signal(number, [](int) { btd::soak::g_stopped = 1; });
  }
  setenv("BTD_QUIET", "1", 1);
  return btd::soak::run(btd::stress::Options(
      argc, argv, "several [--rounds N] [--seed S] [--workers 1..4] [--directory DIR]"));
}
