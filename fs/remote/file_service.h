// FileService: serves this node's files to other nodes (direct mode), by calls and one-sided.
//
// The engine's thread takes calls and sends answers; what may block runs on a few threads of its
// own. What each call does to a file: file_calls; what is mapped and registered: region_cache; who
// has what open: holders. Only files whose home is this node are served, and only to callers of the
// engine's epoch.
// Ownership: engine, rpc and files outlive this. It is made and destroyed on the engine's thread,
// or while nobody polls the engine; its destructor polls it. Then calls are answered ECANCELED.
#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "fs/remote/engine_thread.h"
#include "fs/remote/file_calls.h"
#include "fs/remote/holders.h"
#include "fs/remote/home_files.h"
#include "fs/remote/lock_service.h"
#include "fs/remote/region_cache.h"
#include "fs/remote/wire.h"
#include "fs/remote/workers.h"
#include "net/rpc.h"

namespace btd::remote {

struct FileServiceOptions {
  NodeId own = 0;
  HomeOf home_of = node_of;
  unsigned threads = 4;
  std::size_t waiting = 1024;  // calls that wait for a thread; more are EBUSY at the peer
  RegionLimits regions;
  net::Time lock_grace{};                 // lock_service.h; 0: no earlier service had locks
  NameRevision names = [] { return 0; };  // likewise
};

class FileService {
 public:
  FileService(net::Engine& engine, net::Rpc& rpc, HomeFiles& files, FileServiceOptions options);
  FileService(const FileService&) = delete;
  FileService& operator=(const FileService&) = delete;
  ~FileService();

  // The owner's handler tells of each endpoint of the Rpc: on_closed().
  void closed(const net::Endpoint& endpoint);

  // No peer reaches the file one-sided as long as the result lives, so it may be made shorter, or
  // have holes punched. From any thread but the engine's; waits for the engine and for peers'
  // transfers. The result must end before the service. Errors: ETIMEDOUT, EBUSY.
  using Unmapped = RegionCache::Unmapped;
  Result<Unmapped> before_shrink(InodeId id) { return regions_.unmap(id); }

  // The data of the file are gone; its region goes soon. From any thread.
  void data_gone(InodeId id) { regions_.gone(id); }

  // A peer has it open. From any thread.
  [[nodiscard]] bool is_held(InodeId id) const { return holders_.is_held(id); }

  // Of files that lie here. It lives as long as the service.
  [[nodiscard]] LockService& locks() { return locks_; }

  struct Counters {
    std::uint64_t calls = 0, refused = 0;
    std::uint64_t holds = 0;                  // now
    std::uint64_t mapped = 0;                 // files, now
    std::uint64_t broken = 0;                 // regions that went because of a fault
    std::uint64_t locks = 0, lock_waits = 0;  // now, of all nodes
  };
  [[nodiscard]] Counters counters() const;

 private:
  // Of an answer that is owed: its place in owed_.
  using Ticket = std::uint64_t;
  template <class Request, class Response>
  using Answered =
      std::function<Result<Response>(NodeId peer, const Request&, std::span<const std::byte> tail,
                                     std::vector<std::byte>& answer_tail)>;
  template <class Request, class Response>
  void serve(const net::Method<Request, Response>& method, bool has_tail,
             Answered<Request, Response> run);
  template <class Request, class Response>
  void refuse(const net::Method<Request, Response>& method);
  Ticket owe(net::Rpc::Reply reply);
  // Has `run` called on a thread that may block, in time; it answers.
  void begin(const net::Rpc::Caller& caller, net::Rpc::Reply reply,
             std::function<void(Ticket)> run);
  // From any thread.
  template <class Response>
  void answer(Ticket ticket, Result<Response> result, std::vector<std::byte> tail = {});
  void fail_call(net::Rpc::Reply reply, const Error& error);
  Status judge(const net::Rpc::Caller& caller, InodeId id) const;
  void serve_holds();
  void serve_attach();
  void serve_detach();
  void serve_files();
  void serve_moves();
  [[nodiscard]] Status judge_alone(NodeId peer, const wire::MoveRequest& request) const;
  Result<wire::AttachResponse> attach(const Holders::Client& client,
                                      const wire::AttachRequest& request);
  void end_hold(const Holders::Hold& hold);
  void refuse_all();

  net::Engine& engine_;
  net::Rpc& rpc_;
  HomeFiles& files_;
  EngineThread thread_;
  RegionCache regions_;
  FileCalls calls_;
  Holders holders_;
  LockService locks_;
  // The engine's thread only. Not in tasks of the engine: they may end after the Rpc.
  std::unordered_map<Ticket, net::Rpc::Reply> owed_;
  Ticket next_ticket_ = 1;
  std::atomic<std::uint64_t> served_{0}, refused_{0};
  Workers workers_;  // last: its threads use the others
};

}  // namespace btd::remote
