#include "net/tcp/ring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

namespace btd::net {

namespace {

// Submissions of one round; more, and there is one system call more.
constexpr unsigned kEntries = 512;
// Completions of one round; beyond, the kernel keeps them in a list.
constexpr unsigned kCompletions = 4096;

constexpr std::size_t kBufferRingBytes = Ring::kBuffers * sizeof(io_uring_buf);

// Best first: work for the ring is done by its thread when it asks, and told of by a flag, so that
// spinning needs no system call. The ring starts disabled: its thread is the one that enables it.
constexpr std::array<unsigned, 3> kFlags = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_R_DISABLED,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};

}  // namespace

void Ring::Unmap::operator()(void* memory) const { ::munmap(memory, kBufferRingBytes); }

Result<std::unique_ptr<Ring>> Ring::make() {
  std::unique_ptr<Ring> ring(new Ring);
  BTD_TRY(ring->open());
  BTD_TRY(ring->add_buffers());
  return ring;
}

Status Ring::open() {
  int error = 0;
  for (const unsigned flags : kFlags) {
    io_uring_params params{};
    params.flags = flags | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
    params.cq_entries = kCompletions;
    error = -io_uring_queue_init_params(kEntries, &ring_, &params);
    if (error != 0) continue;
    is_open_ = true;
    is_disabled_ = (flags & IORING_SETUP_R_DISABLED) != 0;
    return {};
  }
  return fail(error, error == ENOSYS || error == EPERM
                         ? "The kernel offers no io_uring here; check the sysctl "
                           "kernel.io_uring_disabled and the container's seccomp profile."
                         : "io_uring can't be set up; is there memory, and RLIMIT_MEMLOCK enough?");
}

Status Ring::add_buffers() {
  void* memory =
      ::mmap(nullptr, kBufferRingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail(ENOMEM, "There is no memory for the engine's buffers.");
  buffer_ring_.reset(static_cast<io_uring_buf_ring*>(memory));
  buffers_ = std::make_unique_for_overwrite<std::byte[]>(kBuffers * kBufferBytes);
  io_uring_buf_reg request{};
  request.ring_addr = reinterpret_cast<std::uint64_t>(memory);
  request.ring_entries = kBuffers;
  request.bgid = kBufferGroup;
  if (const int error = -io_uring_register_buf_ring(&ring_, &request, 0); error != 0)
    return fail(error, "The kernel is too old for the tcp engine; it needs Linux 6.1.");
  io_uring_buf_ring_init(buffer_ring_.get());
  for (unsigned i = 0; i < kBuffers; ++i) recycle(i);
  return {};
}

Ring::~Ring() {
  if (is_open_) io_uring_queue_exit(&ring_);
}

void Ring::recycle(unsigned index) {
  io_uring_buf_ring_add(buffer_ring_.get(), buffers_.get() + index * kBufferBytes, kBufferBytes,
                        static_cast<unsigned short>(index), io_uring_buf_ring_mask(kBuffers), 0);
  io_uring_buf_ring_advance(buffer_ring_.get(), 1);
}

Status Ring::start() {
  if (!is_disabled_) return {};
  is_disabled_ = false;
  // By hand, for Debian 12's liburing declares io_uring_enable_rings() and does not have it.
  const long result =
      ::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  return judge(result < 0 ? -errno : 0);
}

io_uring_sqe* Ring::entry() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr && enter()) sqe = io_uring_get_sqe(&ring_);
  if (sqe != nullptr) *sqe = {};
  return sqe;
}

// What is only "not now" is tried again by the next round.
Status Ring::judge(int result) {
  if (result >= 0 || result == -EINTR || result == -ETIME || result == -EAGAIN || result == -EBUSY)
    return {};
  if (result == -EEXIST)
    return fail(EINVAL, "The engine is used by a second thread; only wake() and submit() may be.");
  return fail(-result, "io_uring refuses to work: error " + std::to_string(-result) + ".");
}

Status Ring::enter() {
  BTD_TRY(start());
  return judge(io_uring_submit_and_get_events(&ring_));
}

Status Ring::end(std::uint64_t user_data) {
  io_uring_sync_cancel_reg which{};
  which.addr = user_data;
  which.fd = -1;
  which.timeout = {.tv_sec = -1, .tv_nsec = -1};
  long result = 0;
  do {  // by hand, as start() does
    result =
        ::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_SYNC_CANCEL, &which, 1);
  } while (result < 0 && errno == EINTR);
  if (result >= 0 || errno == ENOENT) return {};  // ENOENT: it has ended
  return fail(errno, "io_uring can't end a receive: error " + std::to_string(errno) + ".");
}

Status Ring::sleep(Time most) { return sleep(most, true); }

Status Ring::sleep_only(Time most) { return sleep(most, false); }

Status Ring::sleep(Time most, bool submits) {
  BTD_TRY(start());
  const Time positive = std::max(most, Time{1});
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(positive);
  __kernel_timespec time{.tv_sec = seconds.count(), .tv_nsec = (positive - seconds).count()};
  __kernel_timespec* const limit = most == kNever ? nullptr : &time;
  io_uring_cqe* cqe = nullptr;
  return judge(submits ? io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, limit, nullptr)
                       : io_uring_wait_cqes(&ring_, &cqe, 1, limit, nullptr));
}

}  // namespace btd::net
