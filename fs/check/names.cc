// Reading the namespace's rows, and judging each by itself. How they fit together: names_judge.cc.
#include "fs/check/names.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

namespace btd {

namespace {

constexpr std::size_t kNumberKey = 9;  // a letter and a number
constexpr std::size_t kEntryKey = 17;

bool is_type(std::uint32_t mode) {
  return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISFIFO(mode) || S_ISSOCK(mode) ||
         S_ISCHR(mode) || S_ISBLK(mode);
}

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == name.npos && name.find('\0') == name.npos;
}

// For sentences: what is not printable as '?'.
std::string shown(std::string_view bytes) {
  std::string text = "\"";
  for (const char c : bytes.substr(0, 255))
    text += static_cast<unsigned char>(c) < 32 || c == 127 ? '?' : c;
  return text + "\"";
}

std::string entry_text(InodeId dir, std::string_view name) {
  return "the entry " + shown(name) + " of directory " + std::to_string(dir);
}

}  // namespace

Status NamePass::run() {
  rows_total_ = store_.stats().entries;
  BTD_TRY(gather());
  if (!has_ids_) return {};  // without a format row nothing can be judged
  judge();
  return make_repairs();
}

Status NamePass::scan(char kind, const MetaStore::Visitor& visit) {
  const std::string from(1, kind);
  return store_.scan(from, prefix_end(from), [&](std::string_view key, std::string_view value) {
    constexpr std::uint64_t kStep = 8192;
    if (++rows_seen_ % kStep == 0) findings_.progress("namespace", rows_seen_, rows_total_);
    return visit(key, value);
  });
}

Status NamePass::gather() {
  BTD_TRY(gather_format());
  if (!has_ids_) return {};
  BTD_TRY(gather_inodes());
  BTD_TRY(gather_entries());
  BTD_TRY(gather_targets());
  BTD_TRY(gather_xattrs());
  BTD_TRY(gather_orphans());
  BTD_TRY(gather_results());
  return gather_unknown();
}

Status NamePass::gather_format() {
  BTD_ASSIGN(const auto format_bytes, store_.get(rows::format_key()));
  rows::FormatRow format{};
  if (!format_bytes || !rows::parse(*format_bytes, format) || format.magic != rows::kMagic) {
    findings_.problem("the namespace has lost its format row, without which no name can be found");
    return {};
  }
  if (format.version != rows::kVersion)
    return fail(EPROTO, "the namespace has version " + std::to_string(format.version) +
                            "; check it with the program that made it");
  hash_key_ = format.hash_key;
  BTD_ASSIGN(const auto ids_bytes, store_.get(rows::ids_key(0)));
  if (!ids_bytes || !rows::parse(*ids_bytes, ids_)) ids_ = {};  // judge_limit() raises it
  has_ids_ = true;
  return {};
}

Status NamePass::gather_inodes() {
  return scan('i', [this](std::string_view key, std::string_view value) {
    rows::InodeRow row{};
    if (key.size() != kNumberKey || !rows::parse(value, row)) {
      wrong_row("an inode's row has a wrong size", key);
      return true;
    }
    const InodeId id = rows::number_at(key, 1);
    if (id == 0 || id >= kFirstVirtualId) {
      wrong_row("an inode has the impossible id " + std::to_string(id), key);
      return true;
    }
    if (!is_type(row.mode)) {
      wrong_row("inode " + std::to_string(id) + " has no type that is known", key);
      return true;
    }
    nodes_.push_back({.id = id, .size = row.size, .mode = row.mode, .nlink = row.nlink});
    CheckReport& counts = findings_.counts();
    ++(S_ISREG(row.mode)   ? counts.files
       : S_ISDIR(row.mode) ? counts.directories
       : S_ISLNK(row.mode) ? counts.symlinks
                           : counts.others);
    return true;
  });
}

Status NamePass::gather_entries() {
  return scan('d', [this](std::string_view key, std::string_view value) {
    rows::EntryRow row{};
    if (key.size() != kEntryKey || value.size() <= sizeof row) {
      wrong_row("a directory entry's row has a wrong size", key);
      return true;
    }
    std::memcpy(&row, value.data(), sizeof row);
    take_entry({.dir = rows::number_at(key, 1),
                .cookie = rows::number_at(key, 9),
                .child = row.id,
                .type = std::uint32_t{row.type} << 12,
                .name = value.substr(sizeof row),
                .key = key,
                .value = value});
    return true;
  });
}

void NamePass::take_entry(const Entry& entry) {
  if (!judge_name(entry) || !judge_ends(entry)) return;
  count_entry(entry);
  ++findings_.counts().entries;
}

// The name by itself and where it lies. False: it is to be removed.
bool NamePass::judge_name(const Entry& entry) {
  if (!is_name(entry.name)) {
    wrong_row(entry_text(entry.dir, entry.name) + " has an impossible name", entry.key);
    return false;
  }
  std::erase_if(recent_, [&](const Recent& recent) {
    return recent.dir != entry.dir || entry.cookie - recent.cookie >= rows::kProbe;
  });
  for (const Recent& recent : recent_) {
    if (recent.name != entry.name) continue;
    wrong_row(entry_text(entry.dir, entry.name) + " is there twice", entry.key);
    return false;
  }
  const std::uint64_t first = rows::name_cookie(entry.name, hash_key_);
  if (entry.cookie - first >= rows::kProbe) {
    wrong(entry_text(entry.dir, entry.name) + " lies where no look-up finds it",
          [this, dir = entry.dir, child = entry.child, type = entry.type,
           name = std::string(entry.name), key = std::string(entry.key)](Batch& batch) {
            batch.erase(key);
            return put_entry(batch, dir, name, child, type);
          });
  }
  recent_.push_back({entry.dir, entry.cookie, std::string(entry.name)});
  return true;
}

