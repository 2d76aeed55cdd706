// Handlers that list directories. There is no OPENDIR: the kernel keeps a directory's listing by
// itself and drops it at each change, all of which it makes.
//
// Offsets: 1 is ".", 2 is "..", above are the namespace's cookies. /.btd is reached by name only,
// so that tools that walk or empty the root do not meet it.
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <vector>

#include "fs/daemon/cluster_node.h"
#include "fs/daemon/server.h"

namespace btd {

namespace {

constexpr std::size_t kLargestReply = 1 << 20;
constexpr std::size_t kPlainBatch = 1024;

// A reply under construction. Entries with one cookie go in together or not at all, since the
// listing can only go on after a cookie.
class Listing {
 public:
  Listing(fuse_req_t req, std::size_t size, bool plus) : req_(req), plus_(plus) {
    buffer_.resize(std::min(size, kLargestReply));
  }

  bool add(const char* name, const fuse_entry_param& entry, std::uint64_t cookie) {
    char* at = buffer_.data() + used_;
    const std::size_t room = buffer_.size() - used_;
    const auto offset = static_cast<off_t>(cookie);
    const std::size_t need = plus_ ? fuse_add_direntry_plus(req_, at, room, name, &entry, offset)
                                   : fuse_add_direntry(req_, at, room, name, &entry.attr, offset);
    if (need > room) return false;
    if (cookie != cookie_) {
      group_start_ = used_;
      group_first_ = looked_up_.size();
      cookie_ = cookie;
    }
    used_ += need;
    if (plus_ && entry.ino != 0) looked_up_.push_back(entry.ino);
    return true;
  }

  // The last group did not fit: takes it back, unless there is nothing before it.
  void drop_group(std::uint64_t cookie) {
    if (cookie != cookie_ || group_start_ == 0) return;
    used_ = group_start_;
    looked_up_.resize(group_first_);
  }

  [[nodiscard]] std::size_t entries() const { return looked_up_.size(); }
  [[nodiscard]] const std::vector<InodeId>& looked_up() const { return looked_up_; }
  void reply() { fuse_reply_buf(req_, buffer_.data(), used_); }

 private:
  fuse_req_t req_;
  bool plus_;
  std::string buffer_;
  std::size_t used_ = 0, group_start_ = 0, group_first_ = 0;
  std::uint64_t cookie_ = 0;
  std::vector<InodeId> looked_up_;
};

fuse_entry_param plain_entry(InodeId id, std::uint32_t type) {
  fuse_entry_param entry{};
  entry.attr.st_ino = id;
  entry.attr.st_mode = type;
  return entry;
}

Result<fuse_entry_param> plus_entry(Server& s, const DirEntry& name) {
  BTD_ASSIGN(const Inode inode, s.names.get(name.id));
  fuse_entry_param entry{};
  BTD_ASSIGN(entry.attr, attributes(s, inode));
  entry.ino = inode.id;
  entry.attr_timeout = attr_timeout(inode);
  entry.entry_timeout = kForever;
  return entry;
}

bool is_away(const Server& s, const DirEntry& name) {
  return S_ISREG(name.type) && !s.is_home(name.id);
}

bool add_dots(Listing& listing, InodeId dir, InodeId parent, off_t offset) {
  if (offset < 1 && !listing.add(".", plain_entry(dir, S_IFDIR), 1)) return false;
  return offset >= 2 || listing.add("..", plain_entry(parent, S_IFDIR), 2);
}

void list_virtual(Listing& listing, InodeId dir, off_t offset) {
  if (dir != VirtualTree::kDir || !add_dots(listing, dir, kRootId, offset)) return;
  for (std::uint64_t i = 0; i < VirtualTree::kNames.size(); ++i) {
    const auto& known = VirtualTree::kNames[i];
    if (static_cast<std::uint64_t>(std::max<off_t>(offset, 2)) >= i + 3) continue;
    if (!listing.add(std::string(known.name).c_str(), plain_entry(known.id, S_IFREG), i + 3))
      return;
  }
}

Status list_names(Server& s, Listing& listing, InodeId dir, off_t offset, bool plus) {
  if (offset < 2) {
    BTD_ASSIGN(const Inode inode, s.names.get(dir));
    // The root's parent is the root; one that an older version did not note is said to be it too.
    if (!add_dots(listing, dir, inode.parent != 0 ? inode.parent : kRootId, offset)) return {};
  }
  std::uint64_t cookie = offset > 2 ? static_cast<std::uint64_t>(offset) : 0;
  for (;;) {
    const std::size_t limit = plus ? kMaxPlusEntries - listing.entries() : kPlainBatch;
    if (limit == 0) return {};
    BTD_ASSIGN(const auto names, s.names.list(dir, cookie, limit));
    if (names.empty()) return {};
    for (const DirEntry& name : names) {
      if (plus && listing.entries() == kMaxPlusEntries) {
        listing.drop_group(name.cookie);
        return {};
      }
      auto entry = plain_entry(name.id, name.type);
      if (plus) {
        // A listing waits for no other node: of its files the kernel asks when it needs them.
        auto full = is_away(s, name) ? Result<fuse_entry_param>(entry) : plus_entry(s, name);
        if (!full && full.error().code != ENOENT) return fail(full.error().code);
        if (full) entry = *full;  // removed meanwhile: its bare name is still a true answer
      }
      if (!listing.add(name.name.c_str(), entry, name.cookie)) {
        listing.drop_group(name.cookie);
        return {};
      }
      cookie = name.cookie;
    }
  }
}

void list(fuse_req_t req, fuse_ino_t dir, std::size_t size, off_t offset, bool plus) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(),
                           plus ? proto::kReaddirplus : proto::kReaddir, dir, "");
  Listing listing(req, size, plus);
  if (is_virtual(dir)) {
    list_virtual(listing, dir, offset);
    return listing.reply();
  }
  const std::uint64_t noted = s.cluster != nullptr ? s.cluster->kernel().noted() : 0;
  if (auto listed = list_names(s, listing, dir, offset, plus); !listed)
    return reply_error(req, listed.error().code);
  for (InodeId id : listing.looked_up())
    if (auto counted = s.state.add(current_request().slot, id, 1, 0); !counted)
      return reply_error(req, counted.error().code);
  if (s.cluster != nullptr && s.cluster->kernel().noted() != noted)
    for (InodeId id : listing.looked_up()) s.cluster->kernel().tell_again(id);
  scope.reached(KillPoint::kCounted);
  listing.reply();
}

void readdir(fuse_req_t req, fuse_ino_t dir, std::size_t size, off_t offset, fuse_file_info*) {
  list(req, dir, size, offset, false);
}

void readdirplus(fuse_req_t req, fuse_ino_t dir, std::size_t size, off_t offset, fuse_file_info*) {
  list(req, dir, size, offset, true);
}

// Names are durable when the call that made them returned.
void fsyncdir(fuse_req_t req, fuse_ino_t dir, int, fuse_file_info*) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kFsyncdir, dir, "");
  reply_ok(req);
}

}  // namespace

void install_dir_ops(fuse_lowlevel_ops& ops) {
  ops.readdir = readdir;
  ops.readdirplus = readdirplus;
  ops.fsyncdir = fsyncdir;
}

}  // namespace btd
