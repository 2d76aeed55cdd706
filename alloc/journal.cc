#include "alloc/journal.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <set>
#include <string>
#include <utility>

#include "alloc/crc.h"

namespace btd {
namespace {

constexpr std::uint64_t line_round(std::uint64_t bytes) {
  return (bytes + kLineBytes - 1) & ~std::uint64_t{kLineBytes - 1};
}

// Calls `visit(tag, data)` for each entry of a record whose checksum holds.
template <class Visit>
void for_entries(const std::byte* record, Visit&& visit) {
  RecordHeader header;
  std::memcpy(&header, record, sizeof(header));
  const std::byte* at = record + sizeof(header);
  for (std::uint32_t i = 0; i < header.entries; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof(word));
    const EntryTag tag = EntryTag::unpack(word);
    visit(tag, at + sizeof(word));
    at += sizeof(word) + tag.data_bytes();
  }
}

}  // namespace

// Lines that were seen lately: a direct-mapped table forgets, never lies. So a line that many
// records change is flushed about once a checkpoint.
class Journal::LineFilter {
 public:
  [[nodiscard]] bool is_new(std::uint64_t line) {
    std::uint64_t& seen = seen_[(line ^ (line >> 11)) % kSlots];
    return std::exchange(seen, line) != line;
  }

 private:
  static constexpr std::size_t kSlots = 2048;
  std::array<std::uint64_t, kSlots> seen_{};  // line 0 is the heap's identity: never a home
};

// All lanes, locked: no commit is under way.
class Journal::AllLanes {
 public:
  static Result<AllLanes> lock(Journal& journal) {
    AllLanes all(journal);
    for (Lane& lane : journal.lanes_) {
      BTD_TRY(SharedLock::lock(lane.shared->lock, journal.context_, "the journal"));
      ++all.held_;
    }
    return all;
  }
  AllLanes(AllLanes&& other) noexcept
      : journal_(other.journal_), held_(std::exchange(other.held_, 0)) {}
  AllLanes& operator=(AllLanes&&) = delete;
  AllLanes(const AllLanes&) = delete;
  AllLanes& operator=(const AllLanes&) = delete;
  ~AllLanes() {
    for (std::size_t i = 0; i < held_; ++i) leave(journal_.lanes_[i]);
  }

 private:
  explicit AllLanes(Journal& journal) : journal_(journal) {}
  Journal& journal_;
  std::size_t held_ = 0;
};

void Journal::format(Persist& persist, std::byte* where, const Geometry& geometry) {
  JournalHeader fresh{.magic = persistent(kJournalMagic),
                      .version = persistent(kFormatVersion),
                      .lanes = persistent(geometry.lanes),
                      .lane_bytes = persistent(geometry.lane_bytes),
                      .reserved = {},
                      .crc = {},
                      .pad0 = {},
                      .watermark = persistent(checked_word(0)),
                      .pad1 = {},
                      .shared = {}};
  const std::uint32_t crc = crc32c(&fresh, offsetof(JournalHeader, crc));
  persist.copy_nodrain(where, &fresh, sizeof(fresh));
  auto* header = reinterpret_cast<JournalHeader*>(where);
  persist.store(header->crc, crc);
  // A lane that was used in an earlier life must not offer its old records.
  for (std::uint32_t lane = 0; lane < geometry.lanes; ++lane) {
    const std::array<std::byte, kLineBytes> zero{};
    persist.copy_nodrain(where + sizeof(JournalHeader) + lane * geometry.lane_bytes, zero.data(),
                         zero.size());
  }
}

Result<std::unique_ptr<Journal>> Journal::open(Persist& persist, std::byte* heap_base, Offset where,
                                               HeapShared& shared,
                                               const SharedLock::Context& context) {
  const auto* header = reinterpret_cast<const JournalHeader*>(heap_base + where);
  if (header->magic != kJournalMagic || header->version != kFormatVersion ||
      header->crc != crc32c(header, offsetof(JournalHeader, crc)) || header->lanes > kMaxLanes) {
    return fail(EUCLEAN, "The journal's header is damaged; restore the heap from a backup.");
  }
  if (!checked_value(header->watermark)) {
    return fail(EUCLEAN, "The journal's watermark is damaged; restore the heap from a backup.");
  }
  return std::unique_ptr<Journal>(
      new Journal(persist, heap_base, where,
                  {.lanes = header->lanes, .lane_bytes = header->lane_bytes}, shared, context));
}

