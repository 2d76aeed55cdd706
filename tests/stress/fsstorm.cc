// SPDX-License-Identifier: BSD-3-Clause
// fsstorm DIR [--procs P] [--ops N] [--seed S] [--shared-every K]: a storm of namespace changes.
// Each process owns a subtree and a model of it in memory, checks every answer against the model
// and walks the whole subtree at the end. One operation in K goes to a tree that all share, where
// any of the errors that a race allows may come back, but no other. At the end the shared tree must
// be sound: every name can be read, link counts are the numbers of names, directories can be
// emptied.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <algorithm>
#include <memory>
#include <set>

#include "tests/stress/stress_util.h"

namespace btd::stress {
namespace {

[[noreturn]] void Fail(const std::string& what, const std::string& path, int error = errno) {
  std::fprintf(stderr, "fsstorm[%d]: %s %s: %s\n", ::getpid(), what.c_str(), path.c_str(),
               std::strerror(error));
  std::_Exit(1);
}

[[noreturn]] void Differ(const std::string& what, const std::string& path) {
  std::fprintf(stderr, "fsstorm[%d]: %s of %s is not what the operations made it\n", ::getpid(),
               what.c_str(), path.c_str());
  std::_Exit(1);
}

/// What one inode should be.
struct Inode {
  enum class Type { kFile, kDir, kLink } type = Type::kFile;
  mode_t mode = 0644;
  nlink_t links = 1;
  std::string content;  // of a file; the target of a link
  std::map<std::string, std::string> xattrs;
  std::map<std::string, std::shared_ptr<Inode>> entries;  // of a directory
};
using Node = std::shared_ptr<Inode>;

/// One place in the model: the directory and the name in it, with the path.
struct Place {
  Node dir;
  std::string name;
  std::string path;
  [[nodiscard]] Node Find() const {
    const auto it = dir->entries.find(name);
    return it == dir->entries.end() ? nullptr : it->second;
  }
};

class Subtree {
 public:
  Subtree(std::string root, uint64_t seed) : root_(std::move(root)), random_(seed) {
    model_ = std::make_shared<Inode>();
    model_->type = Inode::Type::kDir;
    if (::mkdir(root_.c_str(), 0755) != 0) Fail("mkdir", root_);
  }

  void Step() {
    static void (Subtree::* const kSteps[])() = {
        &Subtree::Create,   &Subtree::Create,  &Subtree::Write,    &Subtree::Write,
        &Subtree::MakeDir,  &Subtree::MakeDir, &Subtree::Remove,   &Subtree::Remove,
        &Subtree::Rename,   &Subtree::Rename,  &Subtree::Rename,   &Subtree::HardLink,
        &Subtree::SymLink,  &Subtree::Chmod,   &Subtree::SetXattr, &Subtree::Truncate,
        &Subtree::Exchange, &Subtree::Tmpfile, &Subtree::CheckOne, &Subtree::CheckDir,
    };
    (this->*kSteps[random_.Below(std::size(kSteps))])();
  }

  void CheckTree() { Check(model_, root_, true); }

 private:
  /// A random directory of the model, reached by a random walk.
  Place RandomPlace(bool existing) {
    Node dir = model_;
    std::string path = root_;
    while (!random_.OneIn(3)) {
      std::vector<std::string> dirs;
      for (const auto& [name, node] : dir->entries) {
        if (node->type == Inode::Type::kDir) dirs.push_back(name);
      }
      if (dirs.empty()) break;
      const std::string& name = dirs[random_.Below(dirs.size())];
      dir = dir->entries[name];
      path += "/" + name;
    }
    std::string name = "n" + std::to_string(random_.Below(24));
    if (existing && !dir->entries.empty()) {
      auto it = dir->entries.begin();
      std::advance(it, static_cast<long>(random_.Below(dir->entries.size())));
      name = it->first;
    }
    if (!existing && random_.OneIn(40))
      name = std::string(255, static_cast<char>('a' + random_.Below(26)));
    return {dir, name, path + "/" + name};
  }

  /// Checks the outcome of a call that the model says gives `expected` (0 or an errno).
  static bool Outcome(int result, int expected, const char* what, const std::string& path) {
    const int error = result < 0 ? errno : 0;
    if (error != expected) {
      std::fprintf(stderr, "fsstorm[%d]: expected %s\n", ::getpid(), std::strerror(expected));
      Fail(what, path, error);
    }
    return error == 0;
  }

