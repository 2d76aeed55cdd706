// SPDX-License-Identifier: BSD-3-Clause
// fsx DIR|FILE [--also PATH] [--ops N] [--seed S] [--max-size BYTES] [--strict]: random operations
// on one file, each checked against a copy of the file in memory. One long-lived mapping is kept
// through truncations, closes and opens, so that every way to the bytes (read, short mapping, long
// mapping) has to agree. PATH is of the same file, in another mount: then each operation is by one
// of the two. On the first difference it prints the last operations and what differs, and ends with
// 1.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <vector>

#include "tests/stress/stress_util.h"

namespace btd::stress {
namespace {

constexpr size_t kLogLength = 400;
constexpr uint64_t kPage = 4096;

class Fsx {
 public:
  Fsx(const std::vector<std::string>& paths, uint64_t seed, uint64_t max_size, bool strict)
      : random_(seed), max_(max_size), strict_(strict) {
    for (const std::string& path : paths)
      sides_.push_back({.path = path, .fd = {}, .map = nullptr});
  }
  Fsx(const Fsx&) = delete;
  Fsx& operator=(const Fsx&) = delete;
  ~Fsx() {
    for (const Side& side : sides_)
      if (side.map != nullptr) ::munmap(side.map, max_);
    ::unlink(sides_[0].path.c_str());
  }

  void Run(uint64_t ops) {
    for (at_ = 0; at_ < sides_.size(); ++at_) {
      Open(at_ == 0 ? O_CREAT | O_TRUNC : 0);
      MapAll();
    }
    for (op_ = 1; op_ <= ops; ++op_) {
      at_ = sides_.size() == 1 ? 0 : random_.Below(sides_.size());
      Step();
      if (op_ % 256 == 0) CheckAll();
    }
    CheckAll();
  }

 private:
  struct Range {
    uint64_t at, length;
  };
  struct Side {
    std::string path;
    Fd fd;
    char* map = nullptr;
  };

  Side& Here() { return sides_[at_]; }

  template <class... Args>
  void Log(const char* format, Args... args) {
    char line[160];
    std::snprintf(line, sizeof line, format, args...);
    const std::string by = sides_.size() == 1 ? " " : at_ == 0 ? " A " : " B ";
    log_.push_back(std::to_string(op_) + by + line);
    if (log_.size() > kLogLength) log_.pop_front();
  }

  [[noreturn]] void Fail(const std::string& why) {
    std::fprintf(stderr, "fsx: the last %zu operations:\n", log_.size());
    for (const std::string& line : log_) std::fprintf(stderr, "  %s\n", line.c_str());
    std::fprintf(stderr, "fsx: %s after operation %llu on %s\n", why.c_str(),
                 static_cast<unsigned long long>(op_), Here().path.c_str());
    std::_Exit(1);
  }

  void Must(bool ok, const char* what) {
    if (!ok) Fail(std::string(what) + ": " + std::strerror(errno));
  }

  /// False where the file system lacks `what`; fails then under --strict.
  bool Supported(int result, const char* what) {
    if (result == 0) return true;
    if (errno != EOPNOTSUPP || strict_) Fail(std::string(what) + ": " + std::strerror(errno));
    if (missing_.insert({what, true}).second) std::printf("fsx: no %s here, left out\n", what);
    return false;
  }

  void Open(int flags) {
    Here().fd = Fd();
    Here().fd = Fd(::open(Here().path.c_str(), O_RDWR | O_CLOEXEC | flags, 0644));
    Must(Here().fd.valid(), "open");
  }

  void MapAll() {
    if (Here().map != nullptr) ::munmap(Here().map, max_);
    void* at = ::mmap(nullptr, max_, PROT_READ | PROT_WRITE, MAP_SHARED, Here().fd.get(), 0);
    Must(at != MAP_FAILED, "mmap");
    Here().map = static_cast<char*>(at);
  }

  Range Inside() {
    const uint64_t at = random_.Below(shadow_.size());
    return {at, 1 + random_.Below(std::min<uint64_t>(shadow_.size() - at, 64 << 10))};
  }

  Range Anywhere() {
    uint64_t at = random_.Below(max_);
    if (random_.OneIn(4)) at &= ~(kPage - 1);
    uint64_t length = 1 + random_.Below(std::min<uint64_t>(max_ - at, 64 << 10));
    if (random_.OneIn(4)) length = std::min(max_ - at, (length + kPage - 1) & ~(kPage - 1));
    return {at, length};
  }

  std::vector<char> NewBytes(uint64_t length) {
    std::vector<char> bytes(length);
    uint64_t word = random_.Next();
    for (uint64_t i = 0; i < length; ++i) {
      if (i % 8 == 0) word = random_.Next();
      bytes[i] = static_cast<char>(word >> (i % 8 * 8));
    }
    return bytes;
  }

