// SPDX-License-Identifier: BSD-3-Clause
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <sstream>

#include "tests/stress/stress_util.h"
#include "tests/vm/guest/file_model.h"
#include "tests/vm/guest/load.h"

namespace btd::vm {

namespace {

using stress::Fd;

// Where a new file is written before it is renamed; of no operation that is over.
constexpr const char* kDraft = ".draft";
constexpr const char* kAttribute = "user.number";

Status done(bool ok, const char* what, const std::string& path) {
  if (ok) return {};
  const int code = errno;
  return fail(code, std::string(what) + ' ' + path + ": " + std::strerror(code));
}

class FileLoad final : public Load {
 public:
  explicit FileLoad(std::string directory) : directory_(std::move(directory)) {}

  Result<std::uint64_t> verify(std::uint64_t acknowledged, std::uint64_t ahead) override {
    BTD_ASSIGN(const std::string found, describe());
    FileModel model;
    std::uint64_t number = 0;
    for (; number < acknowledged; ++number) model.apply(model.choose(number));
    std::string nearest = difference(number, model.text(), found);
    while (!nearest.empty() && number < acknowledged + ahead) {
      model.apply(model.choose(number++));
      std::string next = difference(number, model.text(), found);
      if (next.size() < nearest.size()) nearest = std::move(next);
    }
    if (!nearest.empty())
      return fail(EUCLEAN, std::to_string(acknowledged) +
                               " operations were acknowledged, and what is there is what no number "
                               "from that on leaves; nearest is " +
                               nearest);
    model_ = std::move(model);
    number_ = number;
    return number;
  }

  Status step() override {
    const FileOperation operation = model_.choose(number_);
    BTD_TRY(perform(operation));
    model_.apply(operation);
    ++number_;
    return {};
  }

 private:
  [[nodiscard]] std::string path(const std::string& name) const { return directory_ + '/' + name; }

  // The lines that only one of them has; empty where they are the same.
  static std::string difference(std::uint64_t number, const std::string& expected,
                                const std::string& found) {
    if (expected == found) return {};
    return std::to_string(number) + ": " + lines_without(expected, found, "; missing: ") +
           lines_without(found, expected, "; too much: ");
  }

  static std::string lines_without(const std::string& text, const std::string& other,
                                   const char* title) {
    std::istringstream in(text);
    std::string line, lines;
    while (std::getline(in, line))
      if (('\n' + other).find('\n' + line + '\n') == std::string::npos) lines += title + line;
    return lines;
  }

  Status perform(const FileOperation& o) {
    using Kind = FileOperation::Kind;
    const std::string at = path(o.name);
    const std::string to = path(o.to);
    switch (o.kind) {
      case Kind::kPut:
        return put(o);
      case Kind::kLink:
        return done(link(at.c_str(), to.c_str()) == 0, "link", at);
      case Kind::kRename:
        return done(rename(at.c_str(), to.c_str()) == 0, "rename", at);
      case Kind::kRemove:
        return done((o.is_directory ? rmdir(at.c_str()) : unlink(at.c_str())) == 0, "remove", at);
      case Kind::kMode:
        return done(chmod(at.c_str(), mode_of(o.number)) == 0, "chmod", at);
      case Kind::kAttribute:
        return done(setxattr(at.c_str(), kAttribute, &o.number, sizeof(o.number), 0) == 0,
                    "setxattr", at);
      case Kind::kCut:
        return cut(at, o.size);
      case Kind::kStore:
        return store(at, o.number);
      case Kind::kSymlink:
        return done(symlink(target_of(o.number).c_str(), at.c_str()) == 0, "symlink", at);
      case Kind::kDirectory:
        return done(mkdir(at.c_str(), 0755) == 0, "mkdir", at);
    }
    return {};
  }

