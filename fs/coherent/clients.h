// Clients: this node's side of the coherent files that its programs use, a coherence::Client each.
//
// A file is attached at its home before anything else of it is said there, and again whenever the
// connection was lost; then everything that waits is said again. What kernels wait for ends: after
// kPatience without an answer a fill, open, read, write or resize fails with ETIMEDOUT. Only what
// the page cache writes back waits on, since a failure would lose it.
// The engine's thread only.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "fs/coherence/client.h"
#include "fs/coherent/kernel.h"
#include "fs/coherent/message.h"
#include "net/engine.h"

namespace btd::coherent {

// What the kernel asks for, or says; `request` is what Kernel::answer() names.
struct Ask {
  enum class What : std::uint8_t {
    kOpen,       // is_writer, is_create: the kernel takes the size from the answer
    kRelease,    // is_writer
    kFill,       // offset, length
    kPageWrite,  // offset, bytes
    kRead,       // offset, length
    kWrite,      // offset, bytes
    kResize,     // length: the size
    kGrow,       // length: the size, unless it is larger
    kSync,
    kForgotten,  // the kernel has nothing of it any more, unless it is used again by now
    kRecovered,  // opens: of an earlier worker, whose kernel it is
    kDropped,    // page, number: the notice, is_cached
    kAllDropped,
    kSized,  // number: the version
  };
  What what = What::kOpen;
  InodeId file = 0;
  coherence::Request request = 0;
  std::uint64_t offset = 0, length = 0;
  coherence::Page page = 0;
  std::uint64_t number = 0;
  std::uint32_t opens = 0;
  bool is_writer = false, is_create = false, is_cached = false;
  Bytes bytes;
};

class Clients {
 public:
  static constexpr net::Time kPatience = std::chrono::seconds(30);

  // Says it to the home, if it is reached now.
  using Send = std::function<void(NodeId home, HomeMessage)>;
  // A file of that home is used: it is to be reached.
  using Reach = std::function<void(NodeId home)>;

  // `mount`: the number of this node's mount.
  Clients(net::Engine& engine, Kernel& kernel, const coherence::Rules& rules, Send send,
          Reach reach, std::uint64_t mount, HomeOf home_of);
  Clients(const Clients&) = delete;
  Clients& operator=(const Clients&) = delete;
  ~Clients();

  void ask(Ask what);
  void arrived(NodeId from, ClientMessage message);
  // The home is reached, for the first time or anew: files attach to it.
  void up(NodeId home);
  void down(NodeId home);
  // Whether any file of it is used.
  [[nodiscard]] bool uses(NodeId home) const;
  // The kernel has nothing of the mount any more: every file is given back.
  void detach_all();

  struct Counters {
    std::uint64_t files = 0, pages = 0;  // now
    std::uint64_t fills = 0, recalled = 0, dropped = 0, checks = 0, still_cached = 0;
    std::uint64_t write_backs = 0, reads = 0, writes = 0, timeouts = 0, retries = 0;
    std::uint64_t waiting = 0;      // requests of the kernel, now
    net::Time oldest{};             // how long the oldest of them has waited
    std::vector<NodeId> unreached;  // homes of files in use
  };
  [[nodiscard]] Counters counters() const;

 private:
  // A request of the kernel until it is answered. One page-cache write of many pages is several
  // write-backs, each a part.
  struct Pending {
    InodeId file = 0;
    Ask::What what = Ask::What::kOpen;
    net::Time since{};
    std::uint64_t offset = 0, length = 0;
    Bytes bytes;
    std::optional<coherence::ToHome> message;  // of a direct call, to be said again
    coherence::Request whole = 0;              // of a part
    std::size_t parts = 0;                     // of a whole
  };
  struct File {
    File(InodeId number, NodeId at, net::Time now) : id(number), since(now), home(at) {}
    const InodeId id;
    const net::Time since;
    NodeId home;  // it stays while the file is attached
    bool is_attached = false, is_attaching = false;
    bool is_unsure = false;    // pages that are not known may be in the kernel
    bool is_dropping = false;  // all of them: writers wait
    bool is_sizing = false;    // the kernel takes the size that it was attached with: opens wait
    std::uint32_t opens = 0;
    std::optional<coherence::Client> machine;  // from the first attachment on
    std::deque<Ask> waiting;                   // until then
    std::deque<Ask> writers;                   // while it is dropping all
    std::deque<Ask> openers;                   // while it is sizing
  };
  using FilePtr = std::shared_ptr<File>;

  FilePtr get(InodeId id);
  void attach(File& file);
  void attached(const FilePtr& file, const wire::Attached& words);
  void attach_again(InodeId id);
  void say_again(File& file);
  void fail_waiting(File& file, int error);
  void tell_size_before_opens(File& file);
  void take(File& file, Ask ask);
  void take_page_write(File& file, Ask& ask);
  void take_direct(File& file, Ask& ask);
  void forgotten(const FilePtr& file);
  void step(File& file, const coherence::ClientEvent& event, const Bytes* tail = nullptr);
  void act(File& file, const coherence::client_action::Send& one, const Bytes* tail);
  void act(File& file, const coherence::client_action::Answer& one, const Bytes* tail);
  void act(File& file, const coherence::client_action::Notify& one, const Bytes* tail);
  void act(File& file, const coherence::client_action::CheckCached& one, const Bytes* tail);
  void act(File& file, const coherence::client_action::RefreshSize& one, const Bytes* tail);
  void act(File& file, const coherence::client_action::RetryFill& one, const Bytes* tail);
  void act(File& file, const coherence::client_action::RetryWrite& one, const Bytes* tail);
  void act(File& file, const coherence::client_action::Report& one, const Bytes* tail);
  void answer(coherence::Request request, int error, std::span<const std::byte> contents);
  void later(InodeId id, coherence::ClientEvent event);
  void watch();
  void give_up_old();
  void give_up(coherence::Request request, const Pending& pending);

  net::Engine& engine_;
  Kernel& kernel_;
  const coherence::Rules& rules_;
  const Send send_;
  const Reach reach_;
  const std::uint64_t mount_;
  const HomeOf home_of_;
  const std::shared_ptr<bool> is_ended_ = std::make_shared<bool>(false);
  std::unordered_map<InodeId, FilePtr> files_;
  std::unordered_set<NodeId> up_;
  std::map<coherence::Request, Pending> pending_;
  coherence::Request next_part_ = coherence::Request{1} << 63;
  bool is_watching_ = false;
  bool is_redropped_ = false;  // the drop that is being taken is one that is made again
  Counters counts_;
};

}  // namespace btd::coherent
