// RemoteFiles: the files whose home is another node, for the threads of this one (direct mode).
//
// Reads and writes of a file without holes move its bytes one-sided; all else, and what makes a
// file longer, is a call to its home. Calls block, until the deadline at most, and outlive a cut
// network, a home that starts anew, and a region that went: they are all safe to do again. The
// contract is close-to-open: who opens a file sees what was written before it was closed elsewhere.
// Thread-safety: any thread. No call may be under way when it is destroyed. Locks: files_mutex_,
// then a file's; none is held over a call.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "fs/namespace/inode.h"
#include "fs/remote/caller.h"
#include "fs/remote/callers.h"
#include "fs/remote/keeper.h"
#include "fs/remote/wire.h"

namespace btd::remote {

struct RemoteChange {
  std::optional<std::uint64_t> size;
  timespec atime{0, UTIME_OMIT};  // UTIME_NOW is home's clock
  timespec mtime{0, UTIME_OMIT};
};

// Where files lie. Where it is `own`, a file of another node has come here meanwhile.
struct Homes {
  HomeOf home_of = node_of;
  std::optional<NodeId> own;
};

struct RemoteLimits {
  std::uint64_t transfer_bytes = 1 << 20;  // of one of several transfers at once
  // Of a call; what the engines' message_bytes has room for.
  std::uint64_t call_bytes = wire::kMostCallBytes;
};

class RemoteFiles final : private Keeper::Owner {
 public:
  // `engines`: makes the engine of a thread, each with this node's id and security, on which
  // nobody listens. `deadline`: of each call below.
  RemoteFiles(EngineFactory engines, Locate locate, net::Time deadline, RemoteLimits limits = {},
              Homes homes = {});
  RemoteFiles(const RemoteFiles&) = delete;
  RemoteFiles& operator=(const RemoteFiles&) = delete;
  ~RemoteFiles() override;

  // Errors of all: what the home's file system said; EHOSTUNREACH, ETIMEDOUT a sentence that names
  // the node; EIO this node's engine broke; EBADF it is not open; ESTALE it is to be looked up
  // again: it lies here now, or was moved while home took this node for dead.

  // Counts. Errors: ESTALE the data are gone; ENOSPC its holes could not be filled for writing.
  Status open(InodeId id, bool writable);
  // The last one detaches, as well as that can be done in a short time.
  void close(InodeId id);
  // A program has a lock on the file now, if it is open: what was learned before of where it ends
  // counts no more.
  void locked(InodeId id);
  // Fewer bytes at the end of the file only.
  Result<std::size_t> read(InodeId id, std::uint64_t offset, std::span<std::byte> into);
  // Makes the file longer if need be; durable when it returns. After an error any part may be
  // there.
  Status write(InodeId id, std::uint64_t offset, std::span<const std::byte> from);

  // To the end, whatever that is by then, as O_APPEND has it: those of all nodes are there, each in
  // parts of call_bytes that nothing parts. Durable when it returns.
  struct AppendTag {  // that keeps its number when it is sent again, and is one of its slot at a
                      // time
    std::uint64_t session = 0, unique = 0;
    std::uint32_t slot = 0;
    bool is_resent = false;
  };
  Status append(InodeId id, const AppendTag& tag, std::span<const std::byte> from);

  // These need not be open. attributes(): where a home let a call fail at its deadline, and has
  // answered none since, it is waited for a moment only, so that a listing of its files ends. What
  // stat has of the backing file; the rest is the namespace's.
  Result<struct stat> attributes(InodeId id);
  Result<struct stat> change(InodeId id, const RemoteChange& change);
  Status allocate(InodeId id, int mode, std::uint64_t offset, std::uint64_t length);
  // If this node wrote since the last one: home sets the time of it, and all is durable.
  Status flush(InodeId id);
  Result<std::uint64_t> seek(InodeId id, std::uint64_t offset, int whence);

  // Moving a file that is open by nothing but this object (fs/cluster/move.h). Errors: ETXTBSY
  // somebody uses it; ECONNABORTED somebody used it meanwhile; those of cluster::commit_move().
  Status reserve(InodeId id, std::uint64_t number);
  Status yield(InodeId id, std::uint64_t number, NodeId to);

  // Bytes that are available in the pool of that node.
  Result<std::uint64_t> room_at(NodeId node);