Journal::Journal(Persist& persist, std::byte* heap_base, Offset where, const Geometry& geometry,
                 HeapShared& shared, const SharedLock::Context& context)
    : persist_(persist),
      heap_base_(heap_base),
      where_(where),
      header_(reinterpret_cast<JournalHeader*>(heap_base + where)),
      shared_(shared),
      context_(context),
      lane_bytes_(geometry.lane_bytes),
      lanes_(geometry.lanes),
      first_seq_(shared.next_seq.load()) {
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i].base = heap_base + where + sizeof(JournalHeader) + i * lane_bytes_;
    lanes_[i].shared = &header_->shared[i];
  }
}

Result<Journal::Lane*> Journal::take_lane() {
  // A thread stays with its lane while nobody else takes that; any other is as good.
  thread_local constinit std::size_t favourite = ~std::size_t{0};
  if (favourite == ~std::size_t{0}) favourite = static_cast<unsigned>(sched_getcpu());
  const unsigned self = context_.users.self();
  std::size_t at = favourite < lanes_.size() ? favourite : favourite % lanes_.size();
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (SharedLock::try_lock(lanes_[at].shared->lock, self)) [[likely]] {
      favourite = at;
      return &lanes_[at];
    }
    at = at + 1 == lanes_.size() ? 0 : at + 1;
  }
  BTD_TRY(SharedLock::lock(lanes_[at].shared->lock, context_, "the journal"));
  return &lanes_[at];
}

void Journal::park_in(Lane& lane, const Slot& slot) {
  lane.parked.push_back(slot);
  lane.parked_bytes += slot.bytes();
  parked_bytes_.fetch_add(slot.bytes(), std::memory_order_relaxed);
}

Status Journal::park(const Slot& slot) {
  BTD_ASSIGN(Lane* const lane, take_lane());
  park_in(*lane, slot);
  leave(*lane);
  return {};
}

Result<std::uint64_t> Journal::commit(Record& record, std::span<const Slot> freed) {
  const std::size_t size = record.lane_bytes();
  if (size > lane_bytes_) [[unlikely]] {
    return fail(E2BIG, "The transaction needs " + std::to_string(size) +
                           " bytes of log but a lane has " + std::to_string(lane_bytes_) +
                           "; split it, or format the heap with larger lanes.");
  }
  if (!persist_.healthy()) [[unlikely]]
    return std::unexpected(persist_.health().error());
  BTD_ASSIGN(Lane* const lane, take_lane());
  LaneShared& shared = *lane->shared;
  const std::uint64_t tail = shared.tail;
  if (tail + size > lane_bytes_) [[unlikely]] {
    leave(*lane);
    return fail(EAGAIN);
  }
  const std::uint64_t seq = shared_.next_seq.shared().fetch_add(1, std::memory_order_relaxed);
  shared.in_flight.shared().store(seq, std::memory_order_release);
  const std::span<const std::byte> sealed = record.seal(seq);
  if (fault_ == Fault::kApplyBeforeCommit) [[unlikely]]
    apply(sealed.data());
  persist_.copy_lines_nodrain(lane->base + tail, sealed.data(), sealed.size());
  if (!freed.empty()) {
    if (Status claimed = claim_or_void(freed, lane->base + tail); !claimed) [[unlikely]] {
      shared.in_flight.shared().store(0, std::memory_order_release);
      leave(*lane);
      return std::unexpected(std::move(claimed).error());
    }
  }
  const bool durable = persist_.drain();
  if (durable) {
    apply(sealed.data());
    for (const Slot& slot : freed) {
      if (slot.segment->foreign) [[unlikely]]
        notify_(*slot.segment);
      else
        park_in(*lane, slot);
    }
    shared.tail.shared().store(tail + size, std::memory_order_release);
  }
  shared.in_flight.shared().store(0, std::memory_order_release);
  leave(*lane);
  if (durable) [[likely]]
    return seq;
  return std::unexpected(persist_.health().error());
}

