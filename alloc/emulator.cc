#include "alloc/emulator.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <string>

#include "alloc/layout.h"

// The emulator reads lines that other threads may be storing to, as a cache does; a torn read is
// one of the outcomes that it emulates, so the race is meant.
#define BTD_NO_TSAN __attribute__((no_sanitize("thread"), noinline))

namespace btd {
namespace {

BTD_NO_TSAN void copy_words(std::byte* to, const std::byte* from, std::size_t len) {
  auto* target = reinterpret_cast<volatile std::uint64_t*>(to);
  const auto* source = reinterpret_cast<const volatile std::uint64_t*>(from);
  for (std::size_t i = 0; i < len / kWordBytes; ++i) target[i] = source[i];
}

BTD_NO_TSAN bool same_page(const std::byte* a, const std::byte* b) {
  const auto* left = reinterpret_cast<const std::uint64_t*>(a);
  const auto* right = reinterpret_cast<const std::uint64_t*>(b);
  std::uint64_t differ = 0;
  for (std::size_t i = 0; i < kPageBytes / kWordBytes; ++i) differ |= left[i] ^ right[i];
  return differ == 0;
}

std::byte* map_zero(std::uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

// How one crash treats lines that were not durable: a share of each fate, in eighths.
struct Weather {
  std::uint64_t dropped;
  std::uint64_t evicted;  // the rest is torn

  static Weather of(std::mt19937_64& random) {
    static constexpr Weather kKinds[] = {{3, 3}, {6, 1}, {1, 6}, {1, 1}, {4, 4}};
    return kKinds[random() % std::size(kKinds)];
  }
};

}  // namespace

Result<std::unique_ptr<EmulatedNvram>> EmulatedNvram::create(std::uint64_t arena_bytes,
                                                             std::uint32_t max_arenas) {
  if (arena_bytes == 0 || arena_bytes % kSegmentBytes != 0 || max_arenas == 0) {
    return fail(EINVAL, "An arena must be a multiple of 64 KiB and there must be at least one.");
  }
  std::byte* volatile_image = map_zero(arena_bytes * max_arenas);
  std::byte* durable = map_zero(arena_bytes * max_arenas);
  if (volatile_image == nullptr || durable == nullptr) {
    if (volatile_image != nullptr) munmap(volatile_image, arena_bytes * max_arenas);
    if (durable != nullptr) munmap(durable, arena_bytes * max_arenas);
    return fail(ENOMEM, "No address space for the two images; use fewer or smaller arenas.");
  }
  return std::unique_ptr<EmulatedNvram>(
      new EmulatedNvram(volatile_image, durable, arena_bytes, max_arenas));
}

EmulatedNvram::EmulatedNvram(std::byte* volatile_image, std::byte* durable,
                             std::uint64_t arena_bytes, std::uint32_t max_arenas)
    : volatile_(volatile_image),
      durable_(durable),
      arena_bytes_(arena_bytes),
      max_arenas_(max_arenas),
      persist_(Domain::kEmulated, this) {}

EmulatedNvram::~EmulatedNvram() {
  munmap(volatile_, arena_bytes_ * max_arenas_);
  munmap(durable_, arena_bytes_ * max_arenas_);
}

Status EmulatedNvram::extend() {
  const std::uint32_t index = count_;
  if (index == max_arenas_) {
    return fail(ENOSPC, "All " + std::to_string(max_arenas_) + " arenas are in use.");
  }
  // A region that was a crash image before may hold anything here.
  std::memset(volatile_ + index * arena_bytes_, 0, arena_bytes_);
  std::memset(durable_ + index * arena_bytes_, 0, arena_bytes_);
  count_ = index + 1;
  return {};
}

void EmulatedNvram::on_fence(std::function<void()> hook) {
  const std::lock_guard lock(mutex_);
  hook_ = std::move(hook);
}

void EmulatedNvram::arm(Mutation mutation) {
  const std::lock_guard lock(mutex_);
  mutation_ = mutation;
  flushes_ = fences_ = 0;
}

void EmulatedNvram::flush(const std::byte* from, std::size_t len) {
  const std::lock_guard lock(mutex_);
  const bool chosen = ++flushes_ == mutation_.at;
  if (chosen && mutation_.kind == Mutation::Kind::kIgnoreFlush) return;
  std::vector<Line>& mine = pending_[std::this_thread::get_id()];
  const auto begin = static_cast<std::uint64_t>(from - volatile_);
  for (std::uint64_t line = begin / kLineBytes; line <= (begin + len - 1) / kLineBytes; ++line) {
    Line& noted = mine.emplace_back();
    noted.index = line;
    noted.late = chosen && mutation_.kind == Mutation::Kind::kDelayFlush;
    copy_words(noted.content, volatile_ + line * kLineBytes, kLineBytes);
  }
}

void EmulatedNvram::fence() {
  const std::lock_guard lock(mutex_);
  if (hook_) hook_();
  if (++fences_ == mutation_.at && mutation_.kind == Mutation::Kind::kSkipFence) return;
  std::vector<Line>& mine = pending_[std::this_thread::get_id()];
  std::vector<Line> later;
  for (Line& line : mine) {
    if (line.late) {
      line.late = false;
      later.push_back(line);
      continue;
    }
    std::memcpy(durable_ + line.index * kLineBytes, line.content, kLineBytes);
  }
  mine.swap(later);
}

void EmulatedNvram::crash_into(EmulatedNvram& other, std::uint64_t seed) const {
  std::mt19937_64 random(seed);
  const Weather weather = Weather::of(random);
  const std::uint64_t bytes = count_ * arena_bytes_;
  other.pending_.clear();
  other.count_ = count_.load();
  other.mutation_ = {};
  std::memcpy(other.durable_, durable_, bytes);
  // A line flushed and not yet fenced may also land with what it had at the flush.
  for (const auto& [thread, lines] : pending_) {
    for (const Line& line : lines) {
      if (random() % 4 != 0) continue;
      std::memcpy(other.durable_ + line.index * kLineBytes, line.content, kLineBytes);
    }
  }
  for (std::uint64_t page = 0; page < bytes; page += kPageBytes) {
    if (same_page(volatile_ + page, durable_ + page)) continue;
    for (std::uint64_t at = page; at < page + kPageBytes; at += kLineBytes) {
      std::byte now[kLineBytes];
      copy_words(now, volatile_ + at, kLineBytes);
      if (std::memcmp(now, durable_ + at, kLineBytes) == 0) continue;
      const std::uint64_t fate = random() % 8;
      if (fate < weather.dropped) continue;
      const bool torn = fate >= weather.dropped + weather.evicted;
      const std::uint64_t kept = torn ? random() : ~std::uint64_t{0};
      for (std::size_t word = 0; word < kLineBytes / kWordBytes; ++word) {
        if (((kept >> word) & 1U) == 0) continue;
        std::memcpy(other.durable_ + at + word * kWordBytes, now + word * kWordBytes, kWordBytes);
      }
    }
  }
  std::memcpy(other.volatile_, other.durable_, bytes);
}

}  // namespace btd
