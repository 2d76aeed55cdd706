// What makes, moves and removes names: each call is one commit. The pattern is the same everywhere:
// read the rows, decide, then commit the new rows on the condition that those read still hold.
#include <fcntl.h>
#include <linux/fs.h>

#include <algorithm>

#include "fs/namespace/layout.h"
#include "fs/namespace/namespace.h"
#include "fs/namespace/retries.h"

namespace btd {

namespace {

template <class Loaded>
void put_inode(Batch& batch, const Loaded& loaded) {
  const auto key = rows::inode_key(loaded.inode.id);
  batch.require(key, loaded.row);
  batch.put(key, rows::bytes_of(rows::to_row(loaded.inode)));
}

void put_entry(Batch& batch, InodeId dir, std::uint64_t cookie, std::string_view name,
               const Inode& inode) {
  const rows::EntryRow row{.id = inode.id,
                           .type = static_cast<std::uint8_t>((inode.mode & S_IFMT) >> 12)};
  std::string value(rows::bytes_of(row));
  value += name;
  batch.put(rows::entry_key(dir, cookie), value);
}

// A kernel takes the listing that it keeps for good while the time is what it was. So no two
// changes leave the same, though they come in one tick of the clock, or from nodes whose clocks
// differ.
void touch(Inode& dir, Timestamp now) {
  constexpr std::int64_t kDiffer = 1'000'000'000;
  const std::int64_t ahead = dir.mtime.nanoseconds - now.nanoseconds;
  if (ahead >= 0 && ahead < kDiffer) now.nanoseconds += ahead + 1;
  dir.mtime = dir.ctime = now;
}

// A new inode: what the caller wants and what the directory passes on.
Inode make_inode(InodeId id, const NewInode& node, const Inode& parent) {
  const Timestamp now = Timestamp::now();
  Inode made{.id = id,
             .mode = node.mode,
             .nlink = S_ISDIR(node.mode) ? 2U : 1U,
             .uid = node.uid,
             .gid = node.gid,
             .rdev = node.rdev,
             .flags = parent.flags & (kInodeSparse | kInodeCoherent),
             .size = node.target.size(),
             .parent = S_ISDIR(node.mode) ? parent.id : 0,
             .atime = now,
             .mtime = now,
             .ctime = now,
             .btime = now};
  if (parent.mode & S_ISGID) {
    made.gid = parent.gid;
    if (made.is_dir()) made.mode |= S_ISGID;
  }
  return made;
}

// Takes one name from an inode. A directory has but one, so losing it makes it an orphan.
bool drop_link(Batch& batch, Inode& inode, Timestamp now) {
  inode.nlink = inode.is_dir() || inode.nlink == 0 ? 0 : inode.nlink - 1;
  inode.ctime = now;
  if (inode.nlink != 0) return false;
  batch.put(rows::orphan_key(inode.id), {});
  return true;
}

}  // namespace

Result<Inode> Namespace::create(InodeId parent, std::string_view name, InodeId id,
                                const NewInode& node, const RequestTag& tag,
                                std::optional<NodeId> home) {
  const auto lock = stripes_.of(parent);
  return with_retries([&]() -> Result<Inode> {
    BTD_ASSIGN(auto dir, load_dir(parent));
    BTD_ASSIGN(const auto place, find_free(parent, name));
    Batch batch;
    const Inode made = make_inode(id, node, dir.inode);
    if (made.is_symlink()) batch.put(rows::target_key(id), node.target);
    touch(dir.inode, made.ctime);
    if (made.is_dir()) ++dir.inode.nlink;
    batch.require(rows::entry_key(parent, place.cookie), std::nullopt);
    batch.put(rows::inode_key(id), rows::bytes_of(rows::to_row(made)));
    if (home && *home != node_of(id))
      batch.put(rows::home_key(id), rows::bytes_of(std::uint64_t{*home}));
    put_entry(batch, parent, place.cookie, name, made);
    put_inode(batch, dir);
    BTD_TRY(commit(batch, tag, {.id = id}));
    return made;
  });
}

Result<Inode> Namespace::create_nameless(InodeId parent, InodeId id, const NewInode& node,
                                         const RequestTag& tag) {
  BTD_ASSIGN(auto dir, load_dir(parent));
  Batch batch;
  Inode made = make_inode(id, node, dir.inode);
  made.nlink = 0;
  made.flags |= kInodeUnnamed;
  batch.put(rows::inode_key(id), rows::bytes_of(rows::to_row(made)));
  batch.put(rows::orphan_key(id), {});
  BTD_TRY(commit(batch, tag, {.id = id}));
  return made;
}

Result<Inode> Namespace::link(InodeId id, InodeId parent, std::string_view name,
                              const RequestTag& tag) {
  const auto lock = stripes_.of(parent);
  return with_retries([&]() -> Result<Inode> {
    BTD_ASSIGN(auto dir, load_dir(parent));
    BTD_ASSIGN(auto loaded, load(id));
    Inode& inode = loaded.inode;
    if (inode.is_dir()) return fail(EPERM);
    if (inode.nlink >= kLinkMax) return fail(EMLINK);
    // Another node took its last name, unknown to the kernel that asks; its data may be gone.
    const bool is_unnamed = (inode.flags & kInodeUnnamed) != 0;
    if (inode.nlink == 0 && !is_unnamed) return fail(ENOENT);
    BTD_ASSIGN(const auto place, find_free(parent, name));
    Batch batch;
    const Timestamp now = Timestamp::now();
    if (is_unnamed) batch.erase(rows::orphan_key(id));
    inode.flags &= ~std::uint32_t{kInodeUnnamed};
    ++inode.nlink;
    inode.ctime = now;
    touch(dir.inode, now);
    batch.require(rows::entry_key(parent, place.cookie), std::nullopt);
    put_entry(batch, parent, place.cookie, name, inode);
    put_inode(batch, loaded);
    put_inode(batch, dir);
    BTD_TRY(commit(batch, tag, {.id = id}));
    return inode;
  });
}

Result<Outcome> Namespace::unlink(InodeId parent, std::string_view name, const RequestTag& tag) {
  return remove(parent, name, false, tag);
}

Result<Outcome> Namespace::rmdir(InodeId parent, std::string_view name, const RequestTag& tag) {
  return remove(parent, name, true, tag);
}

Result<Outcome> Namespace::remove(InodeId parent, std::string_view name, bool directory,
                                  const RequestTag& tag) {
  const auto lock = stripes_.of(parent);
  return with_retries([&]() -> Result<Outcome> {
    BTD_ASSIGN(auto dir, load_dir(parent));
    BTD_ASSIGN(const auto place, find_taken(parent, name));
    BTD_ASSIGN(auto loaded, load(place.id));
    if (loaded.inode.is_dir() != directory) return fail(directory ? ENOTDIR : EISDIR);
    if (directory) {
      BTD_ASSIGN(const bool empty, is_empty(place.id));
      if (!empty) return fail(ENOTEMPTY);
      --dir.inode.nlink;
    }
    Batch batch;
    const Timestamp now = Timestamp::now();
    const auto key = rows::entry_key(parent, place.cookie);
    batch.require(key, place.row);
    batch.erase(key);
    touch(dir.inode, now);
    const Outcome outcome{.id = place.id, .lost_last_link = drop_link(batch, loaded.inode, now)};
    put_inode(batch, loaded);
    put_inode(batch, dir);
    BTD_TRY(commit(batch, tag, outcome));
    return outcome;
  });
}

Result<Outcome> Namespace::rename(InodeId from, std::string_view name, InodeId to,
                                  std::string_view new_name, unsigned flags,
                                  const RequestTag& tag) {
  if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0 ||
      flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
    return fail(EINVAL);
  const auto locks = stripes_.of(from, to);
  return with_retries([&]() -> Result<Outcome> {
    BTD_ASSIGN(auto source_dir, load_dir(from));
    BTD_ASSIGN(auto target_dir, load_dir(to));
    BTD_ASSIGN(const auto source, find_taken(from, name));
    BTD_ASSIGN(const auto target, find(to, new_name));
    if (source.id == to) return fail(EINVAL);
    if (flags & RENAME_EXCHANGE) {
      if (!target.taken()) return fail(ENOENT);
      if (target.id == from) return fail(EINVAL);
      if (source.id == target.id) return Outcome{.id = source.id};
      return exchange(source_dir, source, target_dir, target, tag);
    }
    if (target.taken() && (flags & RENAME_NOREPLACE)) return fail(EEXIST);
    if (source.id == target.id) return Outcome{.id = source.id};  // two names of one inode: POSIX
    return move(source_dir, source, target_dir, target, new_name, tag);
  });
}

// Walks up from `to`. Where an older version did not note a parent, the kernel alone keeps watch.
Status Namespace::refuse_loop(InodeId moved, InodeId to) const {
  constexpr int kDeepest = 1 << 16;
  for (int depth = 0; to != kRootId && to != 0; ++depth) {
    if (to == moved) return fail(EINVAL);
    if (depth == kDeepest) return fail(ELOOP, "the directories lie too deep in each other");
    BTD_ASSIGN(const auto dir, load(to));
    to = dir.inode.parent;
  }
  return {};
}

// Two moves at once, each below what the other moves, would make a loop that neither sees: so each
// requires that there was no other since it looked.
Status Namespace::reparent(Batch& batch, Inode& moved, InodeId to) {
  if (!moved.is_dir() || moved.parent == to) return {};
  const auto key = rows::moves_key();
  BTD_ASSIGN(const auto known, store_.get(key));
  BTD_TRY(refuse_loop(moved.id, to));
  std::uint64_t moves = 0;
  if (known) static_cast<void>(rows::parse(*known, moves));
  ++moves;
  batch.require(key, known ? std::optional<std::string_view>(*known) : std::nullopt);
  batch.put(key, rows::bytes_of(moves));
  moved.parent = to;
  return {};
}

// `from` and `to` may be one directory: then `from` alone is changed and put.
Result<Outcome> Namespace::exchange(Loaded& from, const Place& a, Loaded& to, const Place& b,
                                    const RequestTag& tag) {
  BTD_ASSIGN(auto first, load(a.id));
  BTD_ASSIGN(auto second, load(b.id));
  const bool same_dir = from.inode.id == to.inode.id;
  const Timestamp now = Timestamp::now();
  if (!same_dir && first.inode.is_dir() != second.inode.is_dir()) {
    Inode& gains = first.inode.is_dir() ? to.inode : from.inode;
    Inode& loses = first.inode.is_dir() ? from.inode : to.inode;
    ++gains.nlink;
    --loses.nlink;
  }
  first.inode.ctime = second.inode.ctime = now;
  touch(from.inode, now);
  touch(to.inode, now);
  Batch batch;
  BTD_TRY(reparent(batch, first.inode, to.inode.id));
  BTD_TRY(reparent(batch, second.inode, from.inode.id));
  const auto key_a = rows::entry_key(from.inode.id, a.cookie);
  const auto key_b = rows::entry_key(to.inode.id, b.cookie);
  batch.require(key_a, a.row);
  batch.require(key_b, b.row);
  put_entry(batch, from.inode.id, a.cookie, std::string_view(a.row).substr(sizeof(rows::EntryRow)),
            second.inode);
  put_entry(batch, to.inode.id, b.cookie, std::string_view(b.row).substr(sizeof(rows::EntryRow)),
            first.inode);
  put_inode(batch, first);
  put_inode(batch, second);
  put_inode(batch, from);
  if (!same_dir) put_inode(batch, to);
  const Outcome outcome{.id = a.id};
  BTD_TRY(commit(batch, tag, outcome));
  return outcome;
}

Result<Outcome> Namespace::move(Loaded& from, const Place& source, Loaded& to, const Place& target,
                                std::string_view new_name, const RequestTag& tag) {
  BTD_ASSIGN(auto moved, load(source.id));
  const bool same_dir = from.inode.id == to.inode.id;
  Loaded& to_dir = same_dir ? from : to;
  const bool is_dir = moved.inode.is_dir();
  const Timestamp now = Timestamp::now();
  Outcome outcome{.id = source.id};
  Batch batch;
  if (target.taken()) {
    BTD_ASSIGN(auto victim, load(target.id));
    if (is_dir != victim.inode.is_dir()) return fail(is_dir ? ENOTDIR : EISDIR);
    if (is_dir) {
      BTD_ASSIGN(const bool empty, is_empty(target.id));
      if (!empty) return fail(ENOTEMPTY);
      --to_dir.inode.nlink;
    }
    outcome.replaced = target.id;
    outcome.replaced_lost_last_link = drop_link(batch, victim.inode, now);
    put_inode(batch, victim);
    batch.require(rows::entry_key(to.inode.id, target.cookie), target.row);
  } else {
    if (target.cookie == 0) return fail(ENOSPC);
    batch.require(rows::entry_key(to.inode.id, target.cookie), std::nullopt);
  }
  if (is_dir) {
    --from.inode.nlink;
    ++to_dir.inode.nlink;
  }
  BTD_TRY(reparent(batch, moved.inode, to.inode.id));
  moved.inode.ctime = now;
  touch(from.inode, now);
  touch(to_dir.inode, now);
  const auto source_key = rows::entry_key(from.inode.id, source.cookie);
  batch.require(source_key, source.row);
  batch.erase(source_key);
  put_entry(batch, to.inode.id, target.cookie, new_name, moved.inode);
  put_inode(batch, moved);
  put_inode(batch, from);
  if (!same_dir) put_inode(batch, to);
  BTD_TRY(commit(batch, tag, outcome));
  return outcome;
}

Result<Inode> Namespace::change(InodeId id, const AttrChange& change, const RequestTag& tag) {
  const auto lock = stripes_.of(id);
  return with_retries([&]() -> Result<Inode> {
    BTD_ASSIGN(auto loaded, load(id));
    Inode& inode = loaded.inode;
    if (change.mode) inode.mode = (inode.mode & S_IFMT) | (*change.mode & 07777);
    if (change.uid) inode.uid = *change.uid;
    if (change.gid) inode.gid = *change.gid;
    if (change.atime) inode.atime = *change.atime;
    if (change.mtime) inode.mtime = *change.mtime;
    if (change.clear_suid) {
      inode.mode &= ~std::uint32_t{S_ISUID};
      if (inode.mode & S_IXGRP) inode.mode &= ~std::uint32_t{S_ISGID};
    }
    inode.flags = (inode.flags | change.set_flags) & ~change.clear_flags;
    inode.ctime = Timestamp::now();
    Batch batch;
    put_inode(batch, loaded);
    BTD_TRY(commit(batch, tag, {.id = id}));
    return inode;
  });
}

Status Namespace::erase_orphan(InodeId id) {
  const auto lock = stripes_.of(id);
  return with_retries([&] { return erase_nameless(id); });
}

Status Namespace::erase_nameless(InodeId id) {
  auto loaded = load(id);
  if (loaded && loaded->inode.nlink != 0) return fail(EBUSY, "the inode has a name");
  // Attributes first and in parts, since all of them may be more than one commit can carry; the
  // orphan row goes last, so that a crash between leaves an orphan.
  BTD_ASSIGN(const auto names, list_xattrs(id));
  constexpr std::size_t kPart = 64;
  for (std::size_t i = 0; i < names.size(); i += kPart) {
    Batch part;
    for (std::size_t j = i; j < std::min(names.size(), i + kPart); ++j)
      part.erase(rows::xattr_key(id, names[j]));
    BTD_TRY(store_.commit(part));
  }
  Batch batch;
  if (loaded) batch.require(rows::inode_key(id), loaded->row);  // nobody named it meanwhile
  if (loaded && loaded->inode.is_symlink()) batch.erase(rows::target_key(id));
  batch.erase(rows::inode_key(id));
  batch.erase(rows::home_key(id));
  batch.erase(rows::orphan_key(id));
  return store_.commit(batch);
}

}  // namespace btd
