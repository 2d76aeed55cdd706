// The life of a mount: start, refusal, death of either process, replacement, stop; and what must
// stay bounded meanwhile.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "mount_fixture.h"

namespace btd {
namespace {

class Lifecycle : public MountFixture {};
INSTANTIATE_TEST_SUITE_P(Paths, Lifecycle, testing::Bool(),
                         [](const auto& p) { return p.param ? "passthrough" : "cached"; });

std::size_t descriptors(int pid) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& item :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd"))
    ++count;
  return count;
}

// How often the threads of a process have gone to sleep or been put off.
std::uint64_t switches(int pid) {
  std::uint64_t sum = 0;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    std::ifstream in(task.path() / "status");
    for (std::string line; std::getline(in, line);)
      if (line.find("ctxt_switches") != std::string::npos)
        sum += std::stoull(line.substr(line.find(':') + 1));
  }
  return sum;
}

// A dead process that nobody has waited for yet counts as dead.
// A process whose first thread has ended has its files, and so its locks, as long as another thread
// of it is still ending.
bool alive(int pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  std::ifstream in(process + "/stat");
  std::string text;
  std::getline(in, text);
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return false;
  if (text.compare(name_end, 3, ") Z") != 0) return true;
  std::error_code gone;
  std::filesystem::directory_iterator tasks(process + "/task", gone);
  return std::distance(begin(tasks), end(tasks)) > 1;
}

TEST_P(Lifecycle, StatusTellsWhatIs) {
  start();
  const auto j = status();
  EXPECT_EQ(passthrough(), j["passthrough"]["active"].get<bool>());
  EXPECT_EQ(passthrough(), j["passthrough"]["reason"].get<std::string>().empty());
  EXPECT_EQ(supervisor_, j["supervisor"]["pid"].get<int>());
  EXPECT_EQ(0, j["worker"]["restarts"].get<int>());
  EXPECT_EQ(pool_, j["pool"]["path"].get<std::string>());
  EXPECT_EQ("/dev/fuse", j["transport"]["kind"].get<std::string>());
  EXPECT_EQ(64U << 20, j["space"]["bytes"].get<std::uint64_t>());
  write_file(path("f"), "x");
  EXPECT_GE(status()["operations"]["create"]["count"].get<int>(), 1);
  EXPECT_NE(std::string::npos, read_file(path(".btd/status")).find("passthrough"));
  EXPECT_NE(std::string::npos, read_file(path(".btd/trace")).find("create"));
  EXPECT_NE(0, mkdir(path(".btd/x").c_str(), 0755));
  EXPECT_EQ(EPERM, errno);
  EXPECT_NE(0, rename(path("f").c_str(), path(".btd").c_str()));
  EXPECT_NE(0, rmdir(path(".btd").c_str()));
  EXPECT_EQ(0, stop());
}

TEST_P(Lifecycle, ASecondMountIsRefused) {
  start();
  const std::string other = root_ + "/other";
  ASSERT_EQ(0, mkdir(other.c_str(), 0755));
  const auto [code, text] = run({"mount", pool_, other});
  EXPECT_NE(0, code);
  EXPECT_NE(std::string::npos, text.find("in use")) << text;
  struct stat here{}, there{};
  EXPECT_EQ(0, ::stat(other.c_str(), &there));
  EXPECT_EQ(0, ::stat(root_.c_str(), &here));
  EXPECT_EQ(here.st_dev, there.st_dev) << "it mounted all the same";
  rmdir(other.c_str());
}

TEST_P(Lifecycle, ABadPoolIsAClearErrorBeforeAnythingIsMounted) {
  const auto [code, text] = run({"mount", root_, mnt_});
  EXPECT_NE(0, code);
  EXPECT_GT(text.size(), 30U) << text;
  const auto [bad_option, option_text] = run({"mount", pool_, mnt_, "frobnicate"});
  EXPECT_NE(0, bad_option);
  EXPECT_NE(std::string::npos, option_text.find("frobnicate"));
}

TEST_P(Lifecycle, ContentsOutliveAColdStart) {
  start();
  mkdir(path("d").c_str(), 0755);
  write_file(path("d/f"), "kept");
  EXPECT_EQ(0, stop());
  EXPECT_NE(0, access(path("d").c_str(), F_OK));
  start();
  EXPECT_EQ("kept", read_file(path("d/f")));
}

