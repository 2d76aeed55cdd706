// Homes: the coherent files whose home is this node: a directory (coherence::Home) for each, and
// what its actions do: contents are read from and stored into the backing file.
//
// A user is one node's mount. It comes by Attach and goes by Detach; a lost connection ends
// nothing, since its kernel loads and stores on: it attaches again, and is told again what was
// recalled. It is fenced when the cluster says that the mount is gone, or that there is a later
// one, or when that attaches.
// What may block runs on a thread of `workers`. The engine's thread only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "alloc/unique_fd.h"
#include "fs/coherence/home.h"
#include "fs/coherent/message.h"
#include "fs/remote/home_files.h"
#include "fs/remote/workers.h"
#include "net/engine.h"

namespace btd::coherent {

class Homes {
 public:
  // Delivers to the node, if it is reached now.
  using Send = std::function<void(NodeId, const ClientMessage&)>;
  using Post = std::function<void(std::function<void()>)>;  // to the engine's thread, from any

  // `former`: nodes that used files of the worker that this one replaced. No page is granted
  // before they said what they hold, or `grace` has passed.
  Homes(net::Engine& engine, remote::HomeFiles& files, remote::Workers& workers, Send send,
        Post post, NodeId own, HomeOf home_of, const std::vector<NodeId>& former, net::Time grace);
  Homes(const Homes&) = delete;
  Homes& operator=(const Homes&) = delete;
  ~Homes();

  void arrived(NodeId node, HomeMessage message);
  // The node said what it holds of every file.
  void told(NodeId node);
  // The cluster says that its mount of that number ended, and that nothing runs on that used it.
  void gone(NodeId node, std::uint64_t mount);
  // The same of all mounts before that one.
  void mounted(NodeId node, std::uint64_t mount);

  struct Counters {
    std::uint64_t files = 0, users = 0, pages = 0;  // now
    std::uint64_t grants = 0, recalls = 0, write_backs = 0, reads = 0, writes = 0, resizes = 0;
    std::uint64_t refused = 0, lost = 0;
    std::uint64_t waiting = 0;      // transactions, now
    std::vector<NodeId> waits_for;  // nodes whose acknowledgements are missing, now
  };
  [[nodiscard]] Counters counters() const;

 private:
  struct User {
    NodeId node = 0;
    std::uint64_t mount = 0;
  };
  struct Direct {
    std::uint64_t offset = 0, length = 0;
    Bytes tail;
  };
  struct File {
    explicit File(std::uint64_t bytes, UniqueFd descriptor);
    UniqueFd fd;
    coherence::Home home;
    std::map<coherence::NodeSlot, User> users;
    std::map<std::pair<coherence::NodeSlot, coherence::Request>, Direct> directs;
  };
  using FilePtr = std::shared_ptr<File>;

  struct Arrival {
    NodeId node = 0;
    wire::Attach words;
    Bytes reports;
    bool is_early = false;  // what it holds, an earlier worker granted
  };

  [[nodiscard]] static std::optional<coherence::NodeSlot> slot_of(const File& file, NodeId node);
  void attach(InodeId id, Arrival arrival);
  void open(InodeId id, Arrival arrival);
  void opened(InodeId id, const Arrival& arrival, Result<UniqueFd>& fd);
  void enter(InodeId id, File& file, const Arrival& arrival);
  void leave(InodeId id, coherence::NodeSlot slot, bool is_fenced);
  void fence_up_to(NodeId node, std::uint64_t mount);
  void close_unused(InodeId id);
  void resume(InodeId id, File& file, coherence::NodeSlot slot);
  void take_reports(File& file, coherence::NodeSlot slot, const Bytes& reports);
  void answer_attached(InodeId id, const File& file, NodeId node);
  void open_for_business();
  void suppose_rest(InodeId id, const std::vector<Arrival>& arrivals);
  static void suppose(File& file, coherence::NodeSlot slot);
  void refuse(InodeId id, NodeId node, const Error& error);

  void step(InodeId id, File& file, const coherence::HomeEvent& event);
  void act(InodeId id, File& file, const coherence::home_action::Send& action);
  void act(InodeId id, File& file, const coherence::home_action::StoreBack& action);
  void act(InodeId id, File& file, const coherence::home_action::Apply& action);
  void act(InodeId id, File& file, const coherence::home_action::SetTimer& action);
  void act(InodeId id, File& file, const coherence::home_action::Report& action);
  void sync(InodeId id, const FilePtr& file, NodeId node, const wire::Sync& words);
  void say(InodeId id, NodeId node, const ToClient& words, Bytes tail = {});

  net::Engine& engine_;
  remote::HomeFiles& files_;
  remote::Workers& workers_;
  const Send send_;
  const Post post_;
  const NodeId own_;
  const HomeOf home_of_;
  const std::shared_ptr<bool> is_ended_ = std::make_shared<bool>(false);
  std::unordered_map<InodeId, FilePtr> open_;
  std::unordered_map<InodeId, std::vector<Arrival>> opening_;  // that wait for the backing file
  std::unordered_map<NodeId, std::uint64_t> ended_;            // mounts up to that number
  std::unordered_set<NodeId> expected_;                        // former users that said nothing yet
  bool is_recovering_ = false;
  std::vector<std::pair<InodeId, Arrival>> early_;  // while it is recovering
  // The bytes of the write-back that is being taken.
  const Bytes* tail_ = nullptr;
  Counters counts_;
};

}  // namespace btd::coherent
