#include "libbtd/memcheck.h"

#include <algorithm>

#include "alloc/annotate.h"

namespace btd {

std::unique_ptr<Memcheck> Memcheck::start_if_running(HeapFiles& files, const Heap& heap) {
  if (!annotate::running()) return nullptr;
  return std::unique_ptr<Memcheck>(new Memcheck(files, heap));
}

Memcheck::Memcheck(HeapFiles& files, const Heap& heap)
    : heap_(heap),
      base_(files.base()),
      arena_bytes_(files.arena_bytes()),
      arenas_(files.count()),
      strict_(arenas_),
      open_(arenas_) {
  annotate::make_pool(base_);
}

Memcheck::~Memcheck() {
  annotate::drop_pool(base_);
  // Nobody may look any more, and no search for leaks reads all that the files may grow to.
  annotate::hide(base_, arenas_ * arena_bytes_);
}

// The memory of other arenas, as they grow: not all that they may grow to, for a search for leaks
// would read it. The caller holds the mutex.
void Memcheck::open_others() {
  for (std::uint32_t i = 0; i < std::min(heap_.arenas(), arenas_); ++i) {
    if (strict_[i]) continue;
    const std::uint64_t end = heap_.memory_of(i);
    if (end <= open_[i]) continue;
    annotate::defined(base_ + i * arena_bytes_ + open_[i], end - open_[i]);
    open_[i] = end;
  }
}

void Memcheck::look_at_others() {
  const std::lock_guard lock(mutex_);
  open_others();
}

// What lies next to a block may be another's, of whom nothing was told. The caller holds the mutex.
template <class Tell>
void Memcheck::beside_others(Offset block, std::size_t bytes, Tell&& tell) {
  const annotate::KeepState before(base_ + block - annotate::kPoolEdge);
  const annotate::KeepState behind(base_ + block + bytes);
  tell();
}

void Memcheck::note(Offset block, std::size_t bytes, std::size_t slot_bytes) {
  if (blocks_.contains(block)) forget(block);  // freed by another process, or told late
  blocks_[block] = {.bytes = bytes, .ticket = ++last_};
  beside_others(block, bytes, [&] { annotate::allocated(base_, base_ + block, bytes); });
  annotate::hide(base_ + block + bytes, slot_bytes - bytes);
}

void Memcheck::forget(Offset block) {
  const auto found = blocks_.find(block);
  beside_others(block, found->second.bytes, [&] { annotate::freed(base_, base_ + block); });
  blocks_.erase(found);
}

void Memcheck::allocated(const Slot& slot, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  open_others();
  note(slot.offset(), bytes, slot.bytes());
}

void Memcheck::adopt() {
  const std::lock_guard lock(mutex_);
  annotate::hide(base_, arenas_ * arena_bytes_);
  for (std::uint32_t i = 0; i < arenas_; ++i) strict_[i] = heap_.owns_arena(i);
  open_others();
  heap_.for_each_block([&](const Slot& slot) {
    if (!strict_[slot.offset() / arena_bytes_]) return;
    note(slot.offset(), slot.bytes(), slot.bytes());
    annotate::defined(base_ + slot.offset(), slot.bytes());
  });
}

void Memcheck::forget_reclaimed() {
  const std::lock_guard lock(mutex_);
  for (auto next = blocks_.begin(); next != blocks_.end();) {
    const Offset block = next++->first;
    const Slot found = heap_.block_of(block);
    if (found.segment == nullptr || found.offset() != block) forget(block);
  }
}

void Memcheck::resized(Offset block, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(block);
  if (found == blocks_.end()) return;
  const std::size_t before = found->second.bytes;
  found->second.bytes = bytes;
  annotate::resized(base_, base_ + block, bytes);
  if (bytes > before) annotate::undefined(base_ + block + before, bytes - before);
  if (bytes < before) annotate::hide(base_ + block + bytes, before - bytes);
}

Memcheck::Ticket Memcheck::ticket(Offset block) const {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(block);
  return found != blocks_.end() ? found->second.ticket : 0;
}

void Memcheck::freed(Offset block, Ticket ticket) {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(block);
  if (found == blocks_.end() || found->second.ticket != ticket) return;
  forget(block);
}

void Memcheck::stored(Offset at, std::size_t bytes) const {
  // Only as far as the program may look.
  const std::lock_guard lock(mutex_);
  auto found = blocks_.upper_bound(at);
  if (found == blocks_.begin()) return;
  --found;
  const Offset end = found->first + found->second.bytes;
  if (at < end) annotate::defined(base_ + at, std::min<std::uint64_t>(bytes, end - at));
}

std::optional<std::size_t> Memcheck::bytes(Offset block) const {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(block);
  if (found == blocks_.end()) return std::nullopt;
  return found->second.bytes;
}

}  // namespace btd