TEST_P(Lifecycle, MappingsAndFilesOutliveTheWorker) {
  start();
  const UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(0, ftruncate(fd.get(), 1 << 20));
  auto* map =
      static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(MAP_FAILED, map);
  map[0] = 'a';
  for (int round = 1; round < 4; ++round) {
    kill_worker();
    map[round * 4096] = 'b';
    char byte = 0;
    EXPECT_EQ(1, pread(fd.get(), &byte, 1, 0));
    EXPECT_EQ('a', byte);
    EXPECT_EQ(0, fsync(fd.get()));
    EXPECT_EQ(0, unlink(path("f").c_str()) != 0 && round == 1);
  }
  EXPECT_EQ(3, status()["worker"]["restarts"].get<int>());
  EXPECT_EQ('b', map[2 * 4096]);
  munmap(map, 1 << 20);
}

TEST_P(Lifecycle, BackWithinTheTargetTime) {
  start();
  for (int round = 0; round < 5; ++round) {
    kill_worker();
    const std::uint64_t before = monotonic_ns();
    EXPECT_EQ(0U, stat_of(path("absent" + std::to_string(round))).st_mode);
    EXPECT_LT(monotonic_ns() - before, 300'000'000U);
  }
}

TEST_P(Lifecycle, OrphansGoWithTheirLastUser) {
  start();
  UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(3, write(fd.get(), "abc", 3));
  ASSERT_EQ(0, unlink(path("f").c_str()));
  kill_worker();
  char bytes[4] = {};
  EXPECT_EQ(3, pread(fd.get(), bytes, 3, 0));
  EXPECT_STREQ("abc", bytes);
  struct stat st{};
  EXPECT_EQ(0, fstat(fd.get(), &st));
  EXPECT_EQ(0U, st.st_nlink);
  EXPECT_EQ(1U, backing_files());
  fd.reset();
  EXPECT_TRUE(eventually([this] { return backing_files() == 0; }));
}

