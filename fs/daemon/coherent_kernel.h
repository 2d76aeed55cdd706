// CoherentKernel: the kernel of this mount as coherent/ sees it, on FUSE.
//
// Requests of coherent files that wait for other nodes are parked: the handler returns, and the
// engine's thread answers them, so they take no thread of the request loop. A request that is sent
// again after the worker died parks again: reads, writes and sizes may be done twice, and an open
// is counted by whoever answers it, in a slot of its own.
// Pages are dropped by the notifier (notifier.h), since that may wait for such requests; whether
// one is cached after that is asked by a retrieve, which waits for nothing. Thread-safety: any
// thread; answer(), drop(), drop_all() and resize() on the engine's.
#pragma once

#include <fuse_lowlevel.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "fs/coherent/kernel.h"
#include "fs/coherent/node.h"
#include "fs/daemon/elastic.h"
#include "fs/daemon/server.h"

namespace btd {

// A bit of the file handle, beside those of fs/daemon/backing_grant.h.
inline constexpr std::uint64_t kHandleCoherent = 1 << 8;
static_assert(kHandleCoherent < 1 << kHandleBits);

class CoherentKernel final : public coherent::Kernel {
 public:
  struct Parked {
    fuse_req_t req = nullptr;
    enum class Kind : std::uint8_t {
      kOpen,
      kCreate,
      kRead,
      kWrite,
      kPlain,
      kThen
    } kind = Kind::kPlain;
    std::uint64_t unique = 0;
    InodeId id = 0;
    fuse_file_info fi{};       // of an open
    fuse_entry_param entry{};  // of a create
    bool is_orphan = false;    // of a create: it has no name
    std::size_t size = 0;      // of a write
    // kThen: what goes on where it succeeded, on a thread that may block; it answers.
    std::function<void(fuse_req_t)> then;
  };

  CoherentKernel() = default;
  CoherentKernel(const CoherentKernel&) = delete;
  CoherentKernel& operator=(const CoherentKernel&) = delete;

  // Before the first request.
  void start(Server& server, coherent::Node& node);
  // Nothing is said to the kernel when this has returned, but by threads that are blocked in it.
  void stop();
  [[nodiscard]] bool is_started() const { return server_ != nullptr; }
  [[nodiscard]] coherent::Node& node() { return *node_; }

  // Parks it, and asks `what` for it.
  void park(Parked parked, coherent::Ask what);
  void ask(coherent::Ask what) { node_->ask(std::move(what)); }

  void answer(coherence::Request request, int error, std::span<const std::byte> contents) override;
  void opened(coherence::Request request, std::uint64_t bytes) override;
  void drop(InodeId id, coherence::Page page, coherence::Notice notice, bool again) override;
  void drop_all(InodeId id) override;
  void resize(InodeId id, coherence::Version version) override;
  // Names in .btd that only the notifier may look up: the number in it; the inode that it stands
  // for; and it was answered.
  static std::optional<std::uint64_t> number_in(std::string_view name);
  [[nodiscard]] std::optional<InodeId> inode_of(std::uint64_t number) const;
  void told(std::uint64_t number);
  [[nodiscard]] std::uint64_t parked() const;

 private:
  struct Resizing {
    InodeId id = 0;
    coherence::Version version = 0;
  };

  void resized(std::uint64_t number);
  [[nodiscard]] std::optional<Parked> taken(coherence::Request request);
  void finish_open(Parked& parked);

  Server* server_ = nullptr;
  coherent::Node* node_ = nullptr;
  std::optional<std::uint32_t> slot_;  // of the engine's thread
  std::atomic<coherence::Request> next_{1};
  std::atomic<std::uint64_t> next_name_{1};  // also of those of earlier workers
  std::atomic<bool> is_stopped_{false};
  mutable std::mutex mutex_;
  std::unordered_map<coherence::Request, Parked> parked_;
  std::unordered_map<std::uint64_t, Resizing> resizing_;  // by the numbers of their names
  Elastic elastic_;                                       // for what may block, but for the kernel
};

}  // namespace btd