  void Create() {
    const Place p = RandomPlace(false);
    const Fd fd(::open(p.path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644));
    if (Outcome(fd.get(), p.Find() ? EEXIST : 0, "create", p.path)) {
      p.dir->entries[p.name] = std::make_shared<Inode>();
    }
  }

  void Tmpfile() {
    const Place p = RandomPlace(false);
    const std::string dir = p.path.substr(0, p.path.rfind('/'));
    const Fd fd(::open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fd.valid()) Fail("O_TMPFILE in", dir);
    const std::string content = "tmpfile " + std::to_string(random_.Next());
    if (::write(fd.get(), content.data(), content.size()) < 0) Fail("write", dir);
    const std::string proc = "/proc/self/fd/" + std::to_string(fd.get());
    const int result =
        ::linkat(AT_FDCWD, proc.c_str(), AT_FDCWD, p.path.c_str(), AT_SYMLINK_FOLLOW);
    if (Outcome(result, p.Find() ? EEXIST : 0, "link a nameless file to", p.path)) {
      auto node = std::make_shared<Inode>();
      node->mode = 0600;
      node->content = content;
      p.dir->entries[p.name] = node;
    }
  }

  void Write() {
    const Place p = RandomPlace(true);
    const Node node = p.Find();
    if (!node || node->type != Inode::Type::kFile) return;
    const Fd fd(::open(p.path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd.valid()) Fail("open", p.path);
    std::string piece(1 + random_.Below(6000), static_cast<char>('a' + random_.Below(26)));
    const uint64_t at = random_.Below(std::min<uint64_t>(node->content.size() + 100, 60'000));
    if (::pwrite(fd.get(), piece.data(), piece.size(), static_cast<off_t>(at)) !=
        static_cast<ssize_t>(piece.size())) {
      Fail("write", p.path);
    }
    if (node->content.size() < at + piece.size()) node->content.resize(at + piece.size());
    node->content.replace(at, piece.size(), piece);
    if (random_.OneIn(8) && ::fsync(fd.get()) != 0) Fail("fsync", p.path);
  }

  void Truncate() {
    const Place p = RandomPlace(true);
    const Node node = p.Find();
    if (!node || node->type == Inode::Type::kLink) return;
    const uint64_t size = random_.Below(30'000);
    const int expected = node->type == Inode::Type::kDir ? EISDIR : 0;
    if (Outcome(::truncate(p.path.c_str(), static_cast<off_t>(size)), expected, "truncate",
                p.path)) {
      node->content.resize(size);
    }
  }

  void MakeDir() {
    const Place p = RandomPlace(false);
    if (!Outcome(::mkdir(p.path.c_str(), 0755), p.Find() ? EEXIST : 0, "mkdir", p.path)) return;
    auto node = std::make_shared<Inode>();
    node->type = Inode::Type::kDir;
    node->mode = 0755;
    p.dir->entries[p.name] = node;
  }

  void SymLink() {
    const Place p = RandomPlace(false);
    const std::string target(1 + random_.Below(300), 't');
    if (!Outcome(::symlink(target.c_str(), p.path.c_str()), p.Find() ? EEXIST : 0, "symlink",
                 p.path)) {
      return;
    }
    auto node = std::make_shared<Inode>();
    node->type = Inode::Type::kLink;
    node->mode = 0777;
    node->content = target;
    p.dir->entries[p.name] = node;
  }

  void HardLink() {
    const Place from = RandomPlace(true);
    const Place to = RandomPlace(false);
    const Node node = from.Find();
    int expected = 0;
    if (!node) {
      expected = ENOENT;
    } else if (to.Find()) {
      expected = EEXIST;
    } else if (node->type == Inode::Type::kDir) {
      expected = EPERM;
    }
    if (Outcome(::link(from.path.c_str(), to.path.c_str()), expected, "link", to.path)) {
      to.dir->entries[to.name] = node;
      ++node->links;
    }
  }

  void Remove() {
    const Place p = RandomPlace(true);
    const Node node = p.Find();
    const bool dir = node && node->type == Inode::Type::kDir;
    int expected = node ? 0 : ENOENT;
    if (dir && !node->entries.empty()) expected = ENOTEMPTY;
    const int result = dir ? ::rmdir(p.path.c_str()) : ::unlink(p.path.c_str());
    if (!Outcome(result, expected, "remove", p.path)) return;
    p.dir->entries.erase(p.name);
    --node->links;
  }

  static bool Contains(const Node& tree, const Node& dir) {
    if (tree == dir) return true;
    return std::any_of(tree->entries.begin(), tree->entries.end(), [&](const auto& entry) {
      return entry.second->type == Inode::Type::kDir && Contains(entry.second, dir);
    });
  }

  static int RenameOutcome(const Place& from, const Place& to, bool exchange) {
    const Node node = from.Find();
    const Node target = to.Find();
    // The order in which Linux looks: both names, then ancestors, then kinds.
    if (!node) return ENOENT;
    if (exchange && !target) return ENOENT;
    const bool dir = node->type == Inode::Type::kDir;
    if (dir && Contains(node, to.dir)) return EINVAL;
    if (target && target->type == Inode::Type::kDir && Contains(target, from.dir)) {
      return exchange ? EINVAL : ENOTEMPTY;
    }
    if (exchange || !target || target == node) return 0;
    const bool target_dir = target->type == Inode::Type::kDir;
    if (dir && !target_dir) return ENOTDIR;
    if (!dir && target_dir) return EISDIR;
    return target_dir && !target->entries.empty() ? ENOTEMPTY : 0;
  }

  void Rename() {
    const Place from = RandomPlace(true);
    const Place to = RandomPlace(random_.OneIn(3));
    const Node node = from.Find();
    const Node target = to.Find();
    const int expected = RenameOutcome(from, to, false);
    if (!Outcome(::rename(from.path.c_str(), to.path.c_str()), expected, "rename to", to.path)) {
      return;
    }
    if (node == target) return;
    if (target) --target->links;
    from.dir->entries.erase(from.name);
    to.dir->entries[to.name] = node;
  }

  void Exchange() {
    const Place from = RandomPlace(true);
    const Place to = RandomPlace(true);
    const Node node = from.Find();
    const Node target = to.Find();
    const int expected = RenameOutcome(from, to, true);
    if (!Outcome(
            ::renameat2(AT_FDCWD, from.path.c_str(), AT_FDCWD, to.path.c_str(), RENAME_EXCHANGE),
            expected, "exchange with", to.path)) {
      return;
    }
    from.dir->entries[from.name] = target;
    to.dir->entries[to.name] = node;
  }

  void Chmod() {
    const Place p = RandomPlace(true);
    const Node node = p.Find();
    if (!node || node->type == Inode::Type::kLink) return;
    const mode_t mode = 0700U | static_cast<mode_t>(random_.Below(01000));
    if (::chmod(p.path.c_str(), mode) != 0) Fail("chmod", p.path);
    node->mode = mode;
  }

  void SetXattr() {
    const Place p = RandomPlace(true);
    const Node node = p.Find();
    if (!node || node->type == Inode::Type::kLink) return;
    const std::string name = "user.x" + std::to_string(random_.Below(3));
    if (random_.OneIn(3)) {
      const int expected = node->xattrs.erase(name) == 1 ? 0 : ENODATA;
      Outcome(::removexattr(p.path.c_str(), name.c_str()), expected, "removexattr", p.path);
      return;
    }
    const std::string value(random_.Below(600), static_cast<char>('A' + random_.Below(26)));
    if (::setxattr(p.path.c_str(), name.c_str(), value.data(), value.size(), 0) != 0) {
      Fail("setxattr", p.path);
    }
    node->xattrs[name] = value;
  }

  void CheckOne() {
    const Place p = RandomPlace(true);
    const Node node = p.Find();
    struct stat st{};
    if (!Outcome(::lstat(p.path.c_str(), &st), node ? 0 : ENOENT, "lstat", p.path)) return;
    Check(node, p.path, false);
  }

  void CheckDir() {
    const Place p = RandomPlace(true);
    CheckEntries(p.dir, p.path.substr(0, p.path.rfind('/')));
  }

  static void CheckEntries(const Node& node, const std::string& path) {
    DIR* dir = ::opendir(path.c_str());
    if (dir == nullptr) Fail("opendir", path);
    std::multiset<std::string> seen;
    while (const dirent* entry = ::readdir(dir)) seen.insert(entry->d_name);
    ::closedir(dir);
    if (seen.size() != node->entries.size() + 2) Differ("the number of entries", path);
    for (const auto& [name, unused] : node->entries) {
      if (seen.count(name) != 1) Differ("entry " + name, path);
    }
  }

  static void CheckXattrs(const Node& node, const std::string& path) {
    for (int i = 0; i < 3; ++i) {
      const std::string name = "user.x" + std::to_string(i);
      char value[1024];
      const ssize_t n = ::getxattr(path.c_str(), name.c_str(), value, sizeof value);
      const auto it = node->xattrs.find(name);
      if (n < 0 && errno != ENODATA) Fail("getxattr", path);
      if ((n < 0) != (it == node->xattrs.end())) Differ(name, path);
      if (n >= 0 && it->second != std::string(value, static_cast<size_t>(n))) Differ(name, path);
    }
  }

  static void CheckContent(const Node& node, const std::string& path) {
    std::string found(node->content.size() + 1, '\0');
    ssize_t n = 0;
    if (node->type == Inode::Type::kLink) {
      n = ::readlink(path.c_str(), found.data(), found.size());
    } else {
      const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd.valid()) Fail("open", path);
      n = ::pread(fd.get(), found.data(), found.size(), 0);
    }
    if (n < 0) Fail("read", path);
    found.resize(static_cast<size_t>(n));
    if (found != node->content) Differ("the content", path);
  }

  static void Check(const Node& node, const std::string& path, bool deep) {
    struct stat st{};
    if (::lstat(path.c_str(), &st) != 0) Fail("lstat", path);
    const mode_t types[] = {S_IFREG, S_IFDIR, S_IFLNK};
    if ((st.st_mode & S_IFMT) != types[static_cast<int>(node->type)]) Differ("the type", path);
    if (node->type == Inode::Type::kDir) {
      const auto dirs =
          std::count_if(node->entries.begin(), node->entries.end(),
                        [](const auto& e) { return e.second->type == Inode::Type::kDir; });
      if (st.st_nlink != static_cast<nlink_t>(dirs) + 2) Differ("the link count", path);
      if (!deep) return;
      CheckEntries(node, path);
      for (const auto& [name, child] : node->entries) Check(child, path + "/" + name, true);
      return;
    }
    if (st.st_nlink != node->links) Differ("the link count", path);
    if (st.st_size != static_cast<off_t>(node->content.size())) Differ("the size", path);
    CheckContent(node, path);
    if (node->type == Inode::Type::kLink) return;
    if ((st.st_mode & 07777U) != node->mode) Differ("the mode", path);
    CheckXattrs(node, path);
  }

  const std::string root_;
  Random random_;
  Node model_;
};

/// Operations of all processes on few names: whatever a race may answer is right, nothing else.
class SharedTree {
 public:
  SharedTree(std::string root, uint64_t seed) : root_(std::move(root)), random_(seed) {}

  void Step() {
    const std::string a = RandomPath();
    const std::string b = RandomPath();
    int result = 0;
    switch (random_.Below(10)) {
      case 0:
        result = ::mkdir(a.c_str(), 0755);
        break;
      case 1:
        result = ::rmdir(a.c_str());
        break;
      case 2:
        result = ::unlink(a.c_str());
        break;
      case 3:
        result = ::link(a.c_str(), b.c_str());
        break;
      case 4:
        result = ::symlink("x", a.c_str());
        break;
      case 5:
        result = ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
        break;
      case 6:
        result = ::rename(a.c_str(), b.c_str());
        break;
      case 7:
        result = ListOne(a);
        break;
      default:
        result = WriteOne(a);
        break;
    }
    static const std::set<int> kAllowed = {ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY,
                                           EINVAL, EPERM,  ELOOP,   ESTALE};
    if (result < 0 && kAllowed.count(errno) == 0) Fail("shared operation on", a + " and " + b);
  }

 private:
  std::string RandomPath() {
    std::string path = root_;
    do {
      path += "/s" + std::to_string(random_.Below(5));
    } while (random_.OneIn(2));
    return path;
  }

  static int ListOne(const std::string& path) {
    DIR* dir = ::opendir(path.c_str());
    if (dir == nullptr) return -1;
    errno = 0;
    while (::readdir(dir) != nullptr) {
    }
    const int error = errno;
    ::closedir(dir);
    errno = error;
    return error == 0 ? 0 : -1;
  }

  int WriteOne(const std::string& path) {
    const Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644));
    if (!fd.valid()) return -1;
    const std::string text(1 + random_.Below(200), 'w');
    return ::pwrite(fd.get(), text.data(), text.size(), static_cast<off_t>(random_.Below(5000))) < 0
               ? -1
               : 0;
  }

  const std::string root_;
  Random random_;
};

/// Counts names of every inode below `path`, and checks the counts of directories on the way.
void Walk(const std::string& path, std::map<ino_t, std::pair<nlink_t, nlink_t>>& names) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) Fail("opendir", path);
  nlink_t dirs = 2;
  std::set<std::string> seen;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (!seen.insert(name).second) Differ("a name listed twice: " + name, path);
    struct stat st{};
    const std::string child = path + "/" + name;
    if (::lstat(child.c_str(), &st) != 0) Fail("lstat", child);
    if (S_ISDIR(st.st_mode)) {
      ++dirs;
      Walk(child, names);
    } else {
      auto& [found, says] = names[st.st_ino];
      ++found;
      says = st.st_nlink;
    }
  }
  ::closedir(dir);
  struct stat st{};
  if (::lstat(path.c_str(), &st) != 0) Fail("lstat", path);
  if (st.st_nlink != dirs) Differ("the link count", path);
}

