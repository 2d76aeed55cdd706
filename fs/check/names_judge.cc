// How the namespace's rows fit together, and their repair.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fs/check/names.h"

namespace btd {

namespace {

std::string inode_text(InodeId id) { return "inode " + std::to_string(id); }

constexpr std::uint32_t type_of(std::uint32_t mode) { return mode & S_IFMT; }

}  // namespace

void NamePass::judge() {
  judge_root();
  judge_limit();
  judge_loops();
  for (Node& node : nodes_) {
    if (node.names == 0 && node.id != kRootId) {
      judge_nameless(node);
    } else {
      judge_inode(node);
    }
    if (!node.gone && S_ISLNK(node.mode)) judge_symlink(node);
  }
}

void NamePass::judge_root() {
  const Node* root = find(kRootId);
  if (root != nullptr && S_ISDIR(root->mode)) return;
  wrong("there is no root directory", [](Batch& batch) -> Status {
    const Timestamp now = Timestamp::now();
    const Inode made{.id = kRootId,
                     .mode = S_IFDIR | 0755,
                     .nlink = 2,
                     .atime = now,
                     .mtime = now,
                     .ctime = now,
                     .btime = now};
    batch.put(rows::inode_key(kRootId), rows::bytes_of(rows::to_row(made)));
    return {};
  });
}

// An id at or over the limit would be handed out again.
void NamePass::judge_limit() {
  const InodeId next = nodes_.empty() ? kRootId + 1 : nodes_.back().id + 1;
  if (next <= ids_.limit && ids_.suspicious <= ids_.limit) return;
  wrong("the ids from " + std::to_string(ids_.limit) + " on would be handed out a second time",
        [this, next](Batch& batch) -> Status {
          ids_.limit = std::max(ids_.limit, next);
          ids_.suspicious = std::clamp(ids_.suspicious, kRootId + 1, ids_.limit);
          batch.put(rows::ids_key(0), rows::bytes_of(ids_));
          return {};
        });
}

// Directories that are reached from each other only. Each chain of parents is walked once: it ends
// at one that is done, at one without a name, or at one that is on the chain itself.
void NamePass::judge_loops() {
  std::vector<Node*> chain;
  for (Node& start : nodes_) {
    if (!S_ISDIR(start.mode)) continue;
    Node* node = &start;
    chain.clear();
    while (node != nullptr && node->mark == Node::Mark::kNew) {
      node->mark = Node::Mark::kOnPath;
      chain.push_back(node);
      node = node->parent != 0 ? find(node->parent) : nullptr;
    }
    if (node != nullptr && node->mark == Node::Mark::kOnPath)
      wrong_row("directory " + std::to_string(node->id) +
                    " lies below itself and cannot be reached from the root",
                rows::entry_key(node->parent, node->cookie));
    for (Node* passed : chain) passed->mark = Node::Mark::kDone;
  }
}

void NamePass::judge_inode(const Node& node) {
  if (node.orphan)
    wrong(inode_text(node.id) + " has a name and is marked as nameless: its data would be removed",
          [id = node.id](Batch& batch) -> Status {
            batch.erase(rows::orphan_key(id));
            return {};
          });
  if (S_ISDIR(node.mode) && node.size != 0 && node.size != node.parent)
    wrong(inode_text(node.id) + " says that it lies in " + std::to_string(node.size) +
              ", but lies in directory " + std::to_string(node.parent),
          set_inode(node.id, [parent = node.parent](rows::InodeRow& row) { row.size = parent; }));
  const std::uint32_t expected = S_ISDIR(node.mode) ? 2 + node.subdirs : node.names;
  if (node.nlink != expected)
    wrong(inode_text(node.id) + " has the link count " + std::to_string(node.nlink) +
              " and should have " + std::to_string(expected),
          set_inode(node.id, [expected](rows::InodeRow& row) { row.nlink = expected; }));
}

void NamePass::judge_nameless(Node& node) {
  if (node.orphan || node.nlink == 0) {
    // Rows that would outlive the inode are removed with it; its backing file goes as a leak.
    node.gone = findings_.repair();
    if (node.orphan)
      wrong(inode_text(node.id) + " has no name any more; the next mount removes it",
            remove_inode(node.id), Severity::kNote);
    else
      wrong(inode_text(node.id) + " has no name and nothing waits for it", remove_inode(node.id));
    return;
  }
  wrong(
      inode_text(node.id) + " cannot be reached from the root; with repair it goes to /lost+found",
      reconnect(node));
}

void NamePass::judge_symlink(const Node& node) {
  if (!node.has_target) {
    wrong("symbolic link " + std::to_string(node.id) + " has lost its target",
          remove_inode(node.id));
  } else if (node.target_bytes != node.size) {
    wrong("symbolic link " + std::to_string(node.id) + " has the size " +
              std::to_string(node.size) + " and a target of " + std::to_string(node.target_bytes) +
              " bytes",
          set_inode(node.id, [size = node.target_bytes](rows::InodeRow& row) { row.size = size; }));
  }
}

void NamePass::wrong(std::string sentence, Build build, Severity severity) {
  if (findings_.repair() && repairs_.size() < kMaxRepairs) {
    repairs_.push_back({severity, std::move(sentence), std::move(build)});
  } else if (severity == Severity::kProblem) {
    findings_.problem(std::move(sentence));
  } else {
    findings_.note(std::move(sentence));
  }
}

void NamePass::wrong_row(std::string sentence, std::string_view key) {
  wrong(std::move(sentence), [key = std::string(key)](Batch& batch) -> Status {
    batch.erase(key);
    return {};
  });
}

NamePass::Build NamePass::set_inode(InodeId id, std::function<void(rows::InodeRow&)> change) {
  return [this, id, change = std::move(change)](Batch& batch) -> Status {
    const auto key = rows::inode_key(id);
    BTD_ASSIGN(const auto bytes, store_.get(key));
    rows::InodeRow row{};
    if (!bytes || !rows::parse(*bytes, row)) return fail(ENOENT);
    change(row);
    batch.put(key, rows::bytes_of(row));
    return {};
  };
}

NamePass::Build NamePass::remove_inode(InodeId id) {
  return [this, id](Batch& batch) -> Status {
    std::vector<std::string> xattrs;
    const auto from = rows::xattr_key(id);
    BTD_TRY(store_.scan(from, prefix_end(from), [&](std::string_view key, std::string_view) {
      xattrs.emplace_back(key);
      return true;
    }));
    constexpr std::size_t kOnce = kMaxBatchChanges - 3;
    while (xattrs.size() > kOnce) {  // more than one commit carries: these first
      Batch some;
      for (std::size_t i = 0; i < kOnce; ++i, xattrs.pop_back()) some.erase(xattrs.back());
      BTD_TRY(store_.commit(some));
    }
    for (const std::string& key : xattrs) batch.erase(key);
    batch.erase(rows::inode_key(id));
    batch.erase(rows::target_key(id));
    batch.erase(rows::orphan_key(id));
    return {};
  };
}

NamePass::Build NamePass::reconnect(const Node& node) {
  return [this, id = node.id, mode = node.mode](Batch& batch) -> Status {
    BTD_ASSIGN(const InodeId parent, lost_and_found());
    if (S_ISDIR(mode)) {
      BTD_TRY(set_inode(parent, [](rows::InodeRow& row) { ++row.nlink; })(batch));
      BTD_TRY(set_inode(id, [parent](rows::InodeRow& row) { row.size = parent; })(batch));
    }
    return put_entry(batch, parent, "#" + std::to_string(id), id, mode);
  };
}

Status NamePass::put_entry(Batch& batch, InodeId dir, std::string_view name, InodeId child,
                           std::uint32_t type) {
  const std::uint64_t first = rows::name_cookie(name, hash_key_);
  std::uint64_t free = first;
  bool taken = false;
  BTD_TRY(store_.scan(rows::entry_key(dir, first), rows::entry_key(dir, first + rows::kProbe),
                      [&](std::string_view key, std::string_view value) {
                        if (rows::number_at(key, 9) == free) ++free;
                        taken = taken || (value.size() > sizeof(rows::EntryRow) &&
                                          value.substr(sizeof(rows::EntryRow)) == name);
                        return true;
                      }));
  if (taken || free >= first + rows::kProbe) return fail(EEXIST);
  const rows::EntryRow row{.id = child, .type = static_cast<std::uint8_t>(type_of(type) >> 12)};
  const auto key = rows::entry_key(dir, free);
  batch.require(key, std::nullopt);
  batch.put(key, std::string(rows::bytes_of(row)).append(name));
  return {};
}

// The directory of that name, if there is one; `taken` also by something else.
Result<std::optional<InodeId>> NamePass::look_up_directory(InodeId dir, std::string_view name,
                                                           bool& taken) {
  const std::uint64_t first = rows::name_cookie(name, hash_key_);
  std::optional<InodeId> found;
  taken = false;
  BTD_TRY(store_.scan(rows::entry_key(dir, first), rows::entry_key(dir, first + rows::kProbe),
                      [&](std::string_view, std::string_view value) {
                        rows::EntryRow row{};
                        if (value.size() <= sizeof row || value.substr(sizeof row) != name)
                          return true;
                        std::memcpy(&row, value.data(), sizeof row);
                        taken = true;
                        if (S_ISDIR(std::uint32_t{row.type} << 12)) found = InodeId{row.id};
                        return false;
                      }));
  return found;
}

// Found or made, below the root.
Result<InodeId> NamePass::lost_and_found() {
  for (const char* name : {"lost+found", "lost+found.btd"}) {
    bool taken = false;
    BTD_ASSIGN(const auto found, look_up_directory(kRootId, name, taken));
    if (found) return *found;
    if (taken) continue;
    const InodeId id = ids_.limit;
    rows::IdsRow ids = ids_;
    ids.limit = id + 1;
    const Timestamp now = Timestamp::now();
    const Inode made{.id = id,
                     .mode = S_IFDIR | 0700,
                     .nlink = 2,
                     .parent = kRootId,
                     .atime = now,
                     .mtime = now,
                     .ctime = now,
                     .btime = now};
    Batch batch;
    batch.put(rows::ids_key(0), rows::bytes_of(ids));
    batch.put(rows::inode_key(id), rows::bytes_of(rows::to_row(made)));
    BTD_TRY(put_entry(batch, kRootId, name, id, made.mode));
    BTD_TRY(set_inode(kRootId, [](rows::InodeRow& row) { ++row.nlink; })(batch));
    BTD_TRY(store_.commit(batch));
    ids_ = ids;
    return id;
  }
  return fail(EEXIST);
}

Status NamePass::make_repairs() {
  for (Repair& repair : repairs_) {
    Batch batch;
    Status made = repair.build(batch);
    if (made) made = store_.commit(batch);
    // A repair that the one before it made impossible or needless is judged anew by the next pass.
    const bool put_off = !made && (made.error().code == ENOENT || made.error().code == EEXIST ||
                                   made.error().code == EAGAIN);
    if (!made && !put_off) return made;
    if (repair.severity == Severity::kProblem) {
      findings_.problem(std::move(repair.sentence), made.has_value());
    } else {
      findings_.note(std::move(repair.sentence), made.has_value());
    }
  }
  repairs_.clear();
  return {};
}

}  // namespace btd
