// Holders: which peer has which file open, so that its data stay, and for how long that counts.
//
// A client is one RemoteFiles of a node; its holds end by themselves when the last connection by
// which it named itself is closed. A hold is counted once, however often it is said.
// Thread-safety: any thread; holds no lock while others are called.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "alloc/result.h"
#include "fs/namespace/inode.h"
#include "net/engine.h"

namespace btd::remote {

class Holders {
 public:
  static constexpr std::size_t kMostFiles = 1 << 16;  // of one client

  struct Hold {
    InodeId id = 0;
    bool is_writable = false;
  };

  // Binds the connection. Errors: EINVAL it is another client's.
  Status greet(const net::Endpoint& endpoint, std::uint64_t client);
  // The connection is closed: what its client held if it was the last one.
  std::vector<Hold> closed(const net::Endpoint& endpoint);

  using Client = std::pair<net::NodeId, std::uint64_t>;
  // True: it is new, and the caller holds the data for it. Errors: ENFILE; ECONNRESET the client
  // has no connection any more.
  Result<bool> add(Client client, std::uint64_t generation, Hold hold);
  // True: the caller ends the hold.
  bool remove(Client client, std::uint64_t generation, InodeId id);
  // All that is held, for the end.
  std::vector<Hold> take_all();

  [[nodiscard]] std::size_t holds() const;
  [[nodiscard]] bool is_held(InodeId id) const;
  // The nodes of all clients that hold it but this one.
  [[nodiscard]] std::vector<NodeId> others(InodeId id, Client client) const;

 private:
  struct Held {
    std::uint64_t generation = 0;
    bool is_writable = false;
  };
  struct Files {
    std::size_t connections = 0;
    std::unordered_map<InodeId, Held> held;
  };
  std::vector<Hold> take_locked(std::map<Client, Files>::iterator client);

  mutable std::mutex mutex_;
  std::unordered_map<const net::Endpoint*, Client> connections_;
  std::map<Client, Files> clients_;
  std::unordered_map<InodeId, std::size_t> counts_;  // clients that hold it
};

}  // namespace btd::remote