// Claims all slots or none; where one is claimed already, the record in the lane is no record.
Status Journal::claim_or_void(std::span<const Slot> freed, std::byte* record) {
  std::size_t claimed = 0;
  while (claimed < freed.size() && freed[claimed].segment->claim(freed[claimed].index)) ++claimed;
  if (claimed == freed.size()) return {};
  const Offset block = freed[claimed].offset();
  while (claimed-- > 0) freed[claimed].segment->unclaim(freed[claimed].index);
  const std::array<std::byte, kLineBytes> zero{};
  persist_.copy_nodrain(record, zero.data(), zero.size());
  if (!persist_.drain()) return persist_.health();
  return fail(EINVAL, "The block at " + std::to_string(block) +
                          " is not allocated; it was freed twice, or is being freed elsewhere.");
}

void Journal::apply(const std::byte* record) {
  for_entries(record, [this](const EntryTag& tag, const std::byte* data) {
    std::byte* home = heap_base_ + tag.home;
    if (tag.kind == EntryKind::kBytes) {
      std::memcpy(home, data, tag.len);
      return;
    }
    std::uint64_t value = 0;
    std::memcpy(&value, data, sizeof(value));
    auto* word = reinterpret_cast<std::uint64_t*>(home);
    if (tag.kind == EntryKind::kSet64) __atomic_store_n(word, value, __ATOMIC_RELEASE);
    // Two lanes may change different bits of one word at once.
    if (tag.kind == EntryKind::kOr64) __atomic_fetch_or(word, value, __ATOMIC_RELEASE);
    if (tag.kind == EntryKind::kAnd64) __atomic_fetch_and(word, value, __ATOMIC_RELEASE);
  });
}

// What another node's user applied is dirty in that node's kernel, which a sync here does not
// reach. A load brings the page, and with that what it holds to its file.
Status Journal::flush_homes_of_nodes() {
  std::set<std::uint64_t> pages;
  for (const Lane& lane : lanes_) {
    const std::uint64_t tail = lane.shared->tail;
    for (std::uint64_t at = 0; at < tail;) {
      RecordHeader header;
      std::memcpy(&header, lane.base + at, sizeof(header));
      for_entries(lane.base + at, [&](const EntryTag& tag, const std::byte*) {
        const std::uint64_t last = (tag.home + tag.len - 1) / kPageBytes;
        for (std::uint64_t page = tag.home / kPageBytes; page <= last; ++page) pages.insert(page);
      });
      at += line_round(header.length);
    }
  }
  for (const std::uint64_t page : pages) {
    BTD_TRY(reach_(page * kPageBytes));
    static_cast<void>(*reinterpret_cast<volatile std::byte*>(heap_base_ + page * kPageBytes));
  }
  for (auto first = pages.begin(); first != pages.end();) {
    auto next = std::next(first);
    std::uint64_t last = *first;
    for (; next != pages.end() && *next == last + 1; ++next) last = *next;
    persist_.flush(heap_base_ + *first * kPageBytes, (last + 1 - *first) * kPageBytes);
    first = next;
  }
  return {};
}

Status Journal::flush_homes() {
  if (reach_ && persist_.domain() == Domain::kMsync) return flush_homes_of_nodes();
  const bool by_pages = persist_.domain() == Domain::kMsync;
  std::uint64_t low = ~std::uint64_t{0};
  std::uint64_t high = 0;
  LineFilter filter;
  const auto flush = [&](const EntryTag& tag, const std::byte*) {
    const std::uint64_t last = (tag.home + tag.len - 1) / kLineBytes;
    for (std::uint64_t line = tag.home / kLineBytes; line <= last; ++line) {
      low = std::min(low, line);
      high = std::max(high, line + 1);
      if (!by_pages && filter.is_new(line))
        persist_.flush(heap_base_ + line * kLineBytes, kLineBytes);
    }
  };
  for (const Lane& lane : lanes_) {
    const std::uint64_t tail = lane.shared->tail;
    for (std::uint64_t at = 0; at < tail;) {
      RecordHeader header;
      std::memcpy(&header, lane.base + at, sizeof(header));
      for_entries(lane.base + at, flush);
      at += line_round(header.length);
    }
  }
  // The kernel knows the dirty pages; one call for the range is far cheaper than one for each.
  if (by_pages && low < high) {
    persist_.flush(heap_base_ + low * kLineBytes, (high - low) * kLineBytes);
  }
  return {};
}

