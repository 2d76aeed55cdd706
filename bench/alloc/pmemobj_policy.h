// pmemobj_policy: libpmemobj with the OID in DRAM (its allocations leak when the process dies
// before it stores the OID) or, with BTD_BENCH_IN_POOL, in the pool. OIDs become pointers by adding
// the pool's base, which is the cheapest way its users have. The pool is one file.
#pragma once
#include <dlfcn.h>
#include <fcntl.h>
#include <libpmemobj.h>
#include <unistd.h>

#include <array>

#include "bench/alloc/restart.h"
#include "bench/alloc/space.h"

namespace btd::bench {

class Policy {
 public:
  using Slot = PMEMoid;
  static constexpr bool kPersistent = true;
  static constexpr bool kManyProcesses = false;
#ifdef BTD_BENCH_IN_POOL
  static constexpr bool kSlotsInPool = true;
  static constexpr const char* kContract = "OID in pool";
#else
  static constexpr bool kSlotsInPool = false;
  static constexpr const char* kContract = "OID in DRAM";
#endif

  static void* allocate(Slot& slot, std::size_t bytes) {
    if (pmemobj_alloc(pool_, &slot, bytes, kType, nullptr, nullptr) != 0) return nullptr;
    return at(slot);
  }
  static void release(Slot& slot) { pmemobj_free(&slot); }
  static void* at(const Slot& slot) { return reinterpret_cast<char*>(pool_) + slot.off; }
  static Slot* slots(std::size_t n) {
    if constexpr (!kSlotsInPool) {
      auto* made = new Slot[n];
      std::fill(made, made + n, Slot{});
      return made;
    }
    Slot made{};
    if (pmemobj_zalloc(pool_, &made, n * sizeof(Slot), kTableType) != 0) fail(why());
    return static_cast<Slot*>(at(made));
  }

