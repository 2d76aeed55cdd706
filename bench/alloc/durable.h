// durable: workloads in which allocation and link are one failure-atomic step. The links lie in
// the pool.
//   publish-list   a list grown link by link and taken down again: P against "OID in pool"
//   publish32      32 objects reserved, filled and published at once, then freed 32 at once
//   publish32-link the same, with a link in the pool set for each
//   tx             a transaction of one link and one allocation, and one that undoes it
//   tx-content     the same, the object's 64 bytes being durable with it
//   linkedlist     nvm_malloc's: 100,000 nodes of 64 bytes, each linked, each with a payload
#pragma once
#include "bench/alloc/local.h"

namespace btd::bench {

// Ops of a list are its nodes; alloc and free are timed and counted each.
template <class A>
Outcome both(const Stopwatch<A>& alloc, const Stopwatch<A>& free) {
  const Outcome& a = alloc.total();
  const Outcome& f = free.total();
  Outcome out{.ops = a.ops, .seconds = a.seconds + f.seconds, .counted = a.counted, .more = {}};
  out.counted.lines += f.counted.lines;
  out.counted.fences += f.counted.fences;
  const auto per = [](std::uint64_t n, double ops) { return static_cast<double>(n) / ops; };
  out.more = {{"alloc_seconds", a.seconds},
              {"free_seconds", f.seconds},
              {"alloc_lines", per(a.counted.lines, a.ops)},
              {"alloc_fences", per(a.counted.fences, a.ops)},
              {"free_lines", per(f.counted.lines, f.ops)},
              {"free_fences", per(f.counted.fences, f.ops)}};
  return out;
}

// Repeats what allocates and what frees `ops` objects, once to warm up and then for the time given.
template <class A, class Allocate, class Release>
Outcome repeat(std::uint64_t ops, Allocate allocate, Release release) {
  allocate();
  release();
  Stopwatch<A> alloc;
  Stopwatch<A> free;
  const Deadline until(options.seconds);
  do {
    alloc.start();
    allocate();
    alloc.stop(ops);
    free.start();
    release();
    free.stop(ops);
  } while (!until.over());
  return both<A>(alloc, free);
}

template <class A>
struct Node {
  static constexpr std::size_t kBytes = 64;
  typename A::Slot next;
  typename A::Slot payload;
  std::uint64_t number;
  std::uint8_t rest[kBytes - sizeof(std::uint64_t) - 2 * sizeof(typename A::Slot)];
};

// Links a new object. Where slots lie in DRAM the link is a plain store: that is all such an
// allocator has.
template <class A>
void* link(typename A::Slot& at, std::size_t bytes) {
  void* p = nullptr;
  if constexpr (A::kSlotsInPool) {
    p = A::allocate(at, bytes);
  } else {
    typename A::Slot made{};
    p = A::allocate(made, bytes);
    at = made;
  }
  if (p == nullptr) fail("an allocation failed: " + A::why());
  return p;
}

template <class A>
void unlink(typename A::Slot& at) {
  if constexpr (A::kSlotsInPool) {
    A::release(at);
  } else {
    typename A::Slot made = at;
    at = {};
    A::release(made);
  }
}

template <class A>
class List {
 public:
  List(std::size_t nodes, std::size_t payload)
      : payload_(payload), head_(A::slots(1)), nodes_(nodes) {}

  void grow() {
    typename A::Slot* at = head_;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      auto* node = static_cast<Node<A>*>(link<A>(*at, Node<A>::kBytes));
      node->number = i;
      if (payload_ > 0) stamp(link<A>(node->payload, payload_), payload_);
      nodes_[i] = node;
      at = &node->next;
    }
  }
  void shrink() {
    for (std::size_t i = nodes_.size(); i > 0; --i) {
      Node<A>* node = nodes_[i - 1];
      auto& from = i > 1 ? nodes_[i - 2]->next : *head_;
      if (node->number != i - 1 || A::at(from) != node) fail("the list is not what was linked");
      if (payload_ > 0) {
        if (options.verify) check(A::at(node->payload));
        unlink<A>(node->payload);
      }
      unlink<A>(from);
    }
  }

 private:
  std::size_t payload_;
  typename A::Slot* head_;
  std::vector<Node<A>*> nodes_;
};

template <class A>
Outcome publish_list() {
  // Whole lanes of records: else what a checkpoint costs falls to links or to unlinks by the number
  // of rounds that the time allows.
  const std::size_t nodes = published(options.objects, std::size_t{20480});
  List<A> list(nodes, 0);
  return repeat<A>(nodes, [&] { list.grow(); }, [&] { list.shrink(); });
}

template <class A>
Outcome linkedlist() {
  const std::size_t nodes = published(options.objects, std::size_t{100000});
  List<A> list(nodes, published(options.bytes, std::size_t{64}));
  return repeat<A>(nodes, [&] { list.grow(); }, [&] { list.shrink(); });
}

template <class A>
Outcome publish32(bool links) {
  constexpr std::size_t kAtOnce = 32;
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  const std::size_t objects = published(options.objects, std::size_t{32000}) / kAtOnce * kAtOnce;
  std::vector<typename A::Slot> in_dram(objects);
  auto* slots = links ? A::slots(objects) : in_dram.data();
  return repeat<A>(
      objects,
      [&] {
        for (std::size_t i = 0; i < objects; i += kAtOnce) {
          A::template publish<kAtOnce>(slots + i, bytes, links);
        }
      },
      [&] {
        for (std::size_t i = 0; i < objects; i += kAtOnce) {
          for (std::size_t k = 0; options.verify && k < kAtOnce; ++k) check(A::at(slots[i + k]));
          A::template unpublish<kAtOnce>(slots + i, links);
        }
      });
}

template <class A>
Outcome tx(bool content) {
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  Slots<A> s(published(options.objects, std::size_t{5000}));
  std::vector<unsigned char> contents(bytes, 42);
  const void* from = content ? contents.data() : nullptr;
  return repeat<A>(
      s.count,
      [&] {
        for (std::size_t i = 0; i < s.count; ++i) A::tx_allocate(s.slots[i], bytes, from);
      },
      [&] {
        for (std::size_t i = 0; i < s.count; ++i) {
          if (content && std::memcmp(A::at(s.slots[i]), from, bytes) != 0) {
            fail("an object's contents are not what was committed");
          }
          A::tx_release(s.slots[i]);
        }
      });
}

}  // namespace btd::bench
