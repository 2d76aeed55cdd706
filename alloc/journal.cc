#include "alloc/journal.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "alloc/crc.h"

namespace btd {
namespace {

constexpr std::size_t kHeaderWords = sizeof(RecordHeader) / kWordBytes;

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

void Record::clear() {
  words_.assign(kHeaderWords, 0);
  entries_ = 0;
}

void Record::bytes(Offset home, const void* data, std::size_t len) {
  const auto* from = static_cast<const std::byte*>(data);
  while (len > 0) {
    const std::size_t part = std::min<std::size_t>(len, EntryTag::kMaxLen);
    const EntryTag tag{.home = home, .len = static_cast<std::uint32_t>(part)};
    const std::size_t at = words_.size();
    words_.resize(at + 1 + tag.data_bytes() / kWordBytes);
    words_.at(at) = tag.pack();
    std::memcpy(&words_.at(at + 1), from, part);
    ++entries_;
    home += part;
    from += part;
    len -= part;
  }
}

void Record::word(EntryKind kind, Offset home, std::uint64_t value) {
  words_.push_back(EntryTag{.home = home, .len = kWordBytes, .kind = kind}.pack());
  words_.push_back(value);
  ++entries_;
}

std::size_t Record::lane_bytes() const { return line_round(words_.size() * kWordBytes); }

std::span<const std::byte> Record::seal(std::uint64_t seq) {
  RecordHeader header{.seq = seq,
                      .length = static_cast<std::uint32_t>(words_.size() * kWordBytes),
                      .entries = entries_,
                      .flags = 0,
                      .crc = 0};
  std::memcpy(words_.data(), &header, sizeof(header));
  header.crc = crc32c(words_.data(), header.length);
  std::memcpy(words_.data(), &header, sizeof(header));
  words_.resize(lane_bytes() / kWordBytes);
  return std::as_bytes(std::span(words_));
}

void Journal::format(Persist& persist, std::byte* where, const Geometry& geometry) {
  JournalHeader fresh{.magic = persistent(kJournalMagic),
                      .version = persistent(kFormatVersion),
                      .lanes = persistent(geometry.lanes),
                      .lane_bytes = persistent(geometry.lane_bytes),
                      .reserved = {},
                      .crc = {},
                      .pad0 = {},
                      .watermark = persistent(checked_word(0)),
                      .pad1 = {}};
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

Result<std::unique_ptr<Journal>> Journal::open(Persist& persist, std::byte* heap_base,
                                               Offset where) {
  const auto* header = reinterpret_cast<const JournalHeader*>(heap_base + where);
  if (header->magic != kJournalMagic || header->version != kFormatVersion ||
      header->crc != crc32c(header, offsetof(JournalHeader, crc))) {
    return fail(EUCLEAN, "The journal's header is damaged; restore the heap from a backup.");
  }
  const std::optional<std::uint64_t> watermark = checked_value(header->watermark);
  if (!watermark) {
    return fail(EUCLEAN, "The journal's watermark is damaged; restore the heap from a backup.");
  }
  std::unique_ptr<Journal> journal(new Journal(
      persist, heap_base, where, {.lanes = header->lanes, .lane_bytes = header->lane_bytes}));
  journal->watermark_ = *watermark;
  journal->next_seq_ = journal->first_seq_ = *watermark + 1;
  return journal;
}

Journal::Journal(Persist& persist, std::byte* heap_base, Offset where, const Geometry& geometry)
    : persist_(persist),
      heap_base_(heap_base),
      where_(where),
      header_(reinterpret_cast<JournalHeader*>(heap_base + where)),
      lane_bytes_(geometry.lane_bytes),
      lanes_(geometry.lanes) {
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i].base = heap_base + where + sizeof(JournalHeader) + i * lane_bytes_;
  }
}

std::unique_lock<std::mutex> Journal::take_lane(Lane*& lane) {
  // A thread stays with its lane while nobody else takes that; any other is as good.
  thread_local constinit std::size_t favourite = ~std::size_t{0};
  if (favourite == ~std::size_t{0}) favourite = static_cast<unsigned>(sched_getcpu());
  const std::size_t start = favourite % lanes_.size();
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const std::size_t at = start + i < lanes_.size() ? start + i : start + i - lanes_.size();
    lane = &lanes_[at];
    std::unique_lock lock(lane->mutex, std::try_to_lock);
    if (!lock.owns_lock()) continue;
    favourite = at;
    return lock;
  }
  lane = &lanes_[start];
  return std::unique_lock(lane->mutex);
}

