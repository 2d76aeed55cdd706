// The part of Heap that finds, after an unclean stop, which recoverable objects are reachable.
#include "alloc/heap.h"
#include "alloc/recoverable.h"

namespace btd {

Result<Offset> Heap::allocate(std::size_t bytes, std::uint8_t type) {
  return recoverable_->allocate(bytes, type);
}

Status Heap::release(Offset block) {
  if (recoverable_->try_release(block)) return {};
  return recoverable_->release(block);
}

bool Heap::needs_recovery() const { return recoverable_->needs_recovery(); }

bool Heap::Marker::mark(Offset at) {
  const Slot slot = table_.find(at);
  if (slot.segment == nullptr || !slot.segment->dirty) return false;
  const std::uint64_t bit = Segment::mask_of(slot.index);
  std::uint64_t* const live = slot.segment->live_at(slot.index / 64);
  return (__atomic_fetch_or(live, bit, __ATOMIC_ACQ_REL) & bit) == 0;
}

Status Heap::recover(const std::function<void(Marker&)>& visit) {
  recoverable_->begin_marking();
  Marker marker(table_);
  visit(marker);
  return sweep();
}

Status Heap::recover(const Marking::Options& options) {
  Marking::Options all = options;
  all.roots = [&](const std::function<void(Offset)>& root) {
    for (unsigned slot = 0; slot < kRootSlots; ++slot) root(this->root(slot) - bias_);
    if (options.roots) options.roots(root);
  };
  recoverable_->begin_marking();
  Marking marking(table_, base_, std::uint64_t{table_.arenas()} * source_.arena_bytes(), bias_,
                  old_blocks_, all);
  const Marking::Found found = marking.run();
  marked_objects_ = found.objects;
  marked_bytes_ = found.bytes;
  return sweep();
}

Status Heap::sweep() {
  BTD_ASSIGN(const std::uint64_t reclaimed, recoverable_->sweep());
  reclaimed_bytes_ += reclaimed;
  old_blocks_.clear();
  shared().leaks = 0;
  shared().recovering = 0;
  return {};
}

Slot Heap::block_of(Offset at) const {
  const Slot slot = table_.find(at);
  return slot.segment != nullptr && slot.segment->is_allocated(slot.index) ? slot : Slot{};
}

void Heap::for_each_block(const std::function<void(const Slot&)>& visit) const {
  table_.for_all([&](Segment& segment) {
    for (std::uint32_t i = 0; i < segment.slots; ++i) {
      if (segment.is_allocated(i)) visit({.segment = &segment, .index = i});
    }
  });
}

void Heap::pause() {
  room_mutex_.lock();
  recoverable_->mutex().lock();
  table_.pause();
}

void Heap::resume() {
  table_.resume();
  recoverable_->mutex().unlock();
  room_mutex_.unlock();
}

}  // namespace btd
