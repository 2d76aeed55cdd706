// Keeper: one connection to each home of which this node has files open, that somebody always
// attends to, so that home knows this node to be there while none of its threads calls. A home that
// comes back is told what is open: it may have forgotten.
//
// Its thread sleeps unless a connection changes. It begins with the first file.
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "fs/remote/caller.h"
#include "fs/remote/wire.h"

namespace btd::remote {

class Keeper final : public net::Handler {
 public:
  // Who has the files open; asked on the keeper's thread.
  class Owner {
   public:
    virtual ~Owner() = default;
    // What to say to a home of those that are its own.
    virtual std::vector<wire::AttachRequest> open_files(NodeId home) = 0;
    virtual bool is_open(const wire::AttachRequest& said) = 0;
  };
  // `client`: the number by which homes know this node's files.
  Keeper(EngineFactory engines, Locate locate, std::uint64_t client, Owner& owner);
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  ~Keeper() override;

  // Counts the open files of a home.
  void opened(NodeId home);
  void closed(NodeId home);

  void on_completion(net::Endpoint&, const net::Completion&) override {}
  void on_up(net::Endpoint& endpoint) override;
  void on_forgotten(net::Endpoint& endpoint) override;
  void on_closed(net::Endpoint& endpoint, const Error& why) override;

 private:
  struct Kept {
    net::Endpoint* endpoint = nullptr;
    net::Time retry{};
    net::Time backoff{};
    std::vector<wire::AttachRequest> to_hold;  // told one after the other
    // Until home has answered that it holds it, or that it does so no more if it was closed
    // meanwhile: home may be told of the close first.
    std::optional<wire::AttachRequest> told;
    bool is_asked = false;  // home owes the answer
    net::Time tell_again{};
  };

  void start_locked();
  void run();
  [[nodiscard]] bool is_wanted(NodeId home);
  // Connects and closes as wanted; when to look again.
  net::Time attend();
  void connect(NodeId home, Kept& kept, net::Time now);
  void tell_next(NodeId home);
  void answered(NodeId home, bool is_hold, const Error* error);

  const EngineFactory engines_;
  const Locate locate_;
  const std::uint64_t client_;
  Owner& owner_;

  std::mutex mutex_;  // of the next lines
  std::map<NodeId, std::size_t> files_;
  std::unique_ptr<net::Engine> engine_;  // used by the thread alone, but for wake()
  bool is_stopping_ = false;

  // The thread's.
  std::optional<net::Rpc> rpc_;
  std::map<NodeId, Kept> kept_;
  std::thread thread_;
};

}  // namespace btd::remote