  void Compare(const char* found, Range r, const char* how) {
    if (std::equal(found, found + r.length, shadow_.begin() + static_cast<long>(r.at))) return;
    uint64_t first = 0;
    while (found[first] == shadow_[r.at + first]) ++first;
    uint64_t bad = 0;
    for (uint64_t i = 0; i < r.length; ++i) bad += found[i] != shadow_[r.at + i] ? 1 : 0;
    char text[200];
    std::snprintf(
        text, sizeof text, "%s: %llu bytes differ, the first at %#llx: found %02x, not %02x", how,
        static_cast<unsigned long long>(bad), static_cast<unsigned long long>(r.at + first),
        static_cast<unsigned>(static_cast<unsigned char>(found[first])),
        static_cast<unsigned>(static_cast<unsigned char>(shadow_[r.at + first])));
    Fail(text);
  }

  void CheckSize() {
    struct stat st{};
    Must(::fstat(Here().fd.get(), &st) == 0, "fstat");
    if (static_cast<uint64_t>(st.st_size) != shadow_.size()) {
      Fail("size is " + std::to_string(st.st_size) + ", not " + std::to_string(shadow_.size()));
    }
  }

  void CheckAll() {
    for (at_ = 0; at_ < sides_.size(); ++at_) CheckHere();
    at_ = 0;
  }

  void CheckHere() {
    CheckSize();
    if (shadow_.empty()) return;
    std::vector<char> found(shadow_.size());
    for (size_t done = 0; done < found.size();) {
      const ssize_t n = ::pread(Here().fd.get(), found.data() + done, found.size() - done,
                                static_cast<off_t>(done));
      Must(n > 0, "read of all");
      done += static_cast<size_t>(n);
    }
    Compare(found.data(), {0, shadow_.size()}, "read of all");
    Compare(Here().map, {0, shadow_.size()}, "mapping of all");
  }

  void Read() {
    const Range r = Inside();
    Log("read %#lx +%#lx", r.at, r.length);
    std::vector<char> found(r.length);
    const ssize_t n = ::pread(Here().fd.get(), found.data(), r.length, static_cast<off_t>(r.at));
    Must(n == static_cast<ssize_t>(r.length), "read came short");
    Compare(found.data(), r, "read");
  }

  void Put(Range r, const std::vector<char>& bytes) {
    if (shadow_.size() < r.at + r.length) shadow_.resize(r.at + r.length);
    std::copy(bytes.begin(), bytes.end(), shadow_.begin() + static_cast<long>(r.at));
  }

  void Write() {
    const Range r = Anywhere();
    Log("write %#lx +%#lx", r.at, r.length);
    const std::vector<char> bytes = NewBytes(r.length);
    const ssize_t n = ::pwrite(Here().fd.get(), bytes.data(), r.length, static_cast<off_t>(r.at));
    Must(n == static_cast<ssize_t>(r.length), "write");
    Put(r, bytes);
  }

