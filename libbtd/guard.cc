#include "libbtd/guard.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "alloc/size_class.h"
#include "libbtd/call_site.h"
#include "libbtd/text.h"

namespace btd {
namespace {

constexpr std::size_t kMaxSentences = 16;  // about the headers of one heap

bool is_verbose() {
  const char* const text = secure_getenv("BTD_GUARD");
  return text != nullptr && std::string_view(text) == "verbose";
}

// Where [at, at + len) is first something else than `fill`; len where it is not.
std::size_t first_other(const std::byte* at, std::size_t len, std::byte fill) {
  if (len == 0 || (*at == fill && std::memcmp(at, at + 1, len - 1) == 0)) return len;
  return static_cast<std::size_t>(
      std::find_if(at, at + len, [&](std::byte each) { return each != fill; }) - at);
}

// How many bytes of it are.
std::size_t count_other(const std::byte* at, std::size_t len, std::byte fill) {
  return static_cast<std::size_t>(
      std::count_if(at, at + len, [&](std::byte each) { return each != fill; }));
}

std::size_t asked_of_heap(const Guard::Wanted& wanted) {
  const std::size_t bytes = wanted.bytes + Guard::kCanaryBytes;
  // What a block without a canary would be aligned to.
  const bool whole_lines = wanted.bytes >= kLineBytes && wanted.bytes % kLineBytes == 0;
  const std::size_t alignment = std::max(wanted.alignment, whole_lines ? kLineBytes : 1);
  return alignment > 16 ? aligned_bytes(alignment, bytes) : bytes;
}

}  // namespace

Result<bool> Guard::wanted() {
  const char* const text = secure_getenv("BTD_GUARD");
  if (text == nullptr) return false;
  const std::string_view value = text;
  if (value.empty() || value == "0") return false;
  if (value == "1" || value == "verbose") return true;
  return fail(EINVAL, "BTD_GUARD is 1 or \"verbose\"; set it to one of them, or unset it.");
}

std::unique_ptr<Guard> Guard::start(Heap& heap, std::string name) {
  std::unique_ptr<Guard> guard(new Guard(heap, std::move(name)));
  if (is_verbose()) {
    guard->tell(
        "canaries stand behind blocks of contract R, freed ones wait (16 MiB, 4096 "
        "blocks); headers of segments are checked at close and are not write-protected.");
  }
  return guard;
}

void Guard::tell(const std::string& sentence) const {
  const std::string line = "libbtd: guard: heap " + name_ + ": " + sentence + "\n";
  [[maybe_unused]] const ssize_t put = write(STDERR_FILENO, line.data(), line.size());
}

void Guard::put_canary(Offset at, const Block& block) {
  std::memset(heap_.data(at) + block.bytes, static_cast<int>(kCanary),
              block.slot_bytes - block.bytes);
}

// The caller holds the block's shard.
bool Guard::check_canary(Offset at, Block& block) {
  const std::byte* const canary = heap_.data(at) + block.bytes;
  const std::size_t len = block.slot_bytes - block.bytes;
  const std::size_t first = first_other(canary, len, kCanary);
  if (first == len) return true;
  if (!block.told) {
    tell("the block at " + address_text(heap_.at(at)) + " of " + std::to_string(block.bytes) +
         " bytes was overrun: " + std::to_string(count_other(canary, len, kCanary)) +
         " bytes behind it were written, the first " + std::to_string(first) +
         " after its end; it was allocated by " + describe_call(block.allocated_by) + ".");
  }
  block.told = true;
  return false;
}

Result<Offset> Guard::allocate(const Wanted& wanted) {
  const std::size_t bytes = asked_of_heap(wanted);
  Result<Offset> block = heap_.allocate(bytes, wanted.type);
  if (!block && block.error().code == ENOSPC && waiting_bytes() != 0) {
    release_waiting();
    block = heap_.allocate(bytes, wanted.type);
  }
  if (!block) return block;
  const Block fresh{.bytes = wanted.bytes,
                    .slot_bytes = heap_.slot_of(*block).bytes(),
                    .allocated_by = wanted.caller};
  put_canary(*block, fresh);
  Shard& shard = shard_of(*block);
  const std::lock_guard lock(shard.mutex);
  shard.blocks.insert_or_assign(*block, fresh);
  return block;
}

Guard::Freed Guard::free(Offset block, const void* caller) {
  Waiting waiting;
  {
    Shard& shard = shard_of(block);
    const std::lock_guard lock(shard.mutex);
    const auto found = shard.blocks.find(block);
    if (found == shard.blocks.end()) return Freed::kNotGuarded;
    Block& there = found->second;
    if (there.waits) return Freed::kTwice;
    if (!is_there(block)) {  // another process freed it
      shard.blocks.erase(found);
      return Freed::kTwice;
    }
    if (!check_canary(block, there)) return Freed::kDamaged;
    there.waits = true;
    there.freed_by = caller;
    waiting = {.block = block, .bytes = there.slot_bytes};
    // Larger ones leave at once.
    if (there.slot_bytes <= kMaxWaitingBytes)
      std::memset(heap_.data(block), static_cast<int>(kFreed), there.slot_bytes);
  }
  if (waiting.bytes > kMaxWaitingBytes) {
    leave(block);
    return Freed::kTaken;
  }
  {
    const std::lock_guard lock(waiting_mutex_);
    waiting_.push_back(waiting);
    waiting_bytes_.fetch_add(waiting.bytes);
  }
  let_leave(kMaxWaitingBytes, kMaxWaiting);
  return Freed::kTaken;
}

bool Guard::is_there(Offset block) const {
  const Slot found = heap_.block_of(block);
  return found.segment != nullptr && found.offset() == block && found.segment->recoverable();
}

// The oldest leave until no more wait than may be kept.
void Guard::let_leave(std::uint64_t keep_bytes, std::size_t keep) {
  for (;;) {
    Waiting oldest;
    {
      const std::lock_guard lock(waiting_mutex_);
      if (waiting_.empty() || (waiting_bytes() <= keep_bytes && waiting_.size() <= keep)) return;
      oldest = waiting_.front();
      waiting_.pop_front();
      waiting_bytes_.fetch_sub(oldest.bytes);
    }
    leave(oldest.block);
  }
}

// The heap gets the block back while the shard is held: who is given it next enters it after that.
void Guard::leave(Offset at) {
  Shard& shard = shard_of(at);
  const std::lock_guard lock(shard.mutex);
  const auto found = shard.blocks.find(at);
  if (found == shard.blocks.end() || !found->second.waits) return;
  if (!is_there(at)) {
    shard.blocks.erase(found);
    return;
  }
  const Block& block = found->second;
  const std::size_t len = block.slot_bytes <= kMaxWaitingBytes ? block.slot_bytes : 0;
  const std::size_t first = first_other(heap_.at(at), len, kFreed);
  if (first != len) {
    tell("the block at " + address_text(heap_.at(at)) + " of " + std::to_string(block.bytes) +
         " bytes was written to after it was freed: " +
         std::to_string(count_other(heap_.at(at), len, kFreed)) + " bytes, the first at +" +
         std::to_string(first) + "; it was allocated by " + describe_call(block.allocated_by) +
         " and freed by " + describe_call(block.freed_by) + ".");
  }
  shard.blocks.erase(found);
  static_cast<void>(heap_.release(at));
}

bool Guard::intact(Offset block) {
  Shard& shard = shard_of(block);
  const std::lock_guard lock(shard.mutex);
  const auto found = shard.blocks.find(block);
  return found == shard.blocks.end() || found->second.waits || check_canary(block, found->second);
}

bool Guard::resize(Offset block, std::size_t bytes) {
  Shard& shard = shard_of(block);
  const std::lock_guard lock(shard.mutex);
  const auto found = shard.blocks.find(block);
  if (found == shard.blocks.end()) return true;
  if (bytes + kCanaryBytes > found->second.slot_bytes) return false;
  found->second.bytes = bytes;
  put_canary(block, found->second);
  return true;
}

std::optional<std::size_t> Guard::bytes(Offset block) const {
  const Shard& shard = shard_of(block);
  const std::lock_guard lock(shard.mutex);
  const auto found = shard.blocks.find(block);
  if (found == shard.blocks.end() || found->second.waits) return std::nullopt;
  return found->second.bytes;
}

bool Guard::waits(Offset block) const {
  const Shard& shard = shard_of(block);
  const std::lock_guard lock(shard.mutex);
  const auto found = shard.blocks.find(block);
  return found != shard.blocks.end() && found->second.waits;
}

void Guard::forget_reclaimed() {
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    std::erase_if(shard.blocks, [&](const auto& entry) { return !is_there(entry.first); });
  }
}

void Guard::finish() {
  release_waiting();
  for (Shard& shard : shards_) {
    const std::lock_guard lock(shard.mutex);
    for (auto& [at, block] : shard.blocks) {
      if (is_there(at)) check_canary(at, block);
    }
    shard.blocks.clear();
  }
  std::size_t sentences = 0;
  heap_.check([&](const std::string& sentence) {
    if (sentences++ < kMaxSentences) tell(sentence);
  });
}

}  // namespace btd
