// Opening, reading, ids and result rows. What changes names is in change.cc, attributes in
// xattr.cc.
#include "fs/namespace/namespace.h"

#include <sys/random.h>

#include <algorithm>

#include "fs/namespace/layout.h"
#include "fs/namespace/retries.h"

namespace btd {

namespace {

Status damaged(const char* what, std::uint64_t id) {
  return fail(EIO, std::string("the namespace is damaged: ") + what + " " + std::to_string(id) +
                       "; stop the mount and run btd check on the pool");
}

}  // namespace

Status Namespace::format(MetaStore& store, std::uint32_t root_mode) {
  rows::FormatRow format{.magic = rows::kMagic, .version = rows::kVersion, .hash_key = 0};
  if (::getrandom(&format.hash_key, sizeof format.hash_key, 0) != sizeof format.hash_key)
    return fail(errno, "cannot draw a random number");
  const Timestamp now = Timestamp::now();
  const Inode root{.id = kRootId,
                   .mode = S_IFDIR | (root_mode & 07777),
                   .nlink = 2,
                   .atime = now,
                   .mtime = now,
                   .ctime = now,
                   .btime = now};
  const rows::IdsRow ids{.limit = kRootId + 1, .suspicious = kRootId + 1};
  Batch batch;
  batch.require(rows::format_key(), std::nullopt);
  batch.put(rows::format_key(), rows::bytes_of(format));
  batch.put(rows::ids_key(0), rows::bytes_of(ids));
  batch.put(rows::inode_key(kRootId), rows::bytes_of(rows::to_row(root)));
  return store.commit(batch);
}

Result<std::unique_ptr<Namespace>> Namespace::open(MetaStore& store, NodeId node) {
  std::unique_ptr<Namespace> made(new Namespace(store, node));
  BTD_TRY(made->load_format());
  BTD_TRY(made->load_results());
  return made;
}

Status Namespace::load_format() {
  BTD_ASSIGN(const auto bytes, store_.get(rows::format_key()));
  rows::FormatRow format{};
  if (!bytes || !rows::parse(*bytes, format) || format.magic != rows::kMagic)
    return fail(EINVAL, "there is no namespace in this pool; format it with btd format");
  if (format.version != rows::kVersion)
    return fail(EPROTO, "the namespace has version " + std::to_string(format.version) +
                            ", this program knows version " + std::to_string(rows::kVersion));
  hash_key_ = format.hash_key;
  rows::IdsRow ids{};
  BTD_TRY(load_ids(ids));
  next_id_ = id_limit_ = ids.limit;
  is_new_ = ids.limit <= std::max(first_id_of(node_), kRootId + 1);
  return {};
}

Result<std::string> Namespace::load_ids(rows::IdsRow& ids) const {
  BTD_ASSIGN(auto bytes, store_.get(rows::ids_key(node_)));
  const InodeId first = first_id_of(node_);
  if (!bytes && node_ != 0) {
    ids = {.limit = first, .suspicious = first};
    return std::string();
  }
  if (!bytes || !rows::parse(*bytes, ids) || ids.limit < first ||
      ids.limit > first_id_of(node_ + 1U))
    return std::unexpected(damaged("row of ids of node", node_).error());
  return *std::move(bytes);
}

Status Namespace::load_results() {
  const auto keep = [this](std::string_view, std::string_view value) {
    rows::ResultRow row{};
    if (rows::parse(value, row))
      earlier_.emplace_back(RequestTag{.session = row.session, .unique = row.unique},
                            Outcome{.id = row.id,
                                    .lost_last_link = row.lost_last_link != 0,
                                    .replaced = row.replaced,
                                    .replaced_lost_last_link = row.replaced_lost_last_link != 0});
    return true;
  };
  return store_.scan(rows::result_key(node_, 0), rows::result_key(node_ + 1U, 0), keep);
}

std::optional<Outcome> Namespace::committed(const RequestTag& tag) const {
  for (const auto& [earlier, outcome] : earlier_)
    if (earlier.session == tag.session && earlier.unique == tag.unique && tag.session != 0)
      return outcome;
  return std::nullopt;
}

Result<Namespace::Loaded> Namespace::load(InodeId id) const {
  BTD_ASSIGN(auto bytes, store_.get(rows::inode_key(id)));
  if (!bytes) return fail(ENOENT);
  rows::InodeRow row{};
  if (!rows::parse(*bytes, row)) {
    return std::unexpected(damaged("inode", id).error());
  }
  return Loaded{rows::from_row(id, row), *std::move(bytes)};
}

Result<Namespace::Loaded> Namespace::load_dir(InodeId id) const {
  BTD_ASSIGN(auto loaded, load(id));
  if (!loaded.inode.is_dir()) return fail(ENOTDIR);
  if (loaded.inode.nlink == 0) return fail(ENOENT);  // removed, but still somebody's directory
  return loaded;
}

Result<Inode> Namespace::get(InodeId id) const {
  BTD_ASSIGN(auto loaded, load(id));
  return loaded.inode;
}

Result<bool> Namespace::is_gone(InodeId id) {
  Batch nothing;
  nothing.require(rows::inode_key(id), std::nullopt);
  const Status absent = store_.commit(nothing);
  if (absent) return true;
  if (absent.error().code == EAGAIN) return false;
  return std::unexpected(absent.error());
}

// One look at the few places where the name may be also finds the place where it would go.
Result<Namespace::Place> Namespace::find(InodeId dir, std::string_view name) const {
  if (name.size() > kNameMax) return fail(ENAMETOOLONG);
  if (name.empty()) return fail(ENOENT);
  const std::uint64_t first = rows::name_cookie(name, hash_key_);
  Place place;
  std::uint64_t free = first;
  bool whole = true;
  BTD_TRY(store_.scan(rows::entry_key(dir, first), rows::entry_key(dir, first + rows::kProbe),
                      [&](std::string_view key, std::string_view value) {
                        rows::EntryRow row{};
                        if (value.size() < sizeof row) return whole = false;
                        std::memcpy(&row, value.data(), sizeof row);
                        const std::uint64_t cookie = rows::number_at(key, 9);
                        if (cookie == free) ++free;
                        if (value.substr(sizeof row) != name) return true;
                        place = {.cookie = cookie,
                                 .id = row.id,
                                 .type = std::uint32_t{row.type} << 12,
                                 .row = std::string(value)};
                        return false;
                      }));
  if (!whole) return std::unexpected(damaged("an entry of directory", dir).error());
  if (!place.taken() && free < first + rows::kProbe) place.cookie = free;
  return place;
}

Result<Namespace::Place> Namespace::find_free(InodeId dir, std::string_view name) const {
  BTD_ASSIGN(auto place, find(dir, name));
  if (place.taken()) return fail(EEXIST);
  if (place.cookie == 0)
    return fail(ENOSPC, "too many names of this directory have almost the same hash");
  return place;
}

Result<Namespace::Place> Namespace::find_taken(InodeId dir, std::string_view name) const {
  BTD_ASSIGN(auto place, find(dir, name));
  if (!place.taken()) return fail(ENOENT);
  return place;
}

Result<NodeId> Namespace::home(InodeId id) const {
  BTD_ASSIGN(const auto row, store_.get(rows::home_key(id)));
  return rows::home_in(id, row);
}

Result<Inode> Namespace::lookup(InodeId parent, std::string_view name) const {
  BTD_ASSIGN(const auto place, find_taken(parent, name));
  return get(place.id);
}

Result<std::string> Namespace::read_link(InodeId id) const {
  BTD_ASSIGN(auto target, store_.get(rows::target_key(id)));
  if (!target) return fail(EINVAL);
  return *std::move(target);
}

Result<std::vector<DirEntry>> Namespace::list(InodeId dir, std::uint64_t cookie,
                                              std::size_t limit) const {
  std::vector<DirEntry> entries;
  if (limit == 0 || cookie > rows::kLastCookie + rows::kProbe) return entries;
  bool whole = true;
  BTD_TRY(store_.scan(rows::entry_key(dir, cookie + 1), rows::entry_key(dir + 1, 0),
                      [&](std::string_view key, std::string_view value) {
                        rows::EntryRow row{};
                        if (value.size() < sizeof row) return whole = false;
                        std::memcpy(&row, value.data(), sizeof row);
                        entries.push_back({.name = std::string(value.substr(sizeof row)),
                                           .id = row.id,
                                           .type = std::uint32_t{row.type} << 12,
                                           .cookie = rows::number_at(key, 9)});
                        return entries.size() < limit;
                      }));
  if (!whole) return std::unexpected(damaged("an entry of directory", dir).error());
  return entries;
}

Result<bool> Namespace::is_empty(InodeId dir) const {
  BTD_ASSIGN(const auto entries, list(dir, 0, 1));
  return entries.empty();
}

Result<InodeId> Namespace::allocate_id() {
  const std::lock_guard lock(ids_mutex_);
  if (next_id_ == id_limit_) BTD_TRY(with_retries([this] { return reserve_ids(); }));
  unsettled_.insert(next_id_);
  return next_id_++;
}

// A block from where the store says, which may be further than this process knows: a commit in
// doubt was made after all. Errors: EAGAIN somebody else reserved meanwhile.
Status Namespace::reserve_ids() {
  rows::IdsRow ids{};
  BTD_ASSIGN(const std::string known, load_ids(ids));
  const InodeId start = ids.limit;
  if (first_id_of(node_ + 1U) - start < kIdBlock)
    return fail(ENOSPC, "this node has handed out all ids that it may");
  ids = {.limit = start + kIdBlock, .suspicious = unsettled_.empty() ? start : *unsettled_.begin()};
  const auto key = rows::ids_key(node_);
  Batch batch;
  batch.require(key, known.empty() ? std::nullopt : std::optional<std::string_view>(known));
  batch.put(key, rows::bytes_of(ids));
  BTD_TRY(store_.commit(batch));
  next_id_ = start;
  id_limit_ = ids.limit;
  return {};
}

void Namespace::id_settled(InodeId id) {
  const std::lock_guard lock(ids_mutex_);
  unsettled_.erase(id);
}

Status Namespace::collect_unnamed(const std::function<bool(InodeId)>& has_backing,
                                  const std::function<Status(InodeId)>& remove) {
  rows::IdsRow ids{};
  BTD_TRY(load_ids(ids));
  for (InodeId id = ids.suspicious; id < ids.limit; ++id) {
    BTD_ASSIGN(const auto row, store_.get(rows::inode_key(id)));
    if (!row && has_backing(id)) BTD_TRY(remove(id));
  }
  return {};
}

Status Namespace::commit(Batch& batch, const RequestTag& tag, const Outcome& outcome) {
  if (tag.session != 0) {
    const rows::ResultRow row{.session = tag.session,
                              .unique = tag.unique,
                              .id = outcome.id,
                              .replaced = outcome.replaced,
                              .lost_last_link = outcome.lost_last_link,
                              .replaced_lost_last_link = outcome.replaced_lost_last_link};
    batch.put(rows::result_key(node_, tag.slot), rows::bytes_of(row));
  }
  return store_.commit(batch);
}

// Of all nodes: there are few, and one that was moved has the id of another.
Result<std::vector<InodeId>> Namespace::orphans() const {
  std::vector<InodeId> all, ids;
  const auto keep = [&all](std::string_view key, std::string_view) {
    if (key.size() == 9) all.push_back(rows::number_at(key, 1));
    return true;
  };
  BTD_TRY(store_.scan(rows::orphan_key(0), rows::orphan_key(kFirstVirtualId), keep));
  for (const InodeId id : all) {
    BTD_ASSIGN(const NodeId at, home(id));
    if (at == node_) ids.push_back(id);
  }
  return ids;
}

}  // namespace btd