  void Append() {
    const uint64_t length = std::min<uint64_t>(1 + random_.Below(5000), max_ - shadow_.size());
    if (length == 0) return;
    Log("append +%#lx", length);
    const Fd fd(::open(Here().path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
    Must(fd.valid(), "open for appending");
    const std::vector<char> bytes = NewBytes(length);
    Must(::write(fd.get(), bytes.data(), length) == static_cast<ssize_t>(length), "append");
    Put({shadow_.size(), length}, bytes);
  }

  void MapRead() {
    const Range r = Inside();
    Log("mapread %#lx +%#lx", r.at, r.length);
    Compare(Here().map + r.at, r, "long mapping");
    const uint64_t from = r.at & ~(kPage - 1);
    void* at = ::mmap(nullptr, r.at + r.length - from, PROT_READ, MAP_SHARED, Here().fd.get(),
                      static_cast<off_t>(from));
    Must(at != MAP_FAILED, "mmap");
    Compare(static_cast<char*>(at) + (r.at - from), r, "short mapping");
    ::munmap(at, r.at + r.length - from);
  }

  void MapWrite() {
    const Range r = Inside();
    Log("mapwrite %#lx +%#lx", r.at, r.length);
    const std::vector<char> bytes = NewBytes(r.length);
    std::memcpy(Here().map + r.at, bytes.data(), r.length);
    Put(r, bytes);
    if (random_.OneIn(4)) {
      const uint64_t from = r.at & ~(kPage - 1);
      Must(::msync(Here().map + from, r.at + r.length - from, MS_SYNC) == 0, "msync");
    }
  }

  void Truncate() {
    const uint64_t size = random_.OneIn(8) ? 0 : random_.Below(max_ + 1);
    Log("truncate %#lx", size);
    const int result = random_.OneIn(2) ? ::ftruncate(Here().fd.get(), static_cast<off_t>(size))
                                        : ::truncate(Here().path.c_str(), static_cast<off_t>(size));
    Must(result == 0, "truncate");
    shadow_.resize(size);
  }

  void Zero(Range r) {
    const uint64_t end = std::min<uint64_t>(r.at + r.length, shadow_.size());
    if (r.at < end) {
      std::fill(shadow_.begin() + static_cast<long>(r.at), shadow_.begin() + static_cast<long>(end),
                '\0');
    }
  }

  void Allocate(int mode, const char* name, bool zeroes) {
    const Range r = Anywhere();
    Log("%s %#lx +%#lx", name, r.at, r.length);
    if (!Supported(::fallocate(Here().fd.get(), mode, static_cast<off_t>(r.at),
                               static_cast<off_t>(r.length)),
                   name)) {
      return;
    }
    if (zeroes) Zero(r);
    const bool keeps = (mode & FALLOC_FL_KEEP_SIZE) != 0;
    if (!keeps && shadow_.size() < r.at + r.length) shadow_.resize(r.at + r.length);
  }

  void CopyRange() {
    Range r = Inside();
    const uint64_t to = random_.Below(max_ - r.length + 1);
    if (to < r.at + r.length && r.at < to + r.length) return;  // overlaps: EINVAL
    Log("copy %#lx +%#lx to %#lx", r.at, r.length, to);
    auto from = static_cast<off_t>(r.at);
    auto target = static_cast<off_t>(to);
    const std::vector<char> bytes(shadow_.begin() + from,
                                  shadow_.begin() + from + static_cast<long>(r.length));
    for (uint64_t done = 0; done < r.length;) {
      const ssize_t n =
          ::copy_file_range(Here().fd.get(), &from, Here().fd.get(), &target, r.length - done, 0);
      Must(n > 0, "copy_file_range");
      done += static_cast<uint64_t>(n);
    }
    Put({to, r.length}, bytes);
  }

  void Sync() {
    Log("sync");
    Must((random_.OneIn(2) ? ::fsync(Here().fd.get()) : ::fdatasync(Here().fd.get())) == 0,
         "fsync");
  }

  void Reopen() {
    const bool remap = random_.OneIn(3);
    Log(remap ? "close, open, map anew" : "close, open");
    Open(0);
    if (remap) MapAll();
  }

  void Step() {
    const uint64_t pick = random_.Below(100);
    if (pick < 22) return Write();
    if (pick < 30) return Truncate();
    if (pick < 35) return Allocate(0, "fallocate", false);
    if (pick < 38) return Allocate(FALLOC_FL_KEEP_SIZE, "fallocate KEEP_SIZE", false);
    if (pick < 43) return Allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "PUNCH_HOLE", true);
    if (pick < 47) return Allocate(FALLOC_FL_ZERO_RANGE, "ZERO_RANGE", true);
    if (pick < 50) return Append();
    if (pick < 53) return Sync();
    if (pick < 57) return Reopen();
    if (shadow_.empty()) return;
    if (pick < 70) return Read();
    if (pick < 80) return MapRead();
    if (pick < 93) return MapWrite();
    return CopyRange();
  }

  std::vector<Side> sides_;
  size_t at_ = 0;  // whose operation it is
  Random random_;
  const uint64_t max_;
  const bool strict_;
  uint64_t op_ = 0;
  std::vector<char> shadow_;
  std::deque<std::string> log_;
  std::map<std::string, bool> missing_;
};

}  // namespace
}  // namespace btd::stress

int main(int argc, char** argv) {
  const btd::stress::Options options(
      argc, argv, "fsx DIR|FILE [--also PATH] [--ops N] [--seed S] [--max-size BYTES] [--strict]");
  const uint64_t seed = options.Number("seed", 1);
  const uint64_t ops = options.Number("ops", 20'000);
  // A file that is there is taken, and removed in the end: in a cluster, another node may have made
  // it.
  std::string path = options.Positional(0);
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0 || !S_ISREG(st.st_mode))
    path += "/fsx." + std::to_string(::getpid()) + "." + std::to_string(seed);
  std::vector<std::string> paths{path};
  if (options.Has("also")) paths.push_back(options.Text("also", ""));
  btd::stress::Fsx fsx(paths, seed, options.Number("max-size", 1 << 20), options.Has("strict"));
  fsx.Run(ops);
  std::printf("fsx: %llu operations with seed %llu, all as expected\n",
              static_cast<unsigned long long>(ops), static_cast<unsigned long long>(seed));
  return 0;
}
