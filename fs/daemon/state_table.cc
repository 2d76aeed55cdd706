#include "fs/daemon/state_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstring>

#ifdef BTD_STATE_HOOK
void btd_state_store_hook();  // tests: called before every store, may throw
#endif

namespace btd {

namespace {

constexpr std::size_t kMapBytes = 2 * kMaxCapacity * sizeof(StateEntry);

// One store that the next worker may see as the last one.
template <class T>
void put(T& to, T value) {
#ifdef BTD_STATE_HOOK
  btd_state_store_hook();
#endif
  std::atomic_ref<T>(to).store(value, std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void put_entry(StateEntry& to, const StateEntry& from) {
  put(to.nlookup, from.nlookup);
  put(to.opens, from.opens);
  put(to.backing_id, from.backing_id);
  put(to.flags, from.flags);
  put(to.suid_watch, from.suid_watch);
  put(to.id, from.id);
}

std::uint64_t home(std::uint64_t id, std::uint64_t capacity) {
  return (id * 0x9e3779b97f4a7c15U) >> (64 - std::countr_zero(capacity));
}

}  // namespace

Result<int> StateTable::create_memfd(std::uint64_t session) {
  int fd = memfd_create("btd-state", MFD_CLOEXEC);
  if (fd < 0) return fail(errno, "cannot make memory for the worker's state");
  StateHeader header{};
  header.magic = kStateMagic;
  header.version = kStateVersion;
  header.session = session;
  header.mounted_at = static_cast<std::uint64_t>(time(nullptr));
  if (ftruncate(fd, kMinCapacity * sizeof(StateEntry)) != 0 ||
      pwrite(fd, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header)) {
    int error = errno;
    close(fd);
    return fail(error, "cannot make memory for the worker's state");
  }
  return fd;
}

Result<std::unique_ptr<StateTable>> StateTable::attach(int fd) {
  void* base = mmap(nullptr, kMapBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) return fail(errno, "cannot map the worker's state");
  std::unique_ptr<StateTable> state(new StateTable);
  state->fd_ = fd;
  state->base_ = static_cast<char*>(base);
  state->header_ = static_cast<StateHeader*>(base);
  state->slots_ = reinterpret_cast<SlotRecord*>(state->base_ + kSlotsOffset);
  if (state->header_->magic != kStateMagic || state->header_->version != kStateVersion)
    return fail(EPROTO,
                "the running supervisor is of another version of this program; unmount and mount "
                "again to change versions");
  if (state->header_->capacity == 0) BTD_TRY(state->rebuild(kMinCapacity));
  state->recover();
  return state;
}

StateTable::~StateTable() {
  if (base_ != nullptr) munmap(base_, kMapBytes);
}

StateEntry* StateTable::table(std::uint64_t capacity) const {
  return reinterpret_cast<StateEntry*>(base_ + capacity * sizeof(StateEntry));
}

void StateTable::recover() {
  if (header_->pending.valid != 0) {
    apply_pending();
    put(header_->pending.valid, std::uint64_t{0});
  }
  live_ = dead_ = 0;
  const StateEntry* entries = table(header_->capacity);
  for (std::uint64_t i = 0; i < header_->capacity; ++i) {
    if (entries[i].id == kTombstone) {
      ++dead_;
    } else if (entries[i].id != 0) {
      ++live_;
    }
  }
}

std::uint64_t StateTable::find_index(std::uint64_t id) const {
  const std::uint64_t capacity = header_->capacity;
  const StateEntry* entries = table(capacity);
  for (std::uint64_t i = home(id, capacity);; i = (i + 1) & (capacity - 1)) {
    if (entries[i].id == id) return i;
    if (entries[i].id == 0) return capacity;
  }
}

// The caller has looked for `id` and knows it absent.
Result<std::uint64_t> StateTable::index_for_insert(std::uint64_t id) {
  BTD_TRY(make_room());
  const std::uint64_t capacity = header_->capacity;
  const StateEntry* entries = table(capacity);
  std::uint64_t i = home(id, capacity);
  while (entries[i].id != 0 && entries[i].id != kTombstone) i = (i + 1) & (capacity - 1);
  if (entries[i].id == kTombstone) --dead_;
  ++live_;
  return i;
}

// Keeps one entry in four free, so that probes stay short and always end.
Status StateTable::make_room() {
  const std::uint64_t capacity = header_->capacity;
  if ((live_ + dead_ + 1) * 4 <= capacity * 3) return {};
  std::uint64_t next = kMinCapacity;
  while (next < live_ * 2) next *= 2;
  if (next == capacity) next *= 2;  // a table cannot be rebuilt in its own place
  if (next > kMaxCapacity) return fail(ENOMEM);
  return rebuild(next);
}

// Builds the table of another capacity beside the present one and publishes it with one store.
Status StateTable::rebuild(std::uint64_t capacity) {
  const auto offset = static_cast<off_t>(capacity * sizeof(StateEntry));
  // A worker that died here may have left half a table.
  fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, offset);
  if (lseek(fd_, 0, SEEK_END) < 2 * offset && ftruncate(fd_, 2 * offset) != 0)
    return fail(errno, "no memory for the table of known files");
  StateEntry* next = table(capacity);
  const std::uint64_t old = header_->capacity;
  for (std::uint64_t k = 0; k < old; ++k) {
    const StateEntry& entry = table(old)[k];
    if (entry.id == 0 || entry.id == kTombstone) continue;
    std::uint64_t i = home(entry.id, capacity);
    while (next[i].id != 0) i = (i + 1) & (capacity - 1);
    put_entry(next[i], entry);
  }
  put(header_->capacity, capacity);
  dead_ = 0;
  if (old != 0)
    fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(old * sizeof(StateEntry)),
              static_cast<off_t>(old * sizeof(StateEntry)));
  return {};
}

void StateTable::update(std::uint64_t index, const StateEntry& entry, std::uint32_t slot,
                        std::uint32_t count) {
  PendingUpdate& pending = header_->pending;
  put(pending.index, index);
  put_entry(pending.entry, entry);
  put(pending.slot, slot);
  put(pending.count, count);
  put(pending.valid, std::uint64_t{1});
  apply_pending();
  put(pending.valid, std::uint64_t{0});
}

void StateTable::apply_pending() {
  const PendingUpdate& pending = header_->pending;
  put_entry(table(header_->capacity)[pending.index], pending.entry);
  if (pending.slot != kNoSlot) put(slots_[pending.slot].count, pending.count);
}

// An erased entry becomes a tombstone, or free where no probe can pass it.
void StateTable::erase(std::uint64_t index) {
  const std::uint64_t mask = header_->capacity - 1;
  StateEntry* entries = table(header_->capacity);
  const bool last = entries[(index + 1) & mask].id == 0;
  StateEntry gone;
  gone.id = last ? 0 : kTombstone;
  update(index, gone, kNoSlot, 0);
  --live_;
  if (!last) {
    ++dead_;
    return;
  }
  for (std::uint64_t i = (index - 1) & mask; entries[i].id == kTombstone; i = (i - 1) & mask) {
    put(entries[i].id, std::uint64_t{0});
    --dead_;
  }
}

std::optional<StateEntry> StateTable::find(std::uint64_t id) const {
  std::lock_guard lock(mutex_);
  const std::uint64_t index = find_index(id);
  if (index == header_->capacity) return std::nullopt;
  return table(header_->capacity)[index];
}

Result<StateEntry> StateTable::add_locked(std::uint32_t slot, std::uint32_t slot_count,
                                          std::uint64_t id, std::int64_t dlookup,
                                          std::int64_t dopens) {
  std::uint64_t index = find_index(id);
  StateEntry entry;
  entry.id = id;
  if (index == header_->capacity) {
    BTD_ASSIGN(index, index_for_insert(id));
  } else {
    entry = table(header_->capacity)[index];
  }
  const std::int64_t lookups = static_cast<std::int64_t>(entry.nlookup) + dlookup;
  const std::int64_t opens = static_cast<std::int64_t>(entry.opens) + dopens;
  entry.nlookup = static_cast<std::uint64_t>(std::max<std::int64_t>(0, lookups));
  entry.opens = static_cast<std::uint32_t>(std::max<std::int64_t>(0, opens));
  update(index, entry, slot, slot_count);
  return entry;
}

Result<StateEntry> StateTable::add(std::uint32_t slot, std::uint64_t id, std::int32_t dlookup,
                                   std::int32_t dopens) {
  std::lock_guard lock(mutex_);
  if (slot == kNoSlot) return add_locked(kNoSlot, 0, id, dlookup, dopens);
  SlotRecord& record = slots_[slot];
  if (record.count == kMaxUndo) return fail(ENOMEM);
  UndoItem& item = record.items[record.count];
  put(item.id, id);
  put(item.dlookup, dlookup);
  put(item.dopens, dopens);
  return add_locked(slot, record.count + 1, id, dlookup, dopens);
}

StateEntry StateTable::forget(std::uint64_t id, std::uint64_t n) {
  std::lock_guard lock(mutex_);
  const std::uint64_t index = find_index(id);
  if (index == header_->capacity) return {};
  StateEntry entry = table(header_->capacity)[index];
  entry.nlookup -= std::min(n, entry.nlookup);
  update(index, entry, kNoSlot, 0);
  return entry;
}

Status StateTable::set_backing(std::uint64_t id, std::int32_t backing_id) {
  std::lock_guard lock(mutex_);
  std::uint64_t index = find_index(id);
  StateEntry entry;
  entry.id = id;
  if (index == header_->capacity) {
    if (backing_id == 0) return {};
    BTD_ASSIGN(index, index_for_insert(id));
  } else {
    entry = table(header_->capacity)[index];
  }
  entry.backing_id = backing_id;
  update(index, entry, kNoSlot, 0);
  return {};
}

std::optional<StateEntry> StateTable::set_flags(std::uint64_t id, std::uint32_t flags) {
  return change_flags(id, flags, 0);
}

std::optional<StateEntry> StateTable::clear_flags(std::uint64_t id, std::uint32_t flags) {
  return change_flags(id, 0, flags);
}

std::optional<StateEntry> StateTable::change_flags(std::uint64_t id, std::uint32_t set,
                                                   std::uint32_t clear) {
  std::lock_guard lock(mutex_);
  const std::uint64_t index = find_index(id);
  if (index == header_->capacity) return std::nullopt;
  StateEntry entry = table(header_->capacity)[index];
  const std::uint32_t flags = (entry.flags | set) & ~clear;
  if (flags != entry.flags) {
    entry.flags = flags;
    update(index, entry, kNoSlot, 0);
  }
  return entry;
}

void StateTable::set_suid_watch(std::uint64_t id, std::uint32_t mark) {
  std::lock_guard lock(mutex_);
  const std::uint64_t index = find_index(id);
  if (index == header_->capacity) return;
  StateEntry entry = table(header_->capacity)[index];
  if (entry.suid_watch == mark) return;
  entry.suid_watch = mark;
  update(index, entry, kNoSlot, 0);
}

void StateTable::drop_if_idle(std::uint64_t id) {
  std::lock_guard lock(mutex_);
  const std::uint64_t index = find_index(id);
  if (index == header_->capacity) return;
  const StateEntry& entry = table(header_->capacity)[index];
  if (entry.nlookup == 0 && entry.opens == 0 && entry.backing_id == 0) erase(index);
}

void StateTable::for_each(const std::function<void(const StateEntry&)>& visit) const {
  std::lock_guard lock(mutex_);
  const StateEntry* entries = table(header_->capacity);
  for (std::uint64_t i = 0; i < header_->capacity; ++i)
    if (entries[i].id != 0 && entries[i].id != kTombstone) visit(entries[i]);
}

std::uint64_t StateTable::size() const {
  std::lock_guard lock(mutex_);
  return live_;
}

std::optional<std::uint32_t> StateTable::claim_slot() {
  std::lock_guard lock(mutex_);
  for (std::uint32_t i = 0; i < kSlots; ++i) {
    if (claimed_[i] || slots_[i].unique != 0) continue;
    claimed_[i] = true;
    return i;
  }
  return std::nullopt;
}

void StateTable::give_back_slot(std::uint32_t slot) {
  std::lock_guard lock(mutex_);
  claimed_[slot] = false;
}

void StateTable::begin(std::uint32_t slot, std::uint64_t unique) {
  put(slots_[slot].count, std::uint32_t{0});
  put(slots_[slot].unique, unique);
}

void StateTable::end(std::uint32_t slot) { put(slots_[slot].unique, std::uint64_t{0}); }

std::optional<std::uint32_t> StateTable::adopt(std::uint64_t unique) {
  std::lock_guard lock(mutex_);
  std::optional<std::uint32_t> adopted;
  for (std::uint32_t i = 0; i < kSlots; ++i) {
    if (claimed_[i] || slots_[i].unique != unique) continue;
    for (std::uint32_t k = slots_[i].count; k > 0; --k) {
      const UndoItem item = slots_[i].items[k - 1];
      (void)add_locked(i, k - 1, item.id, -std::int64_t{item.dlookup}, -std::int64_t{item.dopens});
    }
    if (!adopted) adopted = i;
  }
  if (adopted) claimed_[*adopted] = true;
  return adopted;
}

void StateTable::forget_earlier_requests() {
  std::lock_guard lock(mutex_);
  for (std::uint32_t i = 0; i < kSlots; ++i)
    if (!claimed_[i] && slots_[i].unique != 0) put(slots_[i].unique, std::uint64_t{0});
}

}  // namespace btd
