// The words of the coherence protocol, and its limits.
//
// One allocation is mapped on several nodes through their kernels' page caches. Its home keeps a
// directory: which node may have which page, to read (S) or to write (M). Everything here is a pure
// state machine: given events and times, it changes its state and returns actions and reasons. No
// FUSE, no socket, no thread, no clock; page contents stay with the caller.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include "net/types.h"

namespace btd::coherence {

using net::Time;

inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::size_t kMaxNodes = 64;

using Page = std::uint64_t;     // index in the allocation
using Version = std::uint64_t;  // numbers a recall or a change of size, at home; 0: none
using Notice = std::uint64_t;   // numbers an invalidation of the kernel's cache, at a client
using Request = std::uint64_t;  // names what a kernel waits for; a client's own

// A node's place in the allocation's table of users: small, so that a set of them is a word.
using NodeSlot = std::uint8_t;

class NodeSet {
 public:
  constexpr NodeSet() = default;
  static constexpr NodeSet of(NodeSlot node) { return NodeSet{std::uint64_t{1} << node}; }

  [[nodiscard]] constexpr bool has(NodeSlot node) const { return (bits_ >> node & 1) != 0; }
  [[nodiscard]] constexpr bool empty() const { return bits_ == 0; }
  [[nodiscard]] constexpr std::uint64_t bits() const { return bits_; }
  [[nodiscard]] constexpr NodeSet with(NodeSlot node) const {
    return NodeSet{bits_ | of(node).bits_};
  }
  [[nodiscard]] constexpr NodeSet with(NodeSet others) const {
    return NodeSet{bits_ | others.bits_};
  }
  [[nodiscard]] constexpr NodeSet without(NodeSlot node) const {
    return NodeSet{bits_ & ~of(node).bits_};
  }
  [[nodiscard]] constexpr NodeSet without(NodeSet others) const {
    return NodeSet{bits_ & ~others.bits_};
  }
  // Calls `visit(NodeSlot)`, lowest first.
  template <class Visit>
  constexpr void for_each(Visit visit) const {
    for (std::uint64_t rest = bits_; rest != 0; rest &= rest - 1)
      visit(static_cast<NodeSlot>(std::countr_zero(rest)));
  }
  friend constexpr bool operator==(NodeSet, NodeSet) = default;

 private:
  constexpr explicit NodeSet(std::uint64_t bits) : bits_(bits) {}
  std::uint64_t bits_ = 0;
};

// What a node may do with a page, and what it asks for.
enum class Rights : std::uint8_t { kNone = 0, kShared = 1, kOwned = 2 };

struct PageRange {
  Page first = 0;
  std::uint64_t count = 1;

  [[nodiscard]] constexpr Page end() const {
    const Page none = std::numeric_limits<Page>::max();
    return count > none - first ? none : first + count;
  }
  [[nodiscard]] constexpr bool has(Page page) const { return page >= first && page < end(); }
  [[nodiscard]] constexpr bool overlaps(const PageRange& other) const {
    return first < other.end() && other.first < end();
  }
  friend constexpr bool operator==(const PageRange&, const PageRange&) = default;
};

constexpr std::uint64_t pages_of(std::uint64_t bytes) {
  return bytes / kPageBytes + (bytes % kPageBytes != 0 ? 1 : 0);
}

struct HomeLimits {
  // A page is not recalled before it has been with its holder that long: without it, two nodes that
  // store to one page get a page each for a few instructions only.
  Time residency = std::chrono::microseconds(200);
  // Pages of an ownership that is granted at once: 4 KiB, 64 KiB, 2 MiB.
  std::array<std::uint32_t, 3> units{1, 16, 512};
  // A unit that was contended is granted by single pages that long.
  Time calm = std::chrono::milliseconds(100);
  std::uint32_t transactions = 4096;  // queued and running; more are EBUSY
};

// Rules of the protocol that the model checker switches off one by one, to see that each is needed.
// Nothing else does.
struct Rules {
  // Of a client.
  bool ack_while_fill_pending = true;
  bool read_proves_drop = true;
  bool verify_drop = true;
  bool match_notice = true;
  bool purge_at_first_writer = true;
  bool refuse_weak_grant = true;
  bool hold_launder = true;
  // Of a home.
  bool await_acks = true;
  bool remember_all_sharers = true;
  bool recall_direct_writer = true;
  bool recall_before_direct_read = true;
  bool report_lost = true;
  bool await_size_acks = true;
};

}  // namespace btd::coherence
