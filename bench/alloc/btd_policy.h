// btd_policy: libbtd. Contract R: btd_malloc and btd_free, handles in DRAM; with BTD_BENCH_IN_POOL
// contract P: btd_malloc_to and btd_free_from, links in blocks of the heap.
#pragma once
#include <array>
#include <bit>
#include <cstdint>

#include "bench/alloc/restart.h"
#include "bench/alloc/space.h"
#include "libbtd/include/bartender.h"

namespace btd::bench {

class Policy {
 public:
  using Slot = void*;
  static constexpr bool kPersistent = true;
  static constexpr bool kManyProcesses = true;  // can have one pool open
#ifdef BTD_BENCH_IN_POOL
  static constexpr bool kSlotsInPool = true;
  static constexpr const char* kContract = "P";
#else
  static constexpr bool kSlotsInPool = false;
  static constexpr const char* kContract = "R";
#endif

  static void* allocate(Slot& slot, std::size_t bytes) {
    if constexpr (kSlotsInPool) return btd_malloc_to(&slot, bytes);
    return slot = btd_malloc(heap, bytes);
  }
  static void release(Slot& slot) {
    if constexpr (kSlotsInPool) {
      if (btd_free_from(&slot) != 0) fail(why());
    } else {
      btd_free(slot);
    }
  }
  static void* at(const Slot& slot) { return slot; }
  static Slot* slots(std::size_t n) {
    if constexpr (!kSlotsInPool) {
      auto* made = new Slot[n];
      std::fill(made, made + n, nullptr);
      return made;
    }
    auto* made = static_cast<Slot*>(btd_calloc(heap, n, sizeof(Slot)));
    if (made == nullptr) fail(why());
    return made;
  }

  static void open(bool create) {
    btd_config config;
    btd_config_init(&config);
    config.directory = options.dir.c_str();
    config.heap = "bench";
    config.create = create ? 1 : 0;
    config.gc = options.workload == "gc" ? BTD_GC_MANUAL : BTD_GC_AUTO;
    config.gc_threads = options.gc_threads;
    heap = btd_cluster_create(&config);
    if (heap == nullptr) fail(why());
  }
  static void close() {
    if (btd_cluster_destroy(heap) != 0) fail(why());
  }
  static const void* function() { return reinterpret_cast<const void*>(&btd_malloc); }
  static std::string why() { return btd_strerror(); }
  static Counters counters() {
    const btd_statistics s = stats();
    return {.lines = s.lines, .fences = s.fences};
  }
  // Arenas are sparse files: segments that are wholly free take addresses but no memory, and files
  // tell what has been reserved ahead.
  static Space space() {
    const btd_statistics s = stats();
    return {.files = bytes_of_files(options.dir),
            .mapped = static_cast<double>(s.mapped_bytes - s.free_bytes)};
  }

  // ---- durable.h
  template <std::size_t N>
  static void publish(Slot* slots, std::size_t bytes, bool links) {
    std::array<btd_action, 2 * N> actions;
    std::size_t n = 0;
    for (std::size_t i = 0; i < N; ++i) {
      void* made = btd_reserve(heap, bytes);
      if (made == nullptr) fail(why());
      stamp(made, bytes);
      actions[n++] = {.kind = BTD_ACTION_ALLOCATE, .at = made, .value = 0};
      if (links) {
        actions[n++] = {.kind = BTD_ACTION_SET, .at = &slots[i], .value = word(made)};
      } else {
        slots[i] = made;
      }
    }
    if (btd_publish(heap, actions.data(), n) != 0) fail(why());
  }
  template <std::size_t N>
  static void unpublish(Slot* slots, bool links) {
    std::array<btd_action, 2 * N> actions;
    std::size_t n = 0;
    for (std::size_t i = 0; i < N; ++i) {
      actions[n++] = {.kind = BTD_ACTION_FREE, .at = slots[i], .value = 0};
      if (links) actions[n++] = {.kind = BTD_ACTION_SET, .at = &slots[i], .value = 0};
    }
    if (btd_publish(heap, actions.data(), n) != 0) fail(why());
  }
  static void tx_allocate(Slot& link, std::size_t bytes, const void* contents) {
    if (btd_tx_begin(heap) != 0) fail(why());
    void* made = btd_tx_alloc(bytes);
    if (made == nullptr || btd_tx_set(&link, &made, sizeof made) != 0) fail(why());
    if (contents != nullptr && btd_tx_set(made, contents, bytes) != 0) fail(why());
    if (btd_tx_commit() != 0) fail(why());
  }
  static void tx_release(Slot& link) {
    constexpr void* kNone = nullptr;
    if (btd_tx_begin(heap) != 0 || btd_tx_free(link) != 0 ||
        btd_tx_set(&link, &kNone, sizeof kNone) != 0 || btd_tx_commit() != 0) {
      fail(why());
    }
  }

