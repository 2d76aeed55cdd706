// Has files moved: asks the nodes that they are to come to, several at once, shows how far it is,
// and tells what became of each. One thread.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "alloc/result.h"
#include "fs/cluster/health.h"
#include "fs/cluster/members.h"
#include "net/tcp/tcp.h"
#include "net/types.h"

namespace btd::cli {

struct FileMove {
  InodeId id = 0;
  NodeId to = 0;
};

struct MoveFailure {
  InodeId id = 0;
  Error error;
};

struct Moved {
  std::uint64_t files = 0, bytes = 0;
  std::vector<MoveFailure> failures;
};

class Bringing {
 public:
  // Who is to get a file of those given; asked when it is its turn. Those that refused it have no
  // room for it, or get no files. Errors: none has room.
  using Refused = std::set<NodeId>;
  using Choose = std::function<Result<NodeId>(InodeId, const Refused& refused)>;
  // A file came to a node, whose pool has so much room now.
  using Came = std::function<void(NodeId, const cluster::BringResponse&)>;

  Bringing(const net::Security& security, net::Epoch epoch,
           const std::vector<cluster::Member>& members)
      : security_(security), epoch_(epoch), members_(members) {}

  // Errors: those of the engine. What can't be moved is a failure of its own.
  Result<Moved> run(
      const std::vector<InodeId>& ids, const Choose& choose,
      const Came& came = [](NodeId, const cluster::BringResponse&) {});

 private:
  const net::Security& security_;
  const net::Epoch epoch_;
  const std::vector<cluster::Member>& members_;
};

// "3 files, 12 MiB": for people.
std::string summary_of(const Moved& moved);

}  // namespace btd::cli
