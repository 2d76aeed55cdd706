// LockTable: who has which bytes of a file locked, and who waits for that; as fcntl(2) and flock(2)
// say it for the processes of one kernel, here for the nodes of a cluster.
//
// A pure state machine: no threads, no clock, no sockets. Record locks (fcntl) have byte ranges,
// which one owner may upgrade, downgrade, split and merge; locks of whole files (flock) belong to
// an open file, and one that is converted is given up first, as flock(2) says. The two kinds don't
// see each other, as on Linux. What a release makes possible is granted at once, to those that wait
// in the order in which they came; so who unlocks and locks again comes after them.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "alloc/result.h"
#include "fs/namespace/inode.h"

namespace btd::remote {

inline constexpr std::uint64_t kLastByte = std::numeric_limits<std::int64_t>::max();

// All locks that one process of a node lets its programs have, named by a random number.
struct LockClient {
  NodeId node = 0;
  std::uint64_t number = 0;
  auto operator<=>(const LockClient&) const = default;
};

struct LockOwner {
  LockClient client;
  std::uint64_t number = 0;  // the kernel's name of the process or of the open file
  auto operator<=>(const LockOwner&) const = default;
};

enum class LockKind : std::uint8_t { kRecord, kFile };

struct Lock {
  LockOwner owner;
  std::uint64_t start = 0;
  std::uint64_t end = kLastByte;  // inclusive
  bool is_exclusive = false;
  std::uint32_t pid = 0;  // for who asks
  bool operator==(const Lock&) const = default;
};

class LockTable {
 public:
  // Of one client: more are ENOLCK.
  static constexpr std::size_t kMostLocks = 1 << 16;
  static constexpr std::size_t kMostWaits = 1 << 10;

  struct Request {
    InodeId id = 0;
    LockKind kind = LockKind::kRecord;
    Lock lock;
    std::uint64_t wait = 0;  // the client's number of its wait; 0: it does not wait
  };
  struct Wait {
    LockClient client;
    std::uint64_t number = 0;
    auto operator<=>(const Wait&) const = default;
  };

  // True: it is granted; false: it waits, and take_granted() tells the end of that. The same wait
  // said again goes on. Errors: EAGAIN it may not wait; EDEADLK others wait for its owner; ENOLCK;
  // EINVAL the range is none.
  Result<bool> lock(const Request& request);
  // Does nothing where there is no lock. Errors: EINVAL.
  Status unlock(InodeId id, LockKind kind, const LockOwner& owner, std::uint64_t start,
                std::uint64_t end);
  // All locks of both kinds that the owner has in the file.
  void release(InodeId id, const LockOwner& owner);
  // False: it does not wait (any more).
  bool cancel(const Wait& wait);
  // All that it has and waits for.
  void end(const LockClient& client);
  // What `from` has is `to`'s; its waits end.
  void inherit(const LockClient& from, const LockClient& to);

  // The first lock that keeps this one from being granted.
  [[nodiscard]] std::optional<Lock> conflict(InodeId id, LockKind kind, const Lock& lock) const;
  // The waits that were granted since the last time.
  [[nodiscard]] std::vector<Wait> take_granted() { return std::exchange(granted_, {}); }

  // In the order of their starts.
  [[nodiscard]] std::vector<Lock> held(InodeId id, LockKind kind) const;
  struct Held {
    InodeId id = 0;
    LockKind kind = LockKind::kRecord;
    Lock lock;
  };
  [[nodiscard]] std::vector<Held> held_by(const LockClient& client) const;
  [[nodiscard]] std::vector<Held> held_by(InodeId id, const LockOwner& owner) const;
  struct Counts {
    std::size_t locks = 0, waits = 0;
  };
  [[nodiscard]] Counts counts() const;
  // Somebody has a lock on the file, or waits for one.
  [[nodiscard]] bool is_used(InodeId id) const;

 private:
  using FileKey = std::pair<InodeId, LockKind>;
  struct File {
    std::vector<Lock> held;  // in the order of their starts
    std::deque<Wait> queue;
  };

  void set(File& file, const Lock* lock, const LockOwner& owner, std::uint64_t start,
           std::uint64_t end);
  void count(const LockClient& client, std::size_t before, std::size_t now);
  [[nodiscard]] std::size_t locks_of(const LockClient& client) const;
  [[nodiscard]] std::size_t waits_of(const LockClient& client) const;
  [[nodiscard]] bool would_deadlock(const Request& request) const;
  // Grants what can be granted now, and forgets the file if nothing is left.
  void settle(FileKey key);
  void remove_wait(const Wait& wait);

  std::map<FileKey, File> files_;
  std::map<Wait, Request> waits_;
  std::multimap<LockOwner, Wait> waits_of_owner_;
  std::map<LockClient, std::size_t> locks_;
  std::vector<Wait> granted_;
};

}  // namespace btd::remote