  Status put(const FileOperation& o) {
    const std::string draft = path(kDraft);
    const std::vector<char> bytes = file_contents(o.number, o.size);
    const Fd fd(open(draft.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
    BTD_TRY(done(fd.valid(), "open", draft));
    BTD_TRY(done(write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
                 "write", draft));
    BTD_TRY(done(fchmod(fd.get(), mode_of(o.number)) == 0, "fchmod", draft));
    BTD_TRY(done(fsync(fd.get()) == 0, "fsync", draft));
    return done(rename(draft.c_str(), path(o.name).c_str()) == 0, "rename", draft);
  }

  // A size goes with the data: durable when it was synced.
  static Status cut(const std::string& at, std::uint64_t size) {
    const Fd fd(open(at.c_str(), O_RDWR | O_CLOEXEC));
    BTD_TRY(done(fd.valid(), "open", at));
    BTD_TRY(done(ftruncate(fd.get(), static_cast<off_t>(size)) == 0, "ftruncate", at));
    return done(fsync(fd.get()) == 0, "fsync", at);
  }

  // The word reaches the memory in one piece, so that a cut leaves the old or the new one.
  static Status store(const std::string& at, std::uint64_t number) {
    const Fd fd(open(at.c_str(), O_RDWR | O_CLOEXEC));
    BTD_TRY(done(fd.valid(), "open", at));
    void* map = mmap(nullptr, sizeof(number), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    BTD_TRY(done(map != MAP_FAILED, "mmap", at));
    std::atomic_ref<std::uint64_t>(*static_cast<std::uint64_t*>(map)).store(number);
    const Status synced = done(msync(map, sizeof(number), MS_SYNC) == 0, "msync", at);
    munmap(map, sizeof(number));
    return synced;
  }

  Result<std::string> describe() const {
    std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(directory_.c_str()), closedir);
    BTD_TRY(done(dir != nullptr, "opendir", directory_));
    std::vector<std::string> names;
    while (const dirent* entry = readdir(dir.get()))
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    // The model's order: that of std::map.
    std::ranges::sort(names);
    std::map<ino_t, std::string> first_links;
    std::string text;
    for (const std::string& name : names) {
      struct stat st{};
      BTD_TRY(done(lstat(path(name).c_str(), &st) == 0, "lstat", path(name)));
      if (S_ISREG(st.st_mode)) {
        const std::string& first = first_links.emplace(st.st_ino, name).first->second;
        BTD_ASSIGN(const std::string line, describe_file(name, first, st));
        text += line;
      } else if (S_ISLNK(st.st_mode)) {
        std::array<char, 256> target{};
        BTD_TRY(done(readlink(path(name).c_str(), target.data(), target.size() - 1) > 0, "readlink",
                     path(name)));
        text += symlink_line(name, target.data());
      } else {
        text += directory_line(name);
      }
    }
    return text;
  }

  Result<std::string> describe_file(const std::string& name, const std::string& first,
                                    const struct stat& st) const {
    const std::string at = path(name);
    const Fd fd(open(at.c_str(), O_RDONLY | O_CLOEXEC));
    BTD_TRY(done(fd.valid(), "open", at));
    std::vector<char> bytes(static_cast<std::size_t>(st.st_size));
    BTD_TRY(done(pread(fd.get(), bytes.data(), bytes.size(), 0) == st.st_size, "read", at));
    std::uint64_t attribute = 0;
    if (fgetxattr(fd.get(), kAttribute, &attribute, sizeof(attribute)) < 0 && errno != ENODATA)
      return fail(errno, "getxattr " + at + ": " + std::strerror(errno));
    return file_line(name, first, bytes.size(), stress::Crc32(bytes.data(), bytes.size()),
                     st.st_mode & 07777U, attribute);
  }

  const std::string directory_;
  FileModel model_;
  std::uint64_t number_ = 0;
};

}  // namespace

Result<std::unique_ptr<Load>> open_file_load(const std::string& directory) {
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return fail(errno, "mkdir " + directory + ": " + std::strerror(errno));
  return std::make_unique<FileLoad>(directory);
}

}  // namespace btd::vm
