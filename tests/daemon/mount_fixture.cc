#include "mount_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

namespace btd {

std::string g_program;

namespace {

constexpr int kStartMs = 20'000;

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return argv;
}

}  // namespace

void MountFixture::SetUp() {
  char name[] = "/tmp/btd-daemon-XXXXXX";
  ASSERT_NE(nullptr, mkdtemp(name));
  root_ = name;
  ASSERT_EQ(0, chmod(name, 0755));  // tests act as other users too
  pool_ = root_ + "/pool";
  mnt_ = root_ + "/mnt";
  ASSERT_EQ(0, mkdir(pool_.c_str(), 0755));
  ASSERT_EQ(0, mkdir(mnt_.c_str(), 0755));
  ASSERT_EQ(0, ::mount("pool", pool_.c_str(), "tmpfs", 0, "size=64m"));
  const auto formatted = run({"format", pool_});
  ASSERT_EQ(0, formatted.first) << formatted.second;
}

void MountFixture::TearDown() {
  if (supervisor_ != 0) {
    kill(supervisor_, SIGTERM);
    if (!eventually([this] { return waitpid(supervisor_, nullptr, WNOHANG) == supervisor_; })) {
      ADD_FAILURE() << "the supervisor did not stop";
      kill(supervisor_, SIGKILL);
      waitpid(supervisor_, nullptr, 0);
    }
  }
  if (header_ != nullptr) munmap(header_, sizeof(StateHeader));
  umount2(mnt_.c_str(), MNT_DETACH);
  umount2(pool_.c_str(), MNT_DETACH);
  rmdir(mnt_.c_str());
  rmdir(pool_.c_str());
  unlink((root_ + "/notify").c_str());
  rmdir(root_.c_str());
}

void MountFixture::start(std::vector<std::string> options) {
  const std::string socket_path = root_ + "/notify";
  unlink(socket_path.c_str());
  notify_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(0, bind(notify_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
  std::vector<std::string> words = {g_program, "mount", pool_, mnt_, "-f", "level=err"};
  if (!passthrough()) words.emplace_back("no_passthrough");
  words.insert(words.end(), options.begin(), options.end());
  auto argv = pointers(words);
  supervisor_ = fork();
  ASSERT_GE(supervisor_, 0);
  if (supervisor_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setenv("NOTIFY_SOCKET", socket_path.c_str(), 1);
    execv(g_program.c_str(), argv.data());
    _exit(127);
  }
  char text[512] = {};
  pollfd wait{notify_.get(), POLLIN, 0};
  ASSERT_EQ(1, poll(&wait, 1, kStartMs)) << "the supervisor never said that it is ready";
  ASSERT_GT(recv(notify_.get(), text, sizeof text - 1, 0), 0);
  ASSERT_NE(std::string::npos, std::string(text).find("READY=1")) << text;
  map_state();
}

// The state memfd of the supervisor, by which a test chooses where the worker dies.
void MountFixture::map_state() {
  if (header_ != nullptr) munmap(header_, sizeof(StateHeader));
  header_ = nullptr;
  const std::string fds = "/proc/" + std::to_string(supervisor_) + "/fd";
  for (const auto& item : std::filesystem::directory_iterator(fds)) {
    char target[256] = {};
    if (readlink(item.path().c_str(), target, sizeof target - 1) <= 0) continue;
    if (std::string(target).find("memfd:btd-state") == std::string::npos) continue;
    const UniqueFd fd(open(item.path().c_str(), O_RDWR | O_CLOEXEC));
    void* page =
        mmap(nullptr, sizeof(StateHeader), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(MAP_FAILED, page);
    header_ = static_cast<StateHeader*>(page);
  }
  ASSERT_NE(nullptr, header_);
}

int MountFixture::stop() {
  kill(supervisor_, SIGTERM);
  return wait_for_exit();
}

int MountFixture::wait_for_exit() {
  int status = -1;
  if (!eventually([&] { return waitpid(supervisor_, &status, WNOHANG) == supervisor_; }, 15'000)) {
    ADD_FAILURE() << "the supervisor did not end";
    return -1;
  }
  supervisor_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::pair<int, std::string> MountFixture::run(const std::vector<std::string>& arguments) {
  std::vector<std::string> words = {g_program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  auto argv = pointers(words);
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return {-1, "pipe"};
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(fds[1], 2);
    execv(g_program.c_str(), argv.data());
    _exit(127);
  }
  close(fds[1]);
  std::string text;
  char buffer[1024];
  for (ssize_t n = 0; (n = read(fds[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  close(fds[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
}

nlohmann::json MountFixture::status() const {
  return nlohmann::json::parse(read_file(path(".btd/status.json")), nullptr, false);
}

void MountFixture::kill_worker() const { ASSERT_EQ(0, kill(worker_pid(), SIGKILL)); }

std::size_t MountFixture::backing_files() const {
  std::size_t count = 0;
  for (const auto& item : std::filesystem::recursive_directory_iterator(pool_ + "/data"))
    count += item.is_regular_file() ? 1 : 0;
  return count;
}

void MountFixture::arm(KillPoint point, std::uint32_t opcode) const {
  std::atomic_ref<std::uint32_t>(header_->kill_point).store(kill_word(point, opcode));
}

bool MountFixture::fired() const {
  return std::atomic_ref<std::uint32_t>(header_->kill_point).load() == 0;
}

void MountFixture::disarm() const { std::atomic_ref<std::uint32_t>(header_->kill_point).store(0); }

bool MountFixture::eventually(const std::function<bool()>& condition, int deadline_ms) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(deadline_ms);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

int MountFixture::write_file(const std::string& name, const std::string& bytes) {
  const UniqueFd fd(open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) return errno;
  return write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) ? 0
                                                                                           : errno;
}

std::string MountFixture::read_file(const std::string& name) {
  std::ifstream in(name, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

struct stat MountFixture::stat_of(const std::string& name) {
  struct stat st{};
  if (lstat(name.c_str(), &st) != 0) st.st_mode = 0;
  return st;
}

}  // namespace btd
