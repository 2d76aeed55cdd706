#include "fs/daemon/loop.h"

#include <fuse_lowlevel.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fs/daemon/companion.h"
#include "fs/daemon/protocol.h"
#include "fs/daemon/request.h"
#include "fs/daemon/spin.h"

namespace btd {

namespace {

constexpr unsigned kBacklog = 16;      // requests in a row without a wait that call for help
constexpr std::uint32_t kSetSize = 8;  // in the first word of a SETATTR

bool has_no_reply(std::uint32_t opcode) {
  return opcode == proto::kForget || opcode == proto::kBatchForget || opcode == proto::kInterrupt ||
         opcode == proto::kNotifyReply;
}

}  // namespace

// Memory for one request, present from the start. The kernel fails a request with EIO if it cannot
// copy it to its reader, and a killed reader faults no page in: the application would see our
// death.
class RequestBuffer {
 public:
  explicit RequestBuffer(std::size_t bytes) : bytes_(bytes) {
    void* at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) return;
    data_ = static_cast<char*>(at);
    (void)mlock(data_, bytes_);  // where that is not allowed, swapping is the only risk left
  }
  ~RequestBuffer() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  RequestBuffer(const RequestBuffer&) = delete;
  RequestBuffer& operator=(const RequestBuffer&) = delete;

  [[nodiscard]] char* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  char* data_ = nullptr;
};

