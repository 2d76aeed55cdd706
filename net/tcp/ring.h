// Ring: one io_uring with a ring of buffers to receive into, for one thread: the one that first
// enters it. Buffers belong to the ring; one that came with a completion is given back by
// recycle(), and then receives again.
#pragma once

#include <liburing.h>

#include <cstddef>
#include <memory>
#include <span>

#include "alloc/result.h"
#include "net/types.h"

namespace btd::net {

class Ring {
 public:
  // An idle connection has no buffer, so few do for thousands of peers: what matters is that one
  // batch of completions finds enough. 32 KiB take the small frames of a whole window at once.
  static constexpr std::size_t kBufferBytes = 32 << 10;
  static constexpr unsigned kBuffers = 64;
  static constexpr int kBufferGroup = 0;
  static constexpr unsigned kRoom = 256;  // half of all

  // Errors: ENOSYS, EPERM io_uring is not there, or forbidden; ENOMEM.
  static Result<std::unique_ptr<Ring>> make();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring();

  // A new entry, cleared; what waits is submitted first if there is no place. Null: the ring is
  // broken.
  io_uring_sqe* entry();

  // Whether the kernel has completed something, or would if it were entered.
  [[nodiscard]] bool has_events() const { return io_uring_cq_ready(&ring_) > 0 || is_asked(); }
  [[nodiscard]] bool has_entries() const { return io_uring_sq_ready(&ring_) > 0; }
  // For so many entries that a task needs no more without a system call between.
  [[nodiscard]] bool has_room() const { return io_uring_sq_space_left(&ring_) >= kRoom; }
  [[nodiscard]] bool must_enter() const { return has_entries() || is_asked(); }
  // The kernel asks to be entered.
  [[nodiscard]] bool is_asked() const {
    return (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) !=
           0;
  }
  // Submits what waits, and finds out what came.
  Status enter();
  // The same, and sleeps until something comes, for so long at most.
  Status sleep(Time most);
  // Sleeps likewise and touches no entry: another thread may make some meanwhile.
  Status sleep_only(Time most);

  // Ends the operation with this user data now: when this returns, the kernel touches no memory for
  // it any more. Its completion comes as others do.
  Status end(std::uint64_t user_data);

  // Calls take(completion) for those that are there now: how many that were.
  template <class Take>
  std::size_t reap(Take&& take) {
    const unsigned ready = io_uring_cq_ready(&ring_);
    for (unsigned i = 0; i < ready; ++i) {
      io_uring_cqe* cqe = nullptr;
      if (io_uring_peek_cqe(&ring_, &cqe) != 0) return i;
      const io_uring_cqe copy = *cqe;
      io_uring_cqe_seen(&ring_, cqe);  // at once: what it leads to may need the place
      take(copy);
    }
    return ready;
  }

  // The buffer that came with a completion.
  [[nodiscard]] std::span<const std::byte> buffer(unsigned index, std::size_t size) const {
    return {buffers_.get() + index * kBufferBytes, size};
  }
  void recycle(unsigned index);

 private:
  Ring() = default;
  Status open();
  Status add_buffers();
  Status start();
  Status judge(int result);
  Status sleep(Time most, bool submits);

  struct Unmap {
    void operator()(void* memory) const;
  };

  io_uring ring_{};
  bool is_open_ = false, is_disabled_ = false;
  std::unique_ptr<io_uring_buf_ring, Unmap> buffer_ring_;
  std::unique_ptr<std::byte[]> buffers_;
};

}  // namespace btd::net
