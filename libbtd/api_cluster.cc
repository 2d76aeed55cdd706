// The C calls that open, close, inspect and clean a heap.
#include <cstring>

#include "libbtd/cluster.h"

using btd::guarded;
using btd::recovered;
using btd::usable;

extern "C" {

void btd_config_init(struct btd_config* config) {
  *config = btd_config{};
  config->create = 1;
}

struct btd_cluster* btd_cluster_create(struct btd_config* config) {
  return guarded(static_cast<btd_cluster*>(nullptr), [&]() -> btd_cluster* {
    if (config == nullptr) {
      btd::set_error(EINVAL, "The configuration is NULL; pass one.");
      return nullptr;
    }
    const btd::Result<btd::Settings> settings = btd::read_config(*config);
    if (!settings) {
      btd::set_error(settings.error());
      return nullptr;
    }
    const btd::Result<btd_cluster*> opened = btd::open_cluster(*settings);
    if (opened) return *opened;
    btd::set_error(opened.error());
    return nullptr;
  });
}

int btd_cluster_destroy(struct btd_cluster* cluster) {
  if (cluster == nullptr) return 0;
  if (!btd::is_reader(cluster) && !usable(cluster)) return -1;
  return guarded(-1, [&] { return btd::to_int(btd::close_cluster(cluster)); });
}

struct btd_cluster* btd_cluster_of(const void* at) { return btd::cluster_of(at); }

void* btd_cluster_base(struct btd_cluster* cluster) {
  return btd::is_reader(cluster) || usable(cluster) ? cluster->base : nullptr;
}

const char* btd_strerror(void) { return btd::last_sentence(); }

const char* btd_version(void) { return BTD_VERSION; }

int btd_foreach(struct btd_cluster* cluster,
                int (*visit)(const struct btd_object* object, void* context), void* context) {
  if (!recovered(cluster)) return -1;
  return guarded(-1, [&] {
    const auto own = cluster->names->own_blocks();
    if (!own) return btd::failed(own.error());
    int answer = 0;
    cluster->heap->for_each_block([&](const btd::Slot& slot) {
      if (answer != 0 || own->contains(slot.offset()) || is_kept_by_guard(*cluster, slot)) return;
      const btd_object object{.at = cluster->base + slot.offset(),
                              .bytes = btd::usable_bytes(*cluster, slot),
                              .type = slot.segment->word.type,
                              .contract = slot.segment->recoverable() ? 'R' : 'T'};
      const btd::annotate::Loud loud;
      answer = visit(&object, context);
    });
    return answer;
  });
}

int btd_stats(struct btd_cluster* cluster, struct btd_statistics* stats) {
  if (!usable(cluster)) return -1;
  return guarded(-1, [&] {
    const btd::Heap::Stats heap = cluster->heap->stats();
    const btd::Guard* const guard = cluster->watching.guard.get();
    const std::uint64_t kept = guard != nullptr ? guard->waiting_bytes() : 0;
    const btd::Persist::Counters now = cluster->heap->persist().counters();
    *stats = btd_statistics{.mapped_bytes = heap.total_bytes,
                            .allocated_bytes = heap.used_bytes - std::min(kept, heap.used_bytes),
                            .free_bytes = heap.free_segment_bytes,
                            .waiting_bytes = heap.limbo_bytes + kept,
                            .arenas = heap.arenas,
                            .lines = now.lines - cluster->at_open.lines,
                            .fences = now.fences - cluster->at_open.fences,
                            .commits = heap.commits,
                            .replayed = heap.recovery.records,
                            .reclaimed_bytes = heap.reclaimed_bytes,
                            .generation = heap.generation,
                            .was_clean = heap.was_clean ? 1 : 0,
                            .recovering = cluster->recovery.running() ? 1 : 0};
    return 0;
  });
}

long btd_check(struct btd_cluster* cluster, void (*report)(const char* sentence, void* context),
               void* context) {
  if (!recovered(cluster)) return -1;
  return guarded(-1L, [&]() -> long {
    long problems = 0;
    const auto note = [&](const std::string& sentence) {
      ++problems;
      if (report != nullptr) report(sentence.c_str(), context);
    };
    cluster->heap->check(note);
    const btd::Status checked = cluster->names->check(note);
    if (!checked) note(checked.error().message);
    return problems;
  });
}

int btd_gc(struct btd_cluster* cluster) {
  if (!recovered(cluster)) return -1;
  return guarded(-1, [&] { return btd::to_int(btd::reclaim(*cluster)); });
}

int btd_checkpoint(struct btd_cluster* cluster) {
  if (!usable(cluster)) return -1;
  return guarded(-1, [&] { return btd::to_int(cluster->heap->checkpoint()); });
}

}  // extern "C"