Status Journal::raise_watermark(std::uint64_t seq) {
  persist_.store(header_->watermark, checked_word(seq));
  if (!persist_.drain()) return persist_.health();
  shared_.home_seq.shared().store(seq, std::memory_order_release);
  return {};
}

Status Journal::checkpoint(std::vector<Slot>& ripe, const std::function<Status()>& at_home) {
  BTD_ASSIGN(const AllLanes all, AllLanes::lock(*this));
  const std::uint64_t last = shared_.next_seq.load() - 1;
  if (last != watermark()) {
    BTD_TRY(persist_.health());
    if (fault_ == Fault::kWatermarkBeforeFlush) [[unlikely]]
      BTD_TRY(raise_watermark(last));
    BTD_TRY(flush_homes());
    if (!persist_.drain()) return persist_.health();
    BTD_TRY(raise_watermark(last));
    for (Lane& lane : lanes_) lane.shared->tail.shared().store(0, std::memory_order_release);
    checkpoints_.fetch_add(1, std::memory_order_relaxed);
  }
  // Also what waited for a watermark that another user raised.
  for (Lane& lane : lanes_) {
    ripe.insert(ripe.end(), lane.parked.begin(), lane.parked.end());
    lane.parked.clear();
    parked_bytes_.fetch_sub(std::exchange(lane.parked_bytes, 0), std::memory_order_relaxed);
  }
  return at_home ? at_home() : Status{};
}

// Whoever raised the watermark and died before the lanes were emptied: what lies in a lane is home,
// and the next record must not come to lie behind it.
void Journal::finish_checkpoint(Lane& lane) {
  const std::uint64_t home = checked_value(header_->watermark).value_or(0);
  RecordHeader first;
  std::memcpy(&first, lane.base, sizeof(first));
  if (lane.shared->tail == 0 || first.seq > home) return;
  persist_.flush(&header_->watermark, sizeof(header_->watermark));
  if (!persist_.drain()) return;
  shared_.home_seq.shared().store(home, std::memory_order_release);
  lane.shared->tail.shared().store(0, std::memory_order_release);
}

std::optional<RecordHeader> Journal::record_in_flight(const Lane& lane) const {
  const std::uint64_t seq = lane.shared->in_flight.load();
  if (seq == 0) return std::nullopt;
  const std::optional<RecordHeader> header = valid_record(lane, lane.shared->tail, seq - 1);
  return header && header->seq == seq ? header : std::nullopt;
}

bool Journal::can_bury(unsigned user) {
  if (!reach_) return true;
  bool can = true;
  for (Lane& lane : lanes_) {
    if (SharedLock::holder(lane.shared->lock) != user) continue;
    finish_checkpoint(lane);
    if (!record_in_flight(lane)) continue;
    for_entries(lane.base + lane.shared->tail,
                [&](const EntryTag& tag, const std::byte*) { can = can && reach_(tag.home); });
  }
  return can;
}

void Journal::bury(unsigned user,
                   const std::function<void(Offset word, std::uint64_t bits)>& freed) {
  for (Lane& lane : lanes_) {
    LaneShared& shared = *lane.shared;
    if (SharedLock::holder(shared.lock) != user) continue;
    finish_checkpoint(lane);
    const std::optional<RecordHeader> header = record_in_flight(lane);
    if (header && fault_ != Fault::kForgetDead) {
      // Whole, so it may be durable already: then it is committed. Make it so, and apply it.
      const std::uint64_t size = line_round(header->length);
      persist_.flush(lane.base + shared.tail, size);
      static_cast<void>(persist_.drain());
      apply(lane.base + shared.tail);
      for_entries(lane.base + shared.tail, [&](const EntryTag& tag, const std::byte* data) {
        if (tag.kind != EntryKind::kAnd64) return;
        std::uint64_t mask = 0;
        std::memcpy(&mask, data, sizeof(mask));
        freed(tag.home, ~mask);
      });
      shared.tail.shared().store(shared.tail + size, std::memory_order_release);
    }
    shared.in_flight.shared().store(0, std::memory_order_release);
    SharedLock::release_of(shared.lock, user);
  }
}