void Empty(const std::string& path) {
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) Fail("opendir", path);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(dir)) names.emplace_back(entry->d_name);
  ::closedir(dir);
  for (const std::string& name : names) {
    if (name == "." || name == "..") continue;
    const std::string child = path + "/" + name;
    struct stat st{};
    if (::lstat(child.c_str(), &st) != 0) Fail("lstat", child);
    if (S_ISDIR(st.st_mode)) {
      Empty(child);
    } else if (::unlink(child.c_str()) != 0) {
      Fail("unlink", child);
    }
  }
  if (::rmdir(path.c_str()) != 0) Fail("rmdir", path);
}

void Work(const std::string& root, uint64_t id, uint64_t ops, uint64_t seed, uint64_t every) {
  Subtree own(root + "/p" + std::to_string(id), seed * 1000 + id);
  SharedTree shared(root + "/shared", seed * 7777 + id);
  for (uint64_t i = 1; i <= ops; ++i) {
    if (every != 0 && i % every == 0) {
      shared.Step();
    } else {
      own.Step();
    }
  }
  own.CheckTree();
}

}  // namespace
}  // namespace btd::stress

int main(int argc, char** argv) {
  using namespace btd::stress;
  const Options options(argc, argv,
                        "fsstorm DIR [--procs P] [--ops N] [--seed S] [--shared-every K] [--keep]");
  const uint64_t procs = options.Number("procs", 4);
  const uint64_t ops = options.Number("ops", 5000);
  const uint64_t seed = options.Number("seed", 1);
  ::umask(0);
  const std::string root = options.Positional(0) + "/fsstorm." + std::to_string(::getpid());
  if (::mkdir(root.c_str(), 0755) != 0) Fail("mkdir", root);
  if (::mkdir((root + "/shared").c_str(), 0755) != 0) Fail("mkdir", root + "/shared");
  for (uint64_t id = 0; id < procs; ++id) {
    if (::fork() == 0) {
      Work(root, id, ops, seed, options.Number("shared-every", 4));
      std::_Exit(0);
    }
  }
  bool ok = true;
  int status = 0;
  while (::wait(&status) > 0) ok = ok && status == 0;
  if (!ok) return 1;
  std::map<ino_t, std::pair<nlink_t, nlink_t>> names;
  Walk(root + "/shared", names);
  for (const auto& [ino, counts] : names) {
    if (counts.first != counts.second) Differ("the link count in the shared tree", root);
  }
  if (!options.Has("keep")) Empty(root);
  std::printf("fsstorm: %llu processes, %llu operations each with seed %llu, all as expected\n",
              static_cast<unsigned long long>(procs), static_cast<unsigned long long>(ops),
              static_cast<unsigned long long>(seed));
  return 0;
}
