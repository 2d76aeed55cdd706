// The part of Heap for several users: who comes, who leaves, who dies, and what they free of each
// other's.
//
// A user owns whole arenas: it alone hands out their memory, by what it knows in DRAM. Others read
// the headers. What they free they mark on the medium and flag; the owner takes it back when it
// runs dry: of contract R as it is, of T and P in a checkpoint, when no record is under way that
// may be replayed.
#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "alloc/crc.h"
#include "alloc/heap.h"
#include "alloc/recoverable.h"

namespace btd {

// Whether a user that has opened the heap, and not closed it, lives.
bool Heap::somebody_there() const {
  for (unsigned user = 0; user < Users::kMax; ++user) {
    const bool came = (shared().users.load() >> user & 1U) != 0;
    if (came && user != source_.users().self() && source_.users().alive(user)) return true;
  }
  return false;
}

// Beside others: the journal is in use, and what users share is as they left it.
Status Heap::join(HeapState last) {
  if (shared().recovering.load() != 0) {
    return fail(EAGAIN,
                "Another user of the heap has yet to recover what is from before the last unclean "
                "stop; wait for it, or let it call btd_gc().");
  }
  if (!somebody_there()) return fail(EAGAIN, "The last user of the heap is about to leave it.");
  if (shared().durable.load() != durable()) {
    return fail(EINVAL,
                "Another process has the heap open with another durability; take the same.");
  }
  generation_ = last.generation;
  BTD_TRY(open_journal());
  const unsigned self = source_.users().self();
  const std::uint64_t mine = self_bit();
  {
    // Who had this number before and died is not to be confused with this user. And who found it
    // dead, and buries it now, is done before this user locks anything.
    SharedLock::release_of(shared().burial, self);  // it died in a burial
    BTD_ASSIGN(const SharedHold one,
               SharedHold::take(shared().burial, burial_context_, "a dead user's work"));
    if ((shared().users.load() & mine) != 0) finish_for(self);
  }
  if ((shared().users.shared().fetch_or(mine) & mine) != 0) shared().leaks = 1;
  Status settled = bury_the_dead();
  if (settled) settled = settle();
  if (!settled) shared().users.shared().fetch_and(~mine);
  return settled;
}

// A first arena: one that is near and nobody's, or a new one, or any. Under the door.
Status Heap::settle() {
  BTD_ASSIGN(bool found, adopt_orphan(Where::kNear));
  if (found) return {};
  Status made = make_arena(table_.arenas(), false);
  if (made || made.error().code != ENOSPC) return made;
  BTD_ASSIGN(found, adopt_orphan(Where::kAnywhere));
  return found ? Status{} : make_arena(table_.arenas(), true);
}

// An arena that no user has, if there is one. The caller holds no lock but that of making room.
Result<bool> Heap::take_orphan(Where where) {
  BTD_ASSIGN(const Door door, Door::enter(source_.users()));
  BTD_TRY(bury_the_dead());
  return adopt_orphan(where);
}

// A new arena for this user. The same.
Status Heap::take_arena(bool is_full) {
  BTD_ASSIGN(const Door door, Door::enter(source_.users()));
  return make_arena(table_.arenas(), is_full);
}

// Under the door.
Status Heap::format_arena(std::uint32_t index) {
  // An arena that a crash left half made is made again; until arena_count says so it is nothing.
  const SegmentTable::Geometry& plan = table_.geometry(index);
  const std::uint64_t used = source_.used_bytes(index);
  BTD_TRY(source_.reserve_space(index * source_.arena_bytes(), sizeof(ArenaHeader)));
  clear_table(index, plan, used);
  header(index)->shared = ArenaShared{};
  write_identity(index, header()->identity);
  if (!persist_.drain()) return persist_.health();
  persist_.store(header()->arena_count, checked_word(index + 1));
  if (!persist_.drain()) return persist_.health();
  return attach(index, true);
}

Status Heap::make_arena(std::uint32_t index, bool is_full) {
  if (index == SegmentTable::kMaxArenas)
    return fail(ENOSPC, "The heap has all arenas it may have.");
  if (source_.count() == index) BTD_TRY(source_.extend());
  BTD_TRY(source_.provide(index, is_full));
  if (!source_.users().own(index)) return fail(EBUSY, "A new arena of the heap is in use.");
  Status made = format_arena(index);
  if (!made) source_.users().disown(index);
  return made;
}

// Takes an arena that no user has, if there is one. Under the door, after bury_the_dead().
Result<bool> Heap::adopt_orphan(Where where) {
  for (std::uint32_t i = 0; i < table_.arenas(); ++i) {
    if (table_.owns(i) || (where == Where::kNear && !source_.near(i))) continue;
    BTD_TRY(source_.reach(i));
    if (!source_.users().own(i)) continue;
    BTD_TRY(check_present(source_, i, sizeof(ArenaHeader)));
    BTD_TRY(check_identity(source_, header(i)->identity, i));
    // While nothing is under way and all is home, the bits of T and P say what may be used.
    Status adopted = checkpoint_and([&]() -> Status { return attach(i, true); });
    if (adopted) return true;
    if (!table_.owns(i)) source_.users().disown(i);
    return std::unexpected(std::move(adopted).error());
  }
  return false;
}

Status Heap::adopt_all() {
  for (bool more = true; more;) {
    BTD_ASSIGN(more, adopt_orphan(Where::kAnywhere));
  }
  return {};
}

// Finishes what users that died were doing. Under the door.
Status Heap::bury_the_dead() {
  bool died = false;
  for (unsigned user = 0; user < Users::kMax; ++user) {
    const std::uint64_t bit = std::uint64_t{1} << user;
    if ((shared().users.load() & bit) == 0 || user == source_.users().self() ||
        source_.users().alive(user))
      continue;
    if (!bury(user)) continue;  // whoever comes to the door next tries again
    shared().leaks = 1;
    shared().users.shared().fetch_and(~bit);
    died = true;
  }
  if (!died) return {};
  // Whoever has the lock by now finished what was promised, or will.
  if (!SharedLock::try_lock(shared().copy, source_.users().self())) return {};
  Status finished = finish_copy();
  SharedLock::unlock(shared().copy);
  return finished;
}

// From any waiter's side too: what it waits for may be that of a dead user.
bool Heap::bury(unsigned user) {
  const auto one = SharedHold::take(shared().burial, burial_context_, "a dead user's work");
  if (!one || source_.users().alive(user) || !journal_->can_bury(user)) return false;
  finish_for(user);
  return true;
}

// Under the burial lock, so that nobody takes a living user's locks for those of a dead one that
// had its number.
void Heap::finish_for(unsigned user) {
  journal_->bury(user, [this](Offset word, std::uint64_t bits) {
    // Freed, and so claimed: until the owner takes it back.
    table_.mark_freed(word, bits);
    table_.flag(word);
  });
  SharedLock::release_of(shared().names, user);
  SharedLock::release_of(shared().copy, user);
}

bool Heap::others_freed() const {
  if (has_flagged_.load(std::memory_order_relaxed)) return true;
  return std::ranges::any_of(table_.own_arenas(), [this](std::uint32_t arena) {
    return header(arena)->shared.summary.load() != 0;
  });
}

Status Heap::return_freed() {
  std::vector<Segment*> found;
  for (const std::uint32_t arena : table_.own_arenas()) table_.take_flagged(arena, found);
  std::vector<Segment*> empty;  // large, of R
  for (Segment* segment : found) {
    if (segment->recoverable()) {
      recoverable_->freed_by_others(*segment, empty);
      continue;
    }
    const std::lock_guard lock(flagged_mutex_);
    flagged_.push_back(segment);
    has_flagged_ = true;
  }
  BTD_TRY(table_.retire(empty));
  return has_flagged_.load() ? checkpoint() : Status{};
}

// In a checkpoint: slots of T and P that others freed; those that this user freed are among `ripe`.
Status Heap::take_ripe_of_others(std::vector<Slot>& ripe) {
  std::vector<Segment*> flagged;
  {
    const std::lock_guard lock(flagged_mutex_);
    flagged.swap(flagged_);
    has_flagged_ = false;
  }
  if (flagged.empty()) return {};
  std::set<std::pair<const Segment*, std::uint32_t>> known;
  for (const Slot& slot : ripe) known.emplace(slot.segment, slot.index);
  for (Segment* segment : flagged) {
    // It may have been retired meanwhile, and be another's, or not be made yet.
    if (segment->recoverable() || !table_.is_made(*segment)) continue;
    for (std::uint32_t i = 0; i < segment->words; ++i) {
      std::uint64_t freed = segment->load_freed(i) & ~segment->load_live(i) & segment->existing(i);
      for (; freed != 0; freed &= freed - 1) {
        const std::uint32_t slot = i * 64 + static_cast<std::uint32_t>(std::countr_zero(freed));
        if (known.emplace(segment, slot).second)
          ripe.push_back({.segment = segment, .index = slot});
      }
    }
  }
  return {};
}

// A record that writes into memory of contract R may be replayed until it is home; till then the
// memory must not be reused. The owner waits for that where it is this process; another cannot
// know, so the record is brought home at once.
void Heap::note_logged(std::span<Segment* const> segments, std::uint64_t seq) {
  bool foreign = false;
  for (Segment* segment : segments) {
    if (segment->foreign)
      foreign = true;
    else
      segment->note_logged(seq);
  }
  // What is committed is; a medium that fails is told by the next commit.
  if (foreign) static_cast<void>(checkpoint());
}

Status Heap::close() {
  BTD_ASSIGN(const Door door, Door::enter(source_.users()));
  if (several()) {
    BTD_TRY(bury_the_dead());
    if (!source_.users().alone()) return leave();
  }
  // What others freed in an arena that nobody has is on the medium only when somebody wrote it
  // there.
  for (std::uint32_t i = 0; i < table_.arenas(); ++i) {
    BTD_TRY(source_.reach(i));
    if (!table_.owns(i) && header(i)->shared.summary.load() != 0) BTD_TRY(adopt_all());
  }
  BTD_TRY(write_what_is_known());
  shared().users = 0;
  // What threads of a dead user had cached counts as live until the next open marks.
  return mark_state(shared().leaks.load() == 0);
}

// What this user knows of its arenas goes to the medium, where who has them next finds it.
Status Heap::write_what_is_known() {
  BTD_TRY(return_freed());
  BTD_TRY(checkpoint());
  BTD_TRY(recoverable_->write_bitmaps());
  return table_.persist_freed();
}

// Others go on.
Status Heap::leave() {
  BTD_TRY(write_what_is_known());
  for (const std::uint32_t arena : table_.own_arenas()) source_.users().disown(arena);
  shared().users.shared().fetch_and(~self_bit());
  return {};
}

Status Heap::collect() {
  if (!source_.users().alone()) {
    return fail(EBUSY,
                "Other processes have the heap open; what is reachable for them cannot be "
                "told. End them, or let the last of them do it.");
  }
  BTD_TRY(bury_the_dead());
  BTD_TRY(adopt_all());
  // What waits for the watermark is not to be met by it after it was swept.
  BTD_TRY(return_freed());
  BTD_TRY(checkpoint());
  recoverable_->soil();
  shared().recovering = 1;
  old_blocks_.clear();
  table_.for_each([this](const Segment& segment) {
    if (!segment.recoverable()) old_blocks_.push_back(&segment);
  });
  return {};
}

}  // namespace btd