  // ---- restart.h
  struct Object {  // 64 bytes, two of its words are pointers
    Object* child[2];
    std::uint64_t number;
    std::uint64_t rest[5];
  };

  // `objects` linked as --shape says, and one of eight as many that nothing reaches.
  static void fill_live(std::size_t objects) {
    constexpr unsigned kType = 2;
    constexpr std::uint64_t kPointers = 3;
    const bool typed = options.shape == "typed";
    if (typed && btd_register_type(heap, kType, sizeof(Object), &kPointers) != 0) fail(why());
    std::vector<Object*> all(objects);
    const auto make_object = [&] {
      void* made =
          typed ? btd_malloc_typed(heap, sizeof(Object), kType) : btd_malloc(heap, sizeof(Object));
      if (made == nullptr) fail(why());
      std::memset(made, 0, sizeof(Object));
      return static_cast<Object*>(made);
    };
    for (std::size_t i = 0; i < objects; ++i) {
      all[i] = make_object();
      if (i % kGarbageOf == 0) make_object();
    }
    if (options.shape == "scattered") {
      Random random(1);
      for (std::size_t i = objects - 1; i > 0; --i) std::swap(all[i], all[random.below(i + 1)]);
    }
    connect(all);
    if (btd_set_root(heap, kLive, all[0]) != 0) fail(why());
  }
  static std::size_t count_live() {
    std::vector<const Object*> stack{static_cast<Object*>(btd_root(heap, kLive))};
    std::size_t live = 0;
    std::uint64_t sum = 0;
    while (!stack.empty()) {
      const Object* o = stack.back();
      stack.pop_back();
      if (o == nullptr) continue;
      ++live;
      sum += o->number;
      stack.push_back(o->child[0]);
      stack.push_back(o->child[1]);
    }
    if (live > 0 && sum != live * (live - 1) / 2) fail("live objects hold wrong numbers");
    return live;
  }
  static void first_allocation() {
    void* made = btd_malloc(heap, 64);
    if (made == nullptr) fail(why());
    stamp(made, 64);
  }
  static void wait_for_roots() {
    if (btd_root(heap, kLive) == nullptr) fail(why());
  }
  static Slot* named_slot(std::size_t i) {
    const std::string name = "root." + std::to_string(i);
    if (void* there = btd_root(heap, name.c_str())) return static_cast<Slot*>(there);
    auto* made = static_cast<Slot*>(btd_calloc(heap, 1, sizeof(Slot)));
    if (made == nullptr || btd_set_root(heap, name.c_str(), made) != 0) fail(why());
    return made;
  }

  static Outcome gc() {
    const std::size_t objects = published(options.objects, std::size_t{8000000});
    open(false);
    const std::uint64_t before = stats().reclaimed_bytes;
    Stopwatch<Policy> watch;
    watch.start();
    if (btd_gc(heap) != 0) fail(why());
    watch.stop(objects);
    const std::uint64_t reclaimed = stats().reclaimed_bytes - before;
    if (reclaimed < objects / kGarbageOf * sizeof(Object)) {
      fail("of what no root reaches, " + std::to_string(reclaimed) + " bytes were reclaimed");
    }
    if (count_live() != objects) fail("marking lost live objects");
    Outcome out = watch.total();
    out.more = {{"reclaimed", static_cast<double>(reclaimed)},
                {"per_core", out.ops / out.seconds / std::max(1U, options.gc_threads)}};
    return out;
  }

 private:
  static constexpr const char* kLive = "live";
  static constexpr std::size_t kGarbageOf = 8;

  static std::uint64_t word(void* p) { return std::bit_cast<std::uint64_t>(p); }
  static btd_statistics stats() {
    btd_statistics s{};
    if (btd_stats(heap, &s) != 0) fail(why());
    return s;
  }
  static void connect(std::vector<Object*>& all) {
    const std::size_t n = all.size();
    const bool list = options.shape == "list";
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t left = list ? i + 1 : 2 * i + 1;
      all[i]->number = i;
      all[i]->child[0] = left < n ? all[left] : nullptr;
      all[i]->child[1] = !list && left + 1 < n ? all[left + 1] : nullptr;
    }
  }

  static inline btd_cluster* heap = nullptr;
};

}  // namespace btd::bench
