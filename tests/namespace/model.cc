#include "tests/namespace/model.h"

#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/xattr.h>

#include <algorithm>

namespace btd::testing {

namespace {

constexpr const char* kKindNames[] = {"create", "mkdir",    "symlink",     "nameless",
                                      "link",   "unlink",   "rmdir",       "rename",
                                      "change", "setxattr", "removexattr", "erase_orphan"};
constexpr std::uint32_t kUid = 1000, kGid = 1001;

NewInode new_inode(const Operation& op, std::uint32_t type) {
  return {.mode = type | (op.number & 07777),
          .uid = kUid,
          .gid = kGid,
          .rdev = 0,
          .target = type == S_IFLNK ? op.other : ""};
}

template <class Node>
std::string line(InodeId id, const Node& n, const std::string& target) {
  return fmt::format("{} mode={:o} nlink={} uid={} gid={} flags={} target={}\n", id, n.mode,
                     n.nlink, n.uid, n.gid, n.flags, target);
}

}  // namespace

std::string Operation::text() const {
  return fmt::format("{}({}, {}, '{}', '{}', {:o})", kKindNames[kind], a, b, name, other, number);
}

Model::Model() { nodes_[kRootId] = {.mode = S_IFDIR | 0755, .nlink = 2}; }

bool Model::live_dir(InodeId id) const {
  const auto it = nodes_.find(id);
  return it != nodes_.end() && S_ISDIR(it->second.mode) && it->second.nlink > 0;
}

int Model::insert(const Operation& op, InodeId id, std::uint32_t type) {
  auto dir = nodes_.find(op.a);
  if (dir == nodes_.end()) return ENOENT;
  if (!S_ISDIR(dir->second.mode)) return ENOTDIR;
  if (dir->second.nlink == 0) return ENOENT;
  if (op.kind != Operation::kNameless) {
    if (op.name.empty()) return ENOENT;
    if (dir->second.entries.contains(op.name)) return EEXIST;
  }
  Node& parent = dir->second;
  Node node{.mode = type | (op.number & 07777), .uid = kUid, .gid = kGid};
  node.flags = parent.flags & kInodeSparse;
  node.nlink = type == S_IFDIR ? 2 : 1;
  if (parent.mode & S_ISGID) {
    node.gid = parent.gid;
    if (type == S_IFDIR) node.mode |= S_ISGID;
  }
  if (type == S_IFLNK) node.target = op.other;
  if (op.kind == Operation::kNameless) {
    node.nlink = 0;
    node.flags |= kInodeUnnamed;
  } else {
    parent.entries[op.name] = id;
    if (type == S_IFDIR) ++parent.nlink;
  }
  nodes_[id] = node;
  return 0;
}

void Model::drop(InodeId id) {
  Node& node = nodes_.at(id);
  node.nlink = S_ISDIR(node.mode) ? 0 : node.nlink - 1;
}

int Model::unlink(const Operation& op, bool directory) {
  auto dir = nodes_.find(op.a);
  if (dir == nodes_.end()) return ENOENT;
  if (!S_ISDIR(dir->second.mode)) return ENOTDIR;
  auto entry = dir->second.entries.find(op.name);
  if (entry == dir->second.entries.end()) return ENOENT;
  Node& node = nodes_.at(entry->second);
  if (S_ISDIR(node.mode) != directory) return directory ? ENOTDIR : EISDIR;
  if (directory && !node.entries.empty()) return ENOTEMPTY;
  if (directory) --dir->second.nlink;
  drop(entry->second);
  dir->second.entries.erase(entry);
  return 0;
}

bool Model::lies_below(InodeId dir, InodeId id) const {
  return std::ranges::any_of(nodes_.at(dir).entries, [&](const auto& entry) {
    return entry.second == id || lies_below(entry.second, id);
  });
}

int Model::rename(const Operation& op) {
  for (const InodeId id : {op.a, op.b}) {
    if (!nodes_.contains(id)) return ENOENT;
    if (!S_ISDIR(nodes_.at(id).mode)) return ENOTDIR;
    if (nodes_.at(id).nlink == 0) return ENOENT;
  }
  Node& from = nodes_.at(op.a);
  Node& to = nodes_.at(op.b);
  if (op.name.empty() || !from.entries.contains(op.name) || op.other.empty()) return ENOENT;
  const InodeId source = from.entries.at(op.name);
  if (source == op.b) return EINVAL;
  const auto target_it = to.entries.find(op.other);
  const InodeId target = target_it == to.entries.end() ? 0 : target_it->second;
  Node& moved = nodes_.at(source);
  const bool dir = S_ISDIR(moved.mode);
  if (op.number == RENAME_EXCHANGE) {
    if (target == 0) return ENOENT;
    if (target == op.a) return EINVAL;
    const bool other_dir = S_ISDIR(nodes_.at(target).mode);
    if (source == target) return 0;
    if (op.a != op.b && (lies_below(source, op.b) || lies_below(target, op.a))) return EINVAL;
    if (dir != other_dir) {
      Node& gains = dir ? to : from;
      Node& loses = dir ? from : to;
      ++gains.nlink;
      --loses.nlink;
    }
    std::swap(from.entries.at(op.name), to.entries.at(op.other));
    return 0;
  }
  if (target != 0 && op.number == RENAME_NOREPLACE) return EEXIST;
  if (source == target) return 0;
  if (target != 0) {
    const Node& victim = nodes_.at(target);
    if (dir != S_ISDIR(victim.mode)) return dir ? ENOTDIR : EISDIR;
    if (dir && !victim.entries.empty()) return ENOTEMPTY;
  }
  if (lies_below(source, op.b)) return EINVAL;
  if (target != 0) {
    if (dir) --to.nlink;
    drop(target);
  }
  from.entries.erase(op.name);
  to.entries[op.other] = source;
  if (dir) {
    --from.nlink;
    ++to.nlink;
  }
  return 0;
}

int Model::apply(const Operation& op, InodeId id) {
  const auto node = nodes_.find(op.a);
  const bool known = node != nodes_.end();
  switch (op.kind) {
    case Operation::kCreate:
      return insert(op, id, S_IFREG);
    case Operation::kMkdir:
      return insert(op, id, S_IFDIR);
    case Operation::kSymlink:
      return insert(op, id, S_IFLNK);
    case Operation::kNameless:
      return insert(op, id, S_IFREG);
    case Operation::kLink: {
      if (!nodes_.contains(op.b)) return ENOENT;
      if (!S_ISDIR(nodes_.at(op.b).mode)) return ENOTDIR;
      if (nodes_.at(op.b).nlink == 0 || !known) return ENOENT;
      if (S_ISDIR(node->second.mode)) return EPERM;
      if (node->second.nlink == 0 && !(node->second.flags & kInodeUnnamed)) return ENOENT;
      if (op.name.empty()) return ENOENT;
      if (!nodes_.at(op.b).entries.emplace(op.name, op.a).second) return EEXIST;
      node->second.flags &= ~std::uint32_t{kInodeUnnamed};
      ++node->second.nlink;
      return 0;
    }
    case Operation::kUnlink:
      return live_dir(op.a) || !known || !S_ISDIR(node->second.mode) ? unlink(op, false) : ENOENT;
    case Operation::kRmdir:
      return live_dir(op.a) || !known || !S_ISDIR(node->second.mode) ? unlink(op, true) : ENOENT;
    case Operation::kRename:
      return rename(op);
    case Operation::kChange:
      if (!known) return ENOENT;
      node->second.mode = (node->second.mode & S_IFMT) | (op.number & 07777);
      node->second.uid = op.number;
      node->second.flags = op.number & 1 ? node->second.flags | kInodeSparse
                                         : node->second.flags & ~std::uint32_t{kInodeSparse};
      return 0;
    case Operation::kSetXattr:
      if (op.name.empty()) return EINVAL;
      if (!known) return ENOENT;
      if (op.b == XATTR_CREATE && node->second.xattrs.contains(op.name)) return EEXIST;
      if (op.b == XATTR_REPLACE && !node->second.xattrs.contains(op.name)) return ENODATA;
      node->second.xattrs[op.name] = std::string(op.number, 'v');
      return 0;
    case Operation::kRemoveXattr:
      if (op.name.empty()) return EINVAL;
      if (!known) return ENOENT;
      return node->second.xattrs.erase(op.name) == 1 ? 0 : ENODATA;
    case Operation::kEraseOrphan:
      if (known && node->second.nlink != 0) return EBUSY;
      nodes_.erase(op.a);
      return 0;
    case Operation::kKinds:
      break;
  }
  return EINVAL;
}

void Model::clear_xattrs(InodeId id) {
  if (const auto it = nodes_.find(id); it != nodes_.end()) it->second.xattrs.clear();
}

Operation Model::random(std::mt19937_64& random) const {
  const auto pick = [&](std::uint64_t n) { return random() % n; };
  const auto any_node = [&](bool prefer_dir) {
    for (int i = 0;; ++i) {
      auto it = std::next(nodes_.begin(), static_cast<long>(pick(nodes_.size())));
      if (!prefer_dir || S_ISDIR(it->second.mode) || i > 8) return it->first;
    }
  };
  const auto any_name = [&](InodeId dir) -> std::string {
    const auto it = nodes_.find(dir);
    if (pick(4) != 0 && it != nodes_.end() && !it->second.entries.empty())
      return std::next(it->second.entries.begin(),
                       static_cast<long>(pick(it->second.entries.size())))
          ->first;
    return pick(40) == 0 ? std::string(255, 'n') : fmt::format("name{}", pick(12));
  };
  Operation op;
  op.kind = static_cast<Operation::Kind>(pick(Operation::kKinds));
  op.a = any_node(op.kind != Operation::kLink && op.kind < Operation::kChange);
  if (op.kind == Operation::kEraseOrphan) {
    for (const auto& [id, node] : nodes_)
      if (node.nlink == 0) op.a = id;
  }
  op.b = any_node(true);
  op.name = any_name(op.kind == Operation::kLink ? op.b : op.a);
  op.other = any_name(op.b);
  op.number = static_cast<unsigned>(pick(010000));
  if (op.kind == Operation::kRename) op.number = static_cast<unsigned>(pick(3));
  if (op.kind == Operation::kSetXattr || op.kind == Operation::kRemoveXattr) {
    op.name = fmt::format("user.{}", pick(4));
    op.number = static_cast<unsigned>(pick(20) == 0 ? 60000 : pick(100));
    op.b = pick(3);
  }
  return op;
}

std::string Model::dump() const {
  std::string text;
  std::vector<std::pair<std::string, InodeId>> stack{{"", kRootId}};
  std::string tree;
  const auto describe = [](InodeId id, const Node& node) {
    std::string all = line(id, node, node.target);
    for (const auto& [name, value] : node.xattrs)
      all += fmt::format("  {}={}*{}\n", name, value.size(), value.substr(0, 1));
    return all;
  };
  while (!stack.empty()) {
    const auto [path, id] = stack.back();
    stack.pop_back();
    const Node& node = nodes_.at(id);
    text += path + "/ " + describe(id, node);
    for (auto it = node.entries.rbegin(); it != node.entries.rend(); ++it)
      stack.emplace_back(path + "/" + it->first, it->second);
  }
  for (const auto& [id, node] : nodes_)
    if (node.nlink == 0) text += "orphan " + describe(id, node);
  return text;
}

int apply(Namespace& ns, const Operation& op, InodeId id, const RequestTag& tag) {
  const auto code = [](const auto& result) { return result ? 0 : result.error().code; };
  switch (op.kind) {
    case Operation::kCreate:
      return code(ns.create(op.a, op.name, id, new_inode(op, S_IFREG), tag));
    case Operation::kMkdir:
      return code(ns.create(op.a, op.name, id, new_inode(op, S_IFDIR), tag));
    case Operation::kSymlink:
      return code(ns.create(op.a, op.name, id, new_inode(op, S_IFLNK), tag));
    case Operation::kNameless:
      return code(ns.create_nameless(op.a, id, new_inode(op, S_IFREG), tag));
    case Operation::kLink:
      return code(ns.link(op.a, op.b, op.name, tag));
    case Operation::kUnlink:
      return code(ns.unlink(op.a, op.name, tag));
    case Operation::kRmdir:
      return code(ns.rmdir(op.a, op.name, tag));
    case Operation::kRename:
      return code(ns.rename(op.a, op.name, op.b, op.other, op.number, tag));
    case Operation::kChange: {
      AttrChange change{.mode = op.number & 07777, .uid = op.number};
      (op.number & 1 ? change.set_flags : change.clear_flags) = kInodeSparse;
      return code(ns.change(op.a, change, tag));
    }
    case Operation::kSetXattr:
      return code(
          ns.set_xattr(op.a, op.name, std::string(op.number, 'v'), static_cast<int>(op.b), tag));
    case Operation::kRemoveXattr:
      return code(ns.remove_xattr(op.a, op.name, tag));
    case Operation::kEraseOrphan:
      return code(ns.erase_orphan(op.a));
    case Operation::kKinds:
      break;
  }
  return EINVAL;
}

std::string dump(const Namespace& ns) {
  std::string text;
  const auto describe = [&ns](InodeId id) {
    const auto node = ns.get(id);
    if (!node) return fmt::format("{} missing: errno {}\n", id, node.error().code);
    std::string all = line(id, *node, node->is_symlink() ? ns.read_link(id).value_or("?") : "");
    for (const auto& name : ns.list_xattrs(id).value_or(std::vector<std::string>{"?"})) {
      const auto value = ns.get_xattr(id, name);
      all += fmt::format("  {}={}*{}\n", name, value ? value->size() : 0,
                         value ? value->substr(0, 1) : "?");
    }
    return all;
  };
  std::vector<std::pair<std::string, InodeId>> stack{{"", kRootId}};
  while (!stack.empty() && text.size() < 10'000'000) {
    const auto [path, id] = stack.back();
    stack.pop_back();
    text += path + "/ " + describe(id);
    std::map<std::string, InodeId> sorted;
    for (std::uint64_t cookie = 0;;) {
      const auto page = ns.list(id, cookie, 7);
      if (!page || page->empty()) break;
      for (const auto& e : *page) sorted[e.name] = e.id;
      cookie = page->back().cookie;
    }
    for (auto it = sorted.rbegin(); it != sorted.rend(); ++it)
      stack.emplace_back(path + "/" + it->first, it->second);
  }
  for (const InodeId id : ns.orphans().value_or(std::vector<InodeId>{}))
    text += "orphan " + describe(id);
  return text;
}

}  // namespace btd::testing