TEST_P(Lifecycle, OrphansOfACrashAreReclaimedAtTheNextMount) {
  start();
  const UniqueFd named(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  const UniqueFd nameless(open(mnt_.c_str(), O_TMPFILE | O_RDWR, 0644));
  ASSERT_TRUE(named && nameless);
  write_file(path("kept"), "x");
  ASSERT_EQ(0, unlink(path("f").c_str()));
  const int worker = worker_pid();
  kill(supervisor_, SIGKILL);
  kill(worker, SIGKILL);
  waitpid(supervisor_, nullptr, 0);
  umount2(mnt_.c_str(), MNT_DETACH);
  EXPECT_TRUE(eventually([&] { return !alive(worker); }));
  EXPECT_EQ(3U, backing_files());
  start();
  EXPECT_EQ("x", read_file(path("kept")));
  EXPECT_TRUE(eventually([this] { return backing_files() == 1; })) << backing_files();
}

TEST_P(Lifecycle, UnlinkGivesTheSpaceBackThoughTheIdWasRegistered) {
  start();
  struct statfs before{}, after{};
  ASSERT_EQ(0, statfs(mnt_.c_str(), &before));
  write_file(path("f"), std::string(8 << 20, 'x'));
  ASSERT_EQ(0, unlink(path("f").c_str()));
  EXPECT_TRUE(eventually(
      [&] { return statfs(mnt_.c_str(), &after) == 0 && after.f_bfree + 64 >= before.f_bfree; },
      passthrough() ? 1 : 2000))
      << before.f_bfree << " blocks before, " << after.f_bfree << " after";
}

TEST_P(Lifecycle, ClosedFilesCostNoDescriptor) {
  start();
  const int worker = worker_pid();
  const std::size_t before = descriptors(worker) + descriptors(supervisor_);
  for (int i = 0; i < 10'000; ++i)
    ASSERT_EQ(0, write_file(path("f" + std::to_string(i)), i % 100 == 0 ? "x" : ""));
  EXPECT_LE(descriptors(worker) + descriptors(supervisor_), before + 2);
}

TEST_P(Lifecycle, RegisteredIdsOfClosedFilesAreBounded) {
  if (!passthrough()) return;
  start({"idle_ids=64"});
  for (int i = 0; i < 2000; ++i) write_file(path("f" + std::to_string(i)), "");
  const auto registered = [this] { return status()["files"]["registered"].get<unsigned>(); };
  EXPECT_TRUE(eventually([&] { return registered() <= 64; })) << registered();
  EXPECT_GT(status()["files"]["pruned"].get<unsigned>(), 1900U);
  EXPECT_EQ(0, stat_of(path("f7")).st_size);
}

TEST_P(Lifecycle, IdleMeansNoWakeUps) {
  start();
  write_file(path("f"), "x");
  const int worker = worker_pid();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const std::uint64_t before = switches(worker) + switches(supervisor_);
  std::this_thread::sleep_for(std::chrono::seconds(2));
  EXPECT_EQ(before, switches(worker) + switches(supervisor_));
}

TEST_P(Lifecycle, OnlyTheTwoProcessesHoldTheConnection) {
  start();
  std::size_t holders = 0;
  for (const auto& process : std::filesystem::directory_iterator("/proc")) {
    std::error_code error;
    for (const auto& fd : std::filesystem::directory_iterator(process.path() / "fd", error)) {
      char target[64] = {};
      if (readlink(fd.path().c_str(), target, sizeof target - 1) <= 0) continue;
      if (strcmp(target, "/dev/fuse") != 0) continue;
      const int pid = std::stoi(process.path().filename());
      holders += pid == supervisor_ || pid == worker_pid() ? 1 : 0;
    }
  }
  EXPECT_EQ(2U, holders);
}

TEST_P(Lifecycle, TheWorkerIsReplacedOnRequest) {
  start();
  const UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  const int first = worker_pid();
  kill(supervisor_, SIGUSR2);
  EXPECT_TRUE(eventually([&] { return !alive(first); }));
  EXPECT_NE(first, worker_pid());
  EXPECT_EQ(0, status()["worker"]["restarts"].get<int>()) << "it was counted as a death";
  EXPECT_EQ(1, write(fd.get(), "x", 1));
  EXPECT_EQ(0, ftruncate(fd.get(), 5));
  kill(supervisor_, SIGHUP);
  EXPECT_EQ(5, stat_of(path("f")).st_size);
}

TEST_P(Lifecycle, ABusyMountIsNotTornDown) {
  start();
  UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  kill(supervisor_, SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(alive(supervisor_));
  EXPECT_EQ(0, write_file(path("g"), "still serving"));
  fd.reset();
  EXPECT_TRUE(eventually([this] { return status()["files"]["opens"].get<int>() == 0; }));
  EXPECT_EQ(0, stop());
}

TEST_P(Lifecycle, AskedTwiceItDetaches) {
  start();
  const UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  kill(supervisor_, SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(0, stop());
  EXPECT_NE(0, ftruncate(fd.get(), 1));
  start();
  EXPECT_EQ(0, stat_of(path("f")).st_size);
}

TEST_P(Lifecycle, UnmountedFromOutsideItEnds) {
  start();
  write_file(path("f"), "x");
  ASSERT_EQ(0, umount2(mnt_.c_str(), 0));
  EXPECT_EQ(0, wait_for_exit());
}

TEST_P(Lifecycle, ARequestThatAlwaysKillsEndsTheMountNotTheApplication) {
  start();
  arm(KillPoint::kReceived, proto::kMkdir | kKillAlways);
  EXPECT_NE(0, mkdir(path("d").c_str(), 0755));
  EXPECT_TRUE(errno == ECONNABORTED || errno == ENOTCONN) << strerror(errno);
  EXPECT_EQ(1, wait_for_exit());
}

TEST_P(Lifecycle, WithoutItsSupervisorTheWorkerGoesOn) {
  start();
  const int worker = worker_pid();
  kill(supervisor_, SIGKILL);
  waitpid(supervisor_, nullptr, 0);
  supervisor_ = 0;
  EXPECT_EQ(0, write_file(path("f"), "still here"));
  EXPECT_EQ("still here", read_file(path("f")));
  kill(worker, SIGTERM);
  EXPECT_TRUE(eventually([&] { return !alive(worker); }));
  EXPECT_NE(0, access(path("f").c_str(), F_OK));
  EXPECT_EQ(ENOENT, errno) << "the dead mount is still there";
}

TEST_P(Lifecycle, WhenBothDieCallersGetAnErrorAtOnce) {
  start();
  const UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  const int worker = worker_pid();
  kill(supervisor_, SIGKILL);
  kill(worker, SIGKILL);
  waitpid(supervisor_, nullptr, 0);
  supervisor_ = 0;
  EXPECT_TRUE(eventually([&] { return !alive(worker); }));
  EXPECT_NE(0, ftruncate(fd.get(), 100));
  EXPECT_TRUE(errno == ENOTCONN || errno == ECONNABORTED) << strerror(errno);
}

}  // namespace
}  // namespace btd
