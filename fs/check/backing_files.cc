#include "fs/check/backing_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <memory>
#include <optional>
#include <string_view>

#include "alloc/unique_fd.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"

namespace btd {

namespace {

// The id whose file lies at this path, if there is one.
std::optional<InodeId> id_at(const std::string& path, std::string_view name) {
  InodeId id = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), id, 16);
  if (parsed.ec != std::errc() || BackingStore::path(id) != path) return std::nullopt;
  return id;
}

class Walk {
 public:
  Walk(const NamePass& names, Findings& findings) : names_(names), findings_(findings) {}

  Status directory(int data, const std::string& fan) {
    const int fd = ::openat(data, fan.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) return missing(data, fan);
    if (fd < 0) return cannot("read data/" + fan, errno);
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(fd), ::closedir);
    if (!entries) return cannot("read data/" + fan, errno);
    while (const dirent* entry = ::readdir(entries.get())) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") BTD_TRY(file(fd, "data/" + fan + "/", name));
    }
    return {};
  }

  void end() {
    CheckReport& counts = findings_.counts();
    counts.files_without_backing = counts.files - std::min(counts.files, owned_);
  }

 private:
  Status missing(int data, const std::string& fan) {
    const bool made = findings_.repair() && ::mkdirat(data, fan.c_str(), 0700) == 0;
    findings_.problem("the directory data/" + fan + " is missing", made);
    return {};
  }

  Status file(int dir, const std::string& folder, std::string_view name) {
    const std::string path = folder + std::string(name);
    const auto id = id_at(path, name);
    if (!id) {
      findings_.note(path + " is not bartender's; it is left alone");
      return {};
    }
    struct stat facts{};
    if (::fstatat(dir, path.c_str() + folder.size(), &facts, AT_SYMLINK_NOFOLLOW) != 0)
      return cannot("look at " + path, errno);
    if (!S_ISREG(facts.st_mode)) {
      findings_.problem(path + " should be a regular file and is not; move it away");
      return {};
    }
    CheckReport& counts = findings_.counts();
    ++counts.backing_files;
    counts.backing_bytes += static_cast<std::uint64_t>(facts.st_blocks) * 512;
    if (counts.backing_files % 8192 == 0)
      findings_.progress("backing files", counts.backing_files, counts.files);
    if (names_.owner_of(*id) == NamePass::Owner::kFile) {
      ++owned_;
      return {};
    }
    return leaked(dir, path, folder.size(), *id);
  }

  Status leaked(int dir, const std::string& path, std::size_t name_at, InodeId id) {
    const bool removed = findings_.repair() && ::unlinkat(dir, path.c_str() + name_at, 0) == 0;
    if (names_.owner_of(id) == NamePass::Owner::kUnsettled) {
      findings_.note(path + " was left without a name by a crash; the next mount removes it",
                     removed);
    } else {
      findings_.problem(path + " belongs to no file", removed);
    }
    return {};
  }

  const NamePass& names_;
  Findings& findings_;
  std::uint64_t owned_ = 0;
};

}  // namespace

Status check_backing_files(const std::string& pool, const NamePass& names, Findings& findings) {
  const UniqueFd data(
      ::open((pool + "/data").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!data) return cannot("read " + pool + "/data", errno);
  Walk walk(names, findings);
  char fan[3];
  for (unsigned i = 0; i < 256; ++i) {
    std::snprintf(fan, sizeof fan, "%02x", i);
    BTD_TRY(walk.directory(data.get(), fan));
  }
  walk.end();
  return {};
}

}  // namespace btd