// The directory and the inode that it connects. False: it is to be removed.
bool NamePass::judge_ends(const Entry& entry) {
  const std::string text = entry_text(entry.dir, entry.name);
  const Node* dir = find(entry.dir);
  const Node* child = find(entry.child);
  if (dir == nullptr || !S_ISDIR(dir->mode)) {
    wrong_row(text + " belongs to no directory", entry.key);
    return false;
  }
  if (child == nullptr) {
    wrong_row(text + " names inode " + std::to_string(entry.child) + ", which does not exist",
              entry.key);
    return false;
  }
  if (child->id == kRootId || child->id == entry.dir) {
    wrong_row(text + " names the root or its own directory", entry.key);
    return false;
  }
  if (S_ISDIR(child->mode) && child->parent != 0) {
    wrong_row(text + " is a second name of the directory " + std::to_string(child->id), entry.key);
    return false;
  }
  return true;
}

void NamePass::count_entry(const Entry& entry) {
  Node& child = *find(entry.child);
  if (entry.type != (child.mode & S_IFMT)) {
    wrong(entry_text(entry.dir, entry.name) + " says a wrong type of inode " +
              std::to_string(child.id),
          [key = std::string(entry.key), value = std::string(entry.value),
           mode = child.mode](Batch& batch) -> Status {
            std::string fixed = value;
            fixed[offsetof(rows::EntryRow, type)] = static_cast<char>((mode & S_IFMT) >> 12);
            batch.require(key, value);
            batch.put(key, fixed);
            return {};
          });
  }
  ++child.names;
  if (!S_ISDIR(child.mode)) return;
  child.parent = entry.dir;
  child.cookie = entry.cookie;
  ++find(entry.dir)->subdirs;
}

Status NamePass::gather_targets() {
  return scan('s', [this](std::string_view key, std::string_view value) {
    Node* node = key.size() == kNumberKey ? find(rows::number_at(key, 1)) : nullptr;
    if (node == nullptr || !S_ISLNK(node->mode)) {
      wrong_row("the target " + shown(value) + " belongs to no symbolic link", key);
      return true;
    }
    node->has_target = true;
    node->target_bytes = static_cast<std::uint32_t>(value.size());
    return true;
  });
}

Status NamePass::gather_xattrs() {
  return scan('x', [this](std::string_view key, std::string_view) {
    const bool whole = key.size() > kNumberKey;
    if (!whole || find(rows::number_at(key, 1)) == nullptr) {
      wrong_row("the extended attribute " + shown(whole ? key.substr(kNumberKey) : key) +
                    " belongs to no inode",
                key);
    } else {
      ++findings_.counts().xattrs;
    }
    return true;
  });
}

Status NamePass::gather_orphans() {
  return scan('o', [this](std::string_view key, std::string_view) {
    Node* node = key.size() == kNumberKey ? find(rows::number_at(key, 1)) : nullptr;
    if (node == nullptr) {
      wrong_row("an inode that does not exist is marked as nameless", key);
      return true;
    }
    node->orphan = true;
    ++findings_.counts().orphans;
    return true;
  });
}

Status NamePass::gather_results() {
  return scan('r', [this](std::string_view key, std::string_view value) {
    rows::ResultRow row{};
    if (key.size() != kNumberKey || !rows::parse(value, row))
      wrong_row("the row of a request's result has a wrong size", key);
    return true;
  });
}

// Rows of a kind that no namespace of this version has.
Status NamePass::gather_unknown() {
  const auto strange = [this](std::string_view key, std::string_view) {
    wrong_row("the row " + shown(key) + " is of no kind that is known", key);
    return true;
  };
  constexpr std::string_view kKinds = "dimorsx";
  std::string from;
  for (const char kind : kKinds) {
    BTD_TRY(store_.scan(from, std::string(1, kind), strange));
    from = std::string(1, static_cast<char>(kind + 1));
  }
  BTD_TRY(store_.scan(from, "", strange));
  return scan('m', [&](std::string_view key, std::string_view value) {
    return key == rows::format_key() || key == rows::ids_key(0) || key == rows::moves_key() ||
           strange(key, value);
  });
}

NamePass::Node* NamePass::find(InodeId id) {
  return const_cast<Node*>(static_cast<const NamePass*>(this)->find(id));
}

const NamePass::Node* NamePass::find(InodeId id) const {
  const auto at = std::ranges::lower_bound(nodes_, id, {}, &Node::id);
  return at != nodes_.end() && at->id == id ? &*at : nullptr;
}

NamePass::Owner NamePass::owner_of(InodeId id) const {
  const Node* node = find(id);
  if (node != nullptr && node->gone) return Owner::kUnsettled;
  if (node != nullptr && S_ISREG(node->mode)) return Owner::kFile;
  if (node == nullptr && id >= ids_.suspicious && id < ids_.limit) return Owner::kUnsettled;
  return Owner::kNone;
}

}  // namespace btd