Result<std::uint64_t> Journal::commit(Record& record) {
  const std::size_t size = record.lane_bytes();
  if (size > lane_bytes_) {
    return fail(E2BIG, "The transaction needs " + std::to_string(size) +
                           " bytes of log but a lane has " + std::to_string(lane_bytes_) +
                           "; split it, or format the heap with larger lanes.");
  }
  BTD_TRY(persist_.health());
  for (;;) {
    Lane* lane = nullptr;
    std::unique_lock lock = take_lane(lane);
    if (lane->tail + size > lane_bytes_) {
      lock.unlock();
      BTD_TRY(checkpoint());
      continue;
    }
    const std::uint64_t seq = next_seq_.fetch_add(1, std::memory_order_relaxed);
    const std::span<const std::byte> sealed = record.seal(seq);
    if (fault_ == Fault::kApplyBeforeCommit) [[unlikely]]
      apply(sealed.data(), &lane->homes);
    persist_.copy_nodrain(lane->base + lane->tail, sealed.data(), sealed.size());
    if (!persist_.drain()) return std::unexpected(persist_.health().error());
    lane->tail += sealed.size();
    apply(sealed.data(), &lane->homes);
    return seq;
  }
}

void Journal::apply(const std::byte* record, HomeLines* homes) {
  for_entries(record, [this, homes](const EntryTag& tag, const std::byte* data) {
    std::byte* home = heap_base_ + tag.home;
    if (homes != nullptr) homes->add(tag.home, tag.len);
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

void Journal::flush_homes() {
  if (persist_.domain() == Domain::kMsync) {
    // The kernel knows the dirty pages; one call for the range is far cheaper than one for each.
    std::uint64_t low = ~std::uint64_t{0};
    std::uint64_t high = 0;
    for (const Lane& lane : lanes_) {
      for (const std::uint64_t line : lane.homes.lines()) {
        low = std::min(low, line);
        high = std::max(high, line + 1);
      }
    }
    if (low < high) persist_.flush(heap_base_ + low * kLineBytes, (high - low) * kLineBytes);
    return;
  }
  for (const Lane& lane : lanes_) {
    for (const std::uint64_t line : lane.homes.lines())
      persist_.flush(heap_base_ + line * kLineBytes, kLineBytes);
  }
}

Status Journal::raise_watermark(std::uint64_t seq) {
  persist_.store(header_->watermark, checked_word(seq));
  if (!persist_.drain()) return persist_.health();
  watermark_.store(seq, std::memory_order_release);
  return {};
}

Status Journal::checkpoint() {
  const std::lock_guard one(checkpoint_mutex_);
  std::vector<std::unique_lock<std::mutex>> all;
  all.reserve(lanes_.size());
  for (Lane& lane : lanes_) all.emplace_back(lane.mutex);
  const std::uint64_t last = next_seq_.load(std::memory_order_relaxed) - 1;
  if (last == watermark()) return {};
  BTD_TRY(persist_.health());
  if (fault_ == Fault::kWatermarkBeforeFlush) [[unlikely]]
    BTD_TRY(raise_watermark(last));
  flush_homes();
  if (!persist_.drain()) return persist_.health();
  BTD_TRY(raise_watermark(last));
  for (Lane& lane : lanes_) {
    lane.tail = 0;
    lane.homes.clear();
  }
  checkpoints_.fetch_add(1, std::memory_order_relaxed);
  return {};
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
  std::vector<Found> found;
  for (const Lane& lane : lanes_) BTD_TRY(walk_lane(lane, watermark(), found));
  Recovery recovery;
  if (found.empty()) return recovery;
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.header->seq < b.header->seq; });
  for (const Found& record : found) BTD_TRY(check_entries(record, heap_bytes));
  for (const Found& record : found) {
    apply(record.at, nullptr);
    for_entries(record.at, [this](const EntryTag& tag, const std::byte*) {
      persist_.flush(heap_base_ + tag.home, tag.len);
    });
    ++recovery.records;
    recovery.bytes += record.header->length;
  }
  if (!persist_.drain()) return std::unexpected(persist_.health().error());
  const std::uint64_t last = found.back().header->seq;
  BTD_TRY(raise_watermark(last));
  next_seq_ = first_seq_ = last + 1;
  return recovery;
}

}  // namespace btd