  static void open(bool create) {
    const std::string file = options.dir + "/pool";
    if (create) {
      const int fd = ::open(file.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
      if (fd < 0 || ftruncate(fd, static_cast<off_t>(pool_bytes())) != 0) {
        fail("no pool can be made in " + options.dir);
      }
      ::close(fd);
      pool_ = pmemobj_create(file.c_str(), kLayout, 0, 0600);
    } else {
      pool_ = pmemobj_open(file.c_str(), kLayout);
    }
    if (pool_ == nullptr) fail(why());
    if (options.needs_space) {
      int both = POBJ_STATS_ENABLED_BOTH;
      if (pmemobj_ctl_set(pool_, "stats.enabled", &both) != 0) fail(why());
    }
  }
  static void close() { pmemobj_close(pool_); }
  static const void* function() { return reinterpret_cast<const void*>(&pmemobj_alloc); }
  static std::string why() { return pmemobj_errormsg(); }
  // Known only when pmem_count is preloaded.
  static Counters counters() {
    using Ask = void(std::uint64_t*, std::uint64_t*);
    static auto* const ask = reinterpret_cast<Ask*>(dlsym(RTLD_DEFAULT, "bench_pmem_counters"));
    Counters c;
    if (ask != nullptr) ask(&c.lines, &c.fences);
    return c;
  }
  // Its file has all its blocks from the beginning; the heap knows what its runs and its large
  // objects take.
  static Space space() {
    std::uint64_t active = 0;
    std::uint64_t in_runs = 0;
    std::uint64_t all = 0;
    if (pmemobj_ctl_get(pool_, "stats.heap.run_active", &active) != 0 ||
        pmemobj_ctl_get(pool_, "stats.heap.run_allocated", &in_runs) != 0 ||
        pmemobj_ctl_get(pool_, "stats.heap.curr_allocated", &all) != 0) {
      fail(why());
    }
    const auto bytes = static_cast<double>(active + all - in_runs);
    return {.files = bytes, .mapped = bytes};
  }

  // ---- durable.h
  template <std::size_t N>
  static void publish(Slot* slots, std::size_t bytes, bool links) {
    std::array<pobj_action, 3 * N> actions;
    std::size_t n = 0;
    for (std::size_t i = 0; i < N; ++i) {
      const PMEMoid made = pmemobj_reserve(pool_, &actions[n++], bytes, kType);
      if (made.off == 0) fail(why());
      stamp(at(made), bytes);
      if (links) {
        pmemobj_set_value(pool_, &actions[n++], &slots[i].pool_uuid_lo, made.pool_uuid_lo);
        pmemobj_set_value(pool_, &actions[n++], &slots[i].off, made.off);
      } else {
        slots[i] = made;
      }
    }
    if (pmemobj_publish(pool_, actions.data(), n) != 0) fail(why());
  }
  template <std::size_t N>
  static void unpublish(Slot* slots, bool links) {
    std::array<pobj_action, 3 * N> actions;
    std::size_t n = 0;
    for (std::size_t i = 0; i < N; ++i) {
      pmemobj_defer_free(pool_, slots[i], &actions[n++]);
      if (links) {
        pmemobj_set_value(pool_, &actions[n++], &slots[i].pool_uuid_lo, 0);
        pmemobj_set_value(pool_, &actions[n++], &slots[i].off, 0);
      }
    }
    if (pmemobj_publish(pool_, actions.data(), n) != 0) fail(why());
  }

  // Without the setjmp of its macros, and without a flush of contents nobody asked for: as cheap as
  // a libpmemobj transaction can be had.
  static void tx_allocate(Slot& link, std::size_t bytes, const void* contents) {
    begin_tx();
    if (pmemobj_tx_add_range_direct(&link, sizeof link) != 0) fail(why());
    link = pmemobj_tx_xalloc(bytes, kType, contents == nullptr ? POBJ_XALLOC_NO_FLUSH : 0);
    if (link.off == 0) fail(why());
    if (contents != nullptr) std::memcpy(at(link), contents, bytes);
    end_tx();
  }
  static void tx_release(Slot& link) {
    begin_tx();
    if (pmemobj_tx_add_range_direct(&link, sizeof link) != 0 || pmemobj_tx_free(link) != 0) {
      fail(why());
    }
    link = OID_NULL;
    end_tx();
  }

  // ---- restart.h
  static void fill_live(std::size_t objects) {
    for (std::size_t i = 0; i < objects; ++i) {
      PMEMoid made;
      if (pmemobj_alloc(pool_, &made, 64, kLiveType, nullptr, nullptr) != 0) fail(why());
      stamp(at(made), 64);
    }
  }
  static std::size_t count_live() {
    std::size_t live = 0;
    for (PMEMoid o = pmemobj_first(pool_); o.off != 0; o = pmemobj_next(o)) {
      if (pmemobj_type_num(o) == kLiveType) ++live;
    }
    return live;
  }
  static void first_allocation() {
    PMEMoid made;
    if (pmemobj_alloc(pool_, &made, 64, kType, nullptr, nullptr) != 0) fail(why());
    stamp(at(made), 64);
  }
  static void wait_for_roots() { root(); }
  static Slot* named_slot(std::size_t i) { return root() + i; }

 private:
  static constexpr const char* kLayout = "bench";
  static constexpr std::uint64_t kType = 0;
  static constexpr std::uint64_t kTableType = 1;
  static constexpr std::uint64_t kLiveType = 2;
  static constexpr std::size_t kRoots = 64;

  // All of it is reserved at once, which takes time; so it is no larger than needed.
  static std::size_t pool_bytes() {
    constexpr std::size_t kMib = std::size_t{1} << 20;
    if (options.verify) return 192 * kMib;
    return options.many_objects ? 2560 * kMib : 512 * kMib;
  }
  static Slot* root() {
    const PMEMoid o = pmemobj_root(pool_, kRoots * sizeof(Slot));
    if (o.off == 0) fail(why());
    return static_cast<Slot*>(at(o));
  }
  static void begin_tx() {
    if (pmemobj_tx_begin(pool_, nullptr, TX_PARAM_NONE) != 0) fail(why());
  }
  static void end_tx() {
    pmemobj_tx_commit();
    if (pmemobj_tx_end() != 0) fail(why());
  }

  static inline PMEMobjpool* pool_ = nullptr;
};

}  // namespace btd::bench