std::optional<RecordHeader> Journal::valid_record(const Lane& lane, std::uint64_t at,
                                                  std::uint64_t above) const {
  if (at + sizeof(RecordHeader) > lane_bytes_) return std::nullopt;
  RecordHeader header;
  std::memcpy(&header, lane.base + at, sizeof(header));
  if (header.seq <= above || header.seq > kCheckedMax || header.flags != 0) return std::nullopt;
  if (header.length < sizeof(header) || header.length > lane_bytes_ - at) return std::nullopt;
  RecordHeader bare = header;
  bare.crc = 0;
  const std::uint32_t seed = crc32c(&bare, sizeof(bare));
  const std::uint32_t crc =
      crc32c(lane.base + at + sizeof(header), header.length - sizeof(header), seed);
  if (crc != header.crc) return std::nullopt;
  return header;
}

Status Journal::walk_lane(const Lane& lane, std::uint64_t above, std::vector<Found>& found) const {
  std::uint64_t at = 0;
  while (const std::optional<RecordHeader> header = valid_record(lane, at, above)) {
    found.push_back({reinterpret_cast<const RecordHeader*>(lane.base + at), lane.base + at});
    above = header->seq;
    at += line_round(header->length);
  }
  // A record is written only after the one before it was fenced. So one that is valid and newer
  // behind one that is not means damage, not a crash.
  for (at += kLineBytes; at < lane_bytes_; at += kLineBytes) {
    if (valid_record(lane, at, above)) {
      return fail(EUCLEAN, "A committed record of the journal is damaged (lane at offset " +
                               std::to_string(lane.base - heap_base_) + ", before byte " +
                               std::to_string(at) + "); restore the heap from a backup.");
    }
  }
  return {};
}

Status Journal::check_entries(const Found& record, std::uint64_t heap_bytes) const {
  const Offset end = where_ + sizeof(JournalHeader) + lanes_.size() * lane_bytes_;
  const std::byte* at = record.at + sizeof(RecordHeader);
  const std::byte* const stop = record.at + record.header->length;
  bool sound = true;
  for (std::uint32_t i = 0; sound && i < record.header->entries; ++i) {
    sound = at + kWordBytes <= stop;
    if (!sound) break;
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof(word));
    const EntryTag tag = EntryTag::unpack(word);
    const bool is_word = tag.kind != EntryKind::kBytes;
    at += kWordBytes + tag.data_bytes();
    sound = at <= stop && tag.len > 0 && tag.kind <= EntryKind::kAnd64 &&
            (!is_word || (tag.len == kWordBytes && tag.home % kWordBytes == 0)) &&
            tag.home >= sizeof(ArenaIdentity) && tag.home + tag.len <= heap_bytes &&
            (tag.home + tag.len <= where_ || tag.home >= end);
  }
  if (sound && at == stop) return {};
  return fail(EUCLEAN, "Journal record " + std::to_string(record.header->seq) +
                           " changes what no transaction may; restore the heap from a backup.");
}

Result<Journal::Recovery> Journal::recover(std::uint64_t heap_bytes) {
  for (Lane& lane : lanes_) *lane.shared = LaneShared{};
  const std::uint64_t home = *checked_value(header_->watermark);
  std::vector<Found> found;
  for (const Lane& lane : lanes_) BTD_TRY(walk_lane(lane, home, found));
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.header->seq < b.header->seq; });
  for (const Found& record : found) BTD_TRY(check_entries(record, heap_bytes));
  const std::uint64_t last = found.empty() ? home : found.back().header->seq;
  shared_.home_seq = home;
  shared_.next_seq = first_seq_ = last + 1;
  Recovery recovery;
  for (const Found& record : found) {
    apply(record.at);
    for_entries(record.at, [this](const EntryTag& tag, const std::byte*) {
      persist_.flush(heap_base_ + tag.home, tag.len);
    });
    ++recovery.records;
    recovery.bytes += record.header->length;
  }
  if (found.empty()) return recovery;
  if (!persist_.drain()) return std::unexpected(persist_.health().error());
  BTD_TRY(raise_watermark(last));
  return recovery;
}

}  // namespace btd