  void set_epoch(net::Epoch epoch) { callers_.set_epoch(epoch); }

  struct Counters {
    std::uint64_t calls = 0;     // messages sent, repeated ones too
    std::uint64_t reads = 0;     // one-sided, of at most transfer_bytes each
    std::uint64_t writes = 0;    // the same
    std::uint64_t attaches = 0;  // of calls
    std::uint64_t retries = 0;   // attempts that had to be made again
    std::uint64_t open = 0;      // files, now
  };
  [[nodiscard]] Counters counters() const;
  // What threads wait for just now.
  [[nodiscard]] std::vector<Caller::Wait> waits() const { return callers_.waits(); }

 private:
  struct Attachment;
  struct File;
  struct View;
  struct Part;
  using FilePtr = std::shared_ptr<File>;
  // One attempt of something; what passes is tried again until the deadline.
  using Attempt = std::function<Status(Caller& caller, net::Time deadline)>;

  void note_answer(NodeId home, bool is_answer);
  [[nodiscard]] bool is_suspect(NodeId home) const;
  Status persist(NodeId home, net::Time patience, const Attempt& attempt);
  Status persist(File& file, const Attempt& attempt);
  // Repeats `ask(home)` while the home that this node knows of says that it is not that of the
  // file.
  Status follow(InodeId id, net::Time patience, const std::function<Status(NodeId)>& ask);
  Error unreached(const Caller& caller, NodeId home, const Error& last) const;
  template <class Request, class Response>
  Result<Response> ask(const net::Method<Request, Response>& method, const Request& request,
                       net::Time patience);
  template <class Request, class Response>
  Result<Response> ask(const net::Method<Request, Response>& method, const Request& request) {
    return ask(method, request, deadline_);
  }
  template <class Request, class Response>
  Result<Response> ask_once(Caller& caller, NodeId home, Caller::Lane lane, net::Time deadline,
                            const net::Method<Request, Response>& method, const Request& request);

  std::vector<wire::AttachRequest> open_files(NodeId home) override;
  bool is_open(const wire::AttachRequest& said) override;
  FilePtr find(InodeId id) const;
  Result<FilePtr> find_open(InodeId id) const;
  Status attach(File& file, Caller& caller, Caller::Lane lane, net::Time deadline, bool is_opening);
  void go_to(File& file, NodeId home);
  bool end_open(const FilePtr& file);

  Result<std::size_t> read_once(File& file, Caller& caller, net::Time deadline,
                                std::uint64_t offset, std::span<std::byte> into);
  Status write_once(File& file, Caller& caller, net::Time deadline, std::uint64_t offset,
                    std::span<const std::byte> from);
  Status transfer(File& file, const std::shared_ptr<const Attachment>& attachment, Caller& caller,
                  net::Time deadline, net::Verb verb, std::uint64_t offset,
                  std::span<std::byte> memory);
  Result<std::size_t> read_by_call(File& file, Caller& caller, net::Time deadline,
                                   std::uint64_t offset, std::span<std::byte> into);
  Status append_once(File& file, Caller& caller, net::Time deadline,
                     const wire::AppendRequest& request, std::span<const std::byte> from);
  Status write_by_call(File& file, Caller& caller, net::Time deadline, std::uint64_t offset,
                       std::span<const std::byte> from);
  Status ask_parts(InodeId id, std::uint64_t offset, std::span<Part> parts, Caller::Calls& calls);
  Status send_parts(InodeId id, std::uint64_t offset, std::span<const std::byte> from, bool is_last,
                    std::uint64_t& size, Caller::Calls& calls);

  const net::Time deadline_;
  const RemoteLimits limits_;
  const Homes homes_;
  const std::uint64_t client_;  // a random number: homes know this object's holds by it
  mutable std::mutex files_mutex_;
  std::unordered_map<InodeId, FilePtr> files_;
  std::atomic<std::uint64_t> next_generation_{1};
  mutable std::mutex suspects_mutex_;
  std::set<NodeId>
      suspects_;  // homes that let a call fail at its deadline, and answered none since
  std::atomic<bool> has_suspects_{false};
  struct {
    std::atomic<std::uint64_t> calls{0}, reads{0}, writes{0}, attaches{0}, retries{0};
  } counts_;
  Callers callers_;
  Keeper keeper_;  // last: its thread asks for the files
};

}  // namespace btd::remote