// One serving thread: its buffer and its slot.
class RequestLoop::Worker {
 public:
  explicit Worker(RequestLoop& loop)
      : loop_(loop),
        buffer_(loop.options_.buffer_bytes),
        slot_(loop.state_.claim_slot()),
        spin_(loop.options_.spin_us) {}
  ~Worker() {
    if (slot_) loop_.state_.give_back_slot(*slot_);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  [[nodiscard]] bool usable() const { return slot_.has_value() && buffer_.data() != nullptr; }
  [[nodiscard]] const proto::InHeader& header() const {
    return *reinterpret_cast<const proto::InHeader*>(buffer_.data());
  }
  [[nodiscard]] bool resent() const { return (header().unique & proto::kUniqueResent) != 0; }

  enum class Got { kRequest, kNothing, kEnd };

  Got read_now() {
    for (;;) {
      const ssize_t n = ::read(loop_.fuse_fd_, buffer_.data(), buffer_.bytes());
      if (n >= static_cast<ssize_t>(sizeof(proto::InHeader))) {
        size_ = static_cast<std::size_t>(n);
        return Got::kRequest;
      }
      if (n < 0 && errno == EAGAIN) return Got::kNothing;
      if (n < 0 && (errno == EINTR || errno == ENOENT)) continue;
      if (n < 0 && errno != ENODEV) spdlog::error("reading /dev/fuse: {}", strerrordesc_np(errno));
      return Got::kEnd;
    }
  }

  Got wait() {
    const std::uint64_t from = monotonic_ns();
    const Got got = spin_or_sleep(from);
    spin_.waited(monotonic_ns() - from);
    return got;
  }

  void execute() {
    const proto::InHeader& in = header();
    const std::uint64_t unique = in.unique & ~proto::kUniqueResent;
    CurrentRequest& current = current_request();
    if (in.opcode == proto::kInterrupt && loop_.options_.interrupted) return interrupted();
    if (in.opcode == proto::kNotifyReply && loop_.options_.notified) return notified();
    if (has_no_reply(in.opcode)) {
      current = {};
      process();
      return;
    }
    current.slot = *slot_;
    current.tag = {loop_.state_.header().session, unique, *slot_};
    current.resent = resent();
    loop_.state_.begin(*slot_, unique);
    process();
    loop_.state_.end(*slot_);
  }

  // The slot that was executing this request goes on with it, so that its records stay together.
  void execute_resent() {
    if (const auto slot = loop_.state_.adopt(header().unique & ~proto::kUniqueResent)) {
      loop_.state_.give_back_slot(*slot_);
      slot_ = slot;
    }
    execute();
  }

  // Whether the request may keep its thread for long.
  [[nodiscard]] bool may_take_long() const {
    if (is_about_others_file()) return false;  // it tells when it is about to sleep
    switch (header().opcode) {
      case proto::kRead:
      case proto::kWrite:
      case proto::kFsync:
      case proto::kFallocate:
      case proto::kCopyFileRange:
      case proto::kCopyFileRange64:
      case proto::kBatchForget:
        return true;
      case proto::kSetattr: {
        std::uint32_t valid = 0;
        std::memcpy(&valid, buffer_.data() + sizeof(proto::InHeader), sizeof valid);
        return (valid & kSetSize) != 0;
      }
      case proto::kRelease: {
        const auto entry = loop_.state_.find(header().nodeid);
        return entry && (entry->flags & kStateOrphan) != 0;
      }
      default:
        return false;
    }
  }

  // A file of another node.
  [[nodiscard]] bool is_about_others_file() const {
    const auto& node = loop_.options_.node;
    return node && header().nodeid < kFirstVirtualId &&
           loop_.options_.home_of(header().nodeid) != *node;
  }

  void run() {
    while (!loop_.stopping_.load()) {
      std::unique_lock lead(loop_.lead_);
      unsigned in_a_row = 0;
      while (lead.owns_lock()) {
        if (loop_.stopping_.load()) return loop_.companion_->leave();
        Got got = read_now();
        in_a_row = got == Got::kRequest ? in_a_row + 1 : 0;
        if (got == Got::kNothing) got = wait();
        if (got == Got::kEnd) {
          loop_.companion_->leave();
          lead.unlock();
          loop_.stop();
          std::call_once(loop_.ended_once_, loop_.ended_);
          return;
        }
        if (may_take_long() || (in_a_row >= backlog() && !loop_.companion_->beside())) {
          hand_on(lead);
          execute();
        } else {
          serve_as_leader(lead, in_a_row == 0);
        }
      }
    }
  }

 private:
  void hand_on(std::unique_lock<std::mutex>& lead) {
    loop_.companion_->leave();
    lead.unlock();
  }

  // Where a request asks another node, the next one in a row already is another thread's.
  [[nodiscard]] unsigned backlog() const { return is_about_others_file() ? 1 : kBacklog; }

  void serve_as_leader(std::unique_lock<std::mutex>& lead, bool waited) {
    loop_.companion_->serve(static_cast<pid_t>(header().pid), monotonic_ns(), waited);
    const std::function<void()> hook = [&] { hand_on(lead); };
    const BeforeSleep before_sleep(hook);
    execute();
  }

  Got spin_or_sleep(std::uint64_t from) {
    const std::uint64_t until = from + (loop_.companion_->beside() ? 0 : spin_.spin_ns());
    while (monotonic_ns() < until)
      if (const Got got = read_now(); got != Got::kNothing) return got;
    loop_.companion_->rest();
    for (;;) {
      pollfd fds[2] = {{loop_.fuse_fd_, POLLIN, 0}, {loop_.wake_.get(), POLLIN, 0}};
      if (poll(fds, 2, -1) < 0 && errno != EINTR) return Got::kEnd;
      if (loop_.stopping_.load()) return Got::kEnd;
      if (const Got got = read_now(); got != Got::kNothing) return got;
    }
  }

  void interrupted() {
    if (size_ < sizeof(proto::InterruptIn)) return;
    const auto& in = *reinterpret_cast<const proto::InterruptIn*>(buffer_.data());
    loop_.options_.interrupted(in.unique & ~proto::kUniqueResent);
  }

  void notified() const {
    if (size_ < sizeof(proto::RetrieveIn)) return;
    loop_.options_.notified(header().unique, size_ - sizeof(proto::RetrieveIn));
  }

  void process() {
    fuse_buf buf{};
    buf.mem = buffer_.data();
    buf.size = size_;
    fuse_session_process_buf(loop_.session_, &buf);
  }

  RequestLoop& loop_;
  RequestBuffer buffer_;
  std::optional<std::uint32_t> slot_;
  std::size_t size_ = 0;
  SpinPolicy spin_;
};

RequestLoop::RequestLoop(fuse_session* session, int fuse_fd, StateTable& state,
                         const Options& options, std::function<void()> ended)
    : options_(options),
      session_(session),
      fuse_fd_(fuse_fd),
      state_(state),
      ended_(std::move(ended)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      companion_(std::make_unique<Companion>(options.share_processor)) {}

RequestLoop::~RequestLoop() {
  stop();
  join();
}

void RequestLoop::execute_resent(const std::function<void()>& settled) {
  Worker worker(*this);
  for (;;) {
    const auto got = worker.usable() ? worker.read_now() : Worker::Got::kNothing;
    if (got == Worker::Got::kRequest && has_no_reply(worker.header().opcode)) {
      worker.execute();
    } else if (got == Worker::Got::kRequest && worker.resent()) {
      worker.execute_resent();
    } else {
      state_.forget_earlier_requests();
      settled();
      if (got == Worker::Got::kRequest) worker.execute();
      return;  // the end of the connection shows again at the next read
    }
  }
}

void RequestLoop::start() {
  for (unsigned i = 0; i < options_.threads; ++i)
    threads_.emplace_back([this] {
      Worker worker(*this);
      if (worker.usable()) worker.run();
    });
}

void RequestLoop::stop() {
  stopping_.store(true);
  const std::uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
}

void RequestLoop::join() {
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

}  // namespace btd
