#include "libbtd/tools/reach.h"

#include <utility>

namespace btd {

Result<Reach> Reach::open(const HeapImage& image) {
  Reach reach(image);
  BTD_ASSIGN(reach.roots_, image.names().roots());
  BTD_ASSIGN(reach.types_, image.names().layouts());
  BTD_ASSIGN(reach.own_, image.names().own_blocks());
  reach.marks_.resize(image.arenas() * image.arena_bytes() / kSegmentBytes);
  return reach;
}

// After a power cut the bits of recoverable objects may be behind: then any slot may be one.
Slot Reach::block_at(std::uint64_t pointer) const {
  const std::uint64_t at = pointer - image_->address();
  if (!image_->heap().contains(at, 1)) return {};
  const Slot block = image_->heap().block_of(at);
  if (block.segment != nullptr || image_->bits_hold()) return block;
  const Slot slot = image_->heap().slot_of(at);
  return slot.segment != nullptr && slot.segment->recoverable() ? slot : Slot{};
}

bool Reach::mark(const Slot& slot) {
  std::vector<std::uint64_t>& words = marks_.at(slot.segment->id);
  if (words.empty()) words.resize(slot.segment->words);
  std::uint64_t& word = words.at(slot.index / 64);
  const std::uint64_t bit = Segment::mask_of(slot.index);
  return (std::exchange(word, word | bit) & bit) == 0;
}

bool Reach::reached(const Slot& slot) const {
  const std::vector<std::uint64_t>& words = marks_.at(slot.segment->id);
  return !words.empty() && (words.at(slot.index / 64) & Segment::mask_of(slot.index)) != 0;
}

void Reach::consider(const std::byte* word) {
  const Slot slot = block_at(*reinterpret_cast<const std::uint64_t*>(word));
  if (slot.segment == nullptr || own(slot) || !mark(slot)) return;
  stack_.push_back(slot);
}

void Reach::scan(const Slot& slot) {
  const std::byte* const from = image_->heap().at(slot.offset());
  const std::uint8_t type = slot.segment->word.type;
  if (type == kTypeNoPointers) return;
  for_each_pointer(from, slot.bytes(), types_.at(type).get(),
                   [this](const std::byte* word) { consider(word); });
}

void Reach::run(const Visit& visit) {
  while (!stack_.empty()) {
    const Slot slot = stack_.back();
    stack_.pop_back();
    if (visit) visit(slot);
    scan(slot);
  }
}

void Reach::follow(std::uint64_t pointer, const Visit& visit) {
  const Slot slot = block_at(pointer);
  if (slot.segment != nullptr && !own(slot)) follow_block(slot, visit);
}

void Reach::follow_block(const Slot& slot, const Visit& visit) {
  if (!mark(slot)) return;
  stack_.push_back(slot);
  run(visit);
}

Status for_each_leak(const HeapImage& image,
                     const std::function<void(const Slot&, Leak kind)>& visit) {
  BTD_ASSIGN(Reach from_roots, Reach::open(image));
  for (const auto& [name, pointer] : from_roots.roots()) from_roots.follow(pointer);
  for (unsigned slot = 0; slot < kRootSlots; ++slot) from_roots.follow(image.heap().root(slot));
  // What a leaked block of P or T holds, recovery keeps.
  BTD_ASSIGN(Reach from_leaks, Reach::open(image));
  const auto leaked = [&](const Slot& slot) {
    return !from_roots.own(slot) && !from_roots.reached(slot);
  };
  image.heap().for_each_block([&](const Slot& slot) {
    if (!slot.segment->recoverable() && leaked(slot)) from_leaks.follow_block(slot);
  });
  image.heap().for_each_block([&](const Slot& slot) {
    if (!leaked(slot)) return;
    if (!slot.segment->recoverable()) return visit(slot, Leak::kTransactional);
    visit(slot, from_leaks.reached(slot) ? Leak::kHeld : Leak::kRecoverable);
  });
  return {};
}

}  // namespace btd
