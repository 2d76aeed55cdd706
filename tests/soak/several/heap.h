// SPDX-License-Identifier: BSD-3-Clause
// The soak's heap: one for all of its processes. Under the root "table.W" lies a head of contract R
// that points to worker W's rows, of contract P; under "root.L" a record of contract R, of lane L.
#pragma once

#include <bartender.h>

#include <cstring>

#include "tests/soak/several/shared.h"

namespace btd::soak {

inline constexpr const char* kHeap = "several";
// What is never reused does not fit.
inline constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kArenaBytes = std::uint64_t{32} << 20;

struct Head {
  void** cells;  // kMostThreads rows of kCells
};

inline btd_cluster* open_heap(Common& common, bool create = false) {
  btd_config config;
  btd_config_init(&config);
  config.directory = common.directory;
  config.heap = kHeap;
  config.max_bytes = kMostBytes;
  config.arena_bytes = kArenaBytes;
  config.create = create ? 1 : 0;
  btd_cluster* const heap = btd_cluster_create(&config);
  if (heap == nullptr) violation(common, "the heap cannot be opened: %s", btd_strerror());
  return heap;
}

inline void close_heap(Common& common, btd_cluster* heap) {
  if (btd_cluster_destroy(heap) == 0) return;
  violation(common, "the heap cannot be closed: %s", btd_strerror());
}

// The row of a lane.
inline void** row_of(Common& common, btd_cluster* heap, unsigned lane) {
  const unsigned worker = lane / kMostThreads;
  const auto* const head = static_cast<Head*>(btd_root(heap, table_name(worker).c_str()));
  if (head == nullptr) violation(common, "the table of worker %u: %s", worker, btd_strerror());
  return head->cells + std::size_t{lane % kMostThreads} * kCells;
}

// Makes the heap and an empty table for each worker.
inline void make_tables(Common& common) {
  constexpr std::size_t kBytes = sizeof(void*) * kMostThreads * kCells;
  btd_cluster* const heap = open_heap(common, true);
  for (unsigned worker = 0; worker < common.workers; ++worker) {
    auto* const head = static_cast<Head*>(btd_calloc(heap, 1, sizeof(Head)));
    if (head == nullptr || btd_persist(head, sizeof *head) != 0 ||
        btd_malloc_to(&head->cells, kBytes) == nullptr ||
        btd_memset(head->cells, 0, kBytes) == nullptr ||
        btd_set_root(heap, table_name(worker).c_str(), head) != 0) {
      violation(common, "a table cannot be made: %s", btd_strerror());
    }
  }
  close_heap(common, heap);
}

}  // namespace btd::soak
