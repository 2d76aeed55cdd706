#include "fs/pool/contents.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <string_view>

#include "alloc/unique_fd.h"
#include "fs/pool/sentences.h"

namespace btd {

namespace {

bool is_hex(std::string_view text, std::size_t digits) {
  return text.size() == digits && std::ranges::all_of(text, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

bool is_regular(int dir, const char* name) {
  struct stat facts{};
  return ::fstatat(dir, name, &facts, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(facts.st_mode);
}

bool is_directory(int dir, const char* name) {
  struct stat facts{};
  return ::fstatat(dir, name, &facts, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(facts.st_mode);
}

using Judge = std::function<bool(int dir, const char* name)>;  // is it ours?

bool ours_in_meta(int dir, const char* name) {
  return std::string_view(name).starts_with("arena") && is_regular(dir, name);
}

bool ours_in_fan(int dir, const char* name) { return is_hex(name, 16) && is_regular(dir, name); }

bool ours_in_data(int dir, const char* name) { return is_hex(name, 2) && is_directory(dir, name); }

// Calls `visit` for each entry of dir/name but "." and "..", until it returns false.
Status for_each(int dir, const std::string& name, const Judge& visit) {
  const int fd = ::openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) {
    if (errno == ENOENT) return {};
    return cannot("read the pool's directory " + name, errno);
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(fd), ::closedir);
  if (!entries) return cannot("read the pool's directory " + name, errno);
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string_view text = entry->d_name;
    if (text == "." || text == "..") continue;
    if (!visit(fd, entry->d_name)) break;
  }
  return {};
}

Status find_foreign(int dir, const std::string& name, const Judge& ours, std::string& foreign) {
  return for_each(dir, name, [&](int fd, const char* entry) {
    if (!ours(fd, entry)) foreign = name + "/" + entry;
    return foreign.empty();
  });
}

// In the trees below a pool's directory.
Status find_foreign_below(int dir, std::string& foreign) {
  BTD_TRY(find_foreign(dir, "meta", ours_in_meta, foreign));
  if (!foreign.empty()) return {};
  Status below;
  BTD_TRY(for_each(dir, "data", [&](int data, const char* fan) {
    if (!ours_in_data(data, fan)) {
      foreign = std::string("data/") + fan;
    } else {
      below = find_foreign(dir, std::string("data/") + fan, ours_in_fan, foreign);
    }
    return below && foreign.empty();
  }));
  return below;
}

Status remove_ours(int dir, const std::string& name, const Judge& ours, int flags) {
  Status removed;
  BTD_TRY(for_each(dir, name, [&](int fd, const char* entry) {
    if (ours(fd, entry) && ::unlinkat(fd, entry, flags) != 0 && errno != ENOENT)
      removed = cannot("remove " + name + "/" + entry, errno);
    return removed.has_value();
  }));
  return removed;
}

Status remove_name(int dir, const char* name, int flags, const std::string& path) {
  if (::unlinkat(dir, name, flags) == 0 || errno == ENOENT) return {};
  return cannot("remove " + path + "/" + name, errno);
}

}  // namespace

Result<Contents> look_into(int dir, const std::string& path) {
  Contents found;
  std::string strange;
  bool trees = false;
  BTD_TRY(for_each(dir, ".", [&](int fd, const char* entry) {
    const std::string_view name = entry;
    if (name == kSuperblockName) {
      found.pool = true;
    } else if (name == kNewSuperblockName) {
      found.unfinished = true;
    } else if ((name == "meta" || name == "data") && is_directory(fd, entry)) {
      trees = true;
    } else if (name != kSuperblockCopyName && name != "lost+found") {
      strange = entry;
    }
    return true;
  }));
  found.foreign = strange;
  // Without a superblock of any kind, nothing says that meta/ and data/ are a pool's.
  if (trees && !found.pool && !found.unfinished) found.foreign = "meta or data";
  if (!found.foreign.empty()) return found;
  if (trees) {
    if (auto below = find_foreign_below(dir, found.foreign); !below)
      return fail(below.error().code, below.error().message + " of " + path);
  }
  return found;
}

Status remove_contents(int dir, const std::string& path) {
  BTD_TRY(remove_ours(dir, "meta", ours_in_meta, 0));
  BTD_TRY(remove_name(dir, "meta", AT_REMOVEDIR, path));
  Status below;
  BTD_TRY(for_each(dir, "data", [&](int data, const char* fan) {
    if (ours_in_data(data, fan))
      below = remove_ours(dir, std::string("data/") + fan, ours_in_fan, 0);
    return below.has_value();
  }));
  BTD_TRY(below);
  BTD_TRY(remove_ours(dir, "data", ours_in_data, AT_REMOVEDIR));
  BTD_TRY(remove_name(dir, "data", AT_REMOVEDIR, path));
  return remove_name(dir, kSuperblockCopyName, 0, path);
}

}  // namespace btd
