// SPDX-License-Identifier: BSD-3-Clause
// writer_verify write DIR LEDGER [--writers W] [--seconds S] [--seed N]: W processes write files of
// self-describing, checksummed records, by write, by mapping, with and without fsync, and rename,
// cut and remove them. Each keeps in LEDGER (a directory elsewhere) what it began and what was
// acknowledged. Ends at the time limit or at SIGTERM; any error of any call ends it with 1.
// writer_verify verify DIR LEDGER [--in-flight]: reads everything back; with --in-flight, the last
// operation of a writer that was begun and not acknowledged may have happened or not.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <optional>
#include <sstream>

#include "tests/stress/stress_util.h"

namespace btd::stress {
namespace {

constexpr size_t kRecord = 1024;
constexpr size_t kMaxRecords = 96;
constexpr size_t kMaxFiles = 48;
constexpr uint64_t kMagic = 0x6472'6f63'6572'6474U;

struct Record {
  uint64_t magic;
  uint32_t writer;
  uint32_t file;
  uint32_t index;
  uint32_t version;
  char payload[kRecord - 28];
  uint32_t crc;  // of all before
};
static_assert(sizeof(Record) == kRecord);

Record MakeRecord(uint32_t writer, uint32_t file, uint32_t index, uint32_t version) {
  Record r{kMagic, writer, file, index, version, {}, 0};
  Random random((uint64_t{writer} << 48) ^ (uint64_t{file} << 28) ^ (uint64_t{index} << 16) ^
                version);
  for (char& c : r.payload) c = static_cast<char>(random.Next());
  r.crc = Crc32(&r, offsetof(Record, crc));
  return r;
}

/// What a file should hold: its number, and the version of each record.
struct File {
  uint32_t id = 0;
  std::vector<uint32_t> versions;
};
using Files = std::map<std::string, File>;

/// One operation of a ledger: kind, name, and up to three numbers or a second name.
struct Operation {
  char kind = ' ';  // C create, A append, M overwrite by mapping, R rename, T cut, U unlink
  std::string name;
  std::string to;
  uint32_t id = 0;
  uint32_t at = 0;
  uint32_t version = 0;
};

std::string Line(const Operation& o) {
  std::ostringstream out;
  out << o.kind << ' ' << o.name << ' ' << (o.to.empty() ? "-" : o.to) << ' ' << o.id << ' ' << o.at
      << ' ' << o.version;
  return out.str();
}

/// The effect of an acknowledged operation on what there should be.
void Apply(const Operation& o, Files& files) {
  switch (o.kind) {
    case 'C':
      files[o.name] = {o.id, std::vector<uint32_t>(o.at, o.version)};
      break;
    case 'A':
      files[o.name].versions.resize(files[o.name].versions.size() + o.at, o.version);
      break;
    case 'M':
      files[o.name].versions.at(o.at) = o.version;
      break;
    case 'T':
      files[o.name].versions.resize(o.at);
      break;
    case 'U':
      files.erase(o.name);
      break;
    case 'R': {
      const File moved = files[o.name];
      files.erase(o.name);
      files[o.to] = moved;
      break;
    }
    default:
      break;
  }
}

class Writer {
 public:
  Writer(std::string dir, std::string ledger, uint32_t id, uint64_t seed)
      : dir_(std::move(dir) + "/w" + std::to_string(id)), id_(id), random_(seed * 131 + id) {
    Must(::mkdir(dir_.c_str(), 0755) == 0 || errno == EEXIST, "mkdir", dir_);
    const std::string path = ledger + "/w" + std::to_string(id);
    ledger_ = Fd(::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_CLOEXEC, 0644));
    Must(ledger_.valid(), "make", path);
  }

  /// One operation, recorded before and after.
  void Step() {
    const std::optional<Operation> operation = Choose();
    if (!operation) return;
    Tell("B " + Line(*operation) + "\n");
    const auto start = std::chrono::steady_clock::now();
    Perform(*operation);
    const auto took = std::chrono::steady_clock::now() - start;
    slowest_ = std::max(slowest_, took);
    Tell("D\n");
    Apply(*operation, files_);
    if (++steps_ % 16 == 0) ReadOne();
  }

  [[nodiscard]] uint64_t steps() const { return steps_; }
  [[nodiscard]] double slowest_ms() const {
    return std::chrono::duration<double, std::milli>(slowest_).count();
  }

 private:
  static void Must(bool ok, const char* what, const std::string& path) {
    if (ok) return;
    std::fprintf(stderr, "writer_verify[%d]: %s %s: %s\n", ::getpid(), what, path.c_str(),
                 std::strerror(errno));
    std::_Exit(1);
  }

  void Tell(const std::string& line) {
    Must(::write(ledger_.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size()),
         "write", "the ledger");
  }

  std::optional<Operation> Choose() {
    Operation o;
    o.version = static_cast<uint32_t>(++version_);
    if (files_.empty() || (files_.size() < kMaxFiles && random_.OneIn(4))) {
      o.kind = 'C';
      o.id = static_cast<uint32_t>(++created_);
      o.name = "f" + std::to_string(o.id);
      o.at = static_cast<uint32_t>(random_.Below(8));
      return o;
    }
    auto it = files_.begin();
    std::advance(it, static_cast<long>(random_.Below(files_.size())));
    o.name = it->first;
    o.id = it->second.id;
    const size_t records = it->second.versions.size();
    const uint64_t pick = random_.Below(100);
    if (pick < 35 && records < kMaxRecords) {
      o.kind = 'A';
      o.at = static_cast<uint32_t>(1 + random_.Below(6));
    } else if (pick < 75 && records > 0) {
      o.kind = 'M';
      o.at = static_cast<uint32_t>(random_.Below(records));
    } else if (pick < 85) {
      o.kind = 'R';
      o.to = "r" + std::to_string(random_.Below(2 * kMaxFiles));
      if (o.to == o.name) return std::nullopt;
    } else if (pick < 90 && records > 0) {
      o.kind = 'T';
      o.at = static_cast<uint32_t>(random_.Below(records));
    } else {
      o.kind = 'U';
    }
    return o;
  }

  void Append(int fd, const std::string& path, const Operation& o, size_t from) {
    std::vector<Record> records;
    for (uint32_t i = 0; i < o.at; ++i) {
      records.push_back(MakeRecord(id_, o.id, static_cast<uint32_t>(from) + i, o.version));
    }
    const auto bytes = static_cast<ssize_t>(records.size() * kRecord);
    Must(::pwrite(fd, records.data(), static_cast<size_t>(bytes),
                  static_cast<off_t>(from * kRecord)) == bytes,
         "write", path);
    if (random_.OneIn(3)) Must(::fsync(fd) == 0, "fsync", path);
  }

  void Overwrite(int fd, const std::string& path, const Operation& o) {
    const size_t size = files_[o.name].versions.size() * kRecord;
    const Record record = MakeRecord(id_, o.id, o.at, o.version);
    void* map = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    Must(map != MAP_FAILED, "mmap", path);
    std::memcpy(static_cast<char*>(map) + o.at * kRecord, &record, kRecord);
    if (random_.OneIn(4)) Must(::msync(map, size, MS_SYNC) == 0, "msync", path);
    Must(::munmap(map, size) == 0, "munmap", path);
  }

  void Perform(const Operation& o) {
    const std::string path = dir_ + "/" + o.name;
    const char* p = path.c_str();
    if (o.kind == 'R') return Must(::rename(p, (dir_ + "/" + o.to).c_str()) == 0, "rename", path);
    if (o.kind == 'U') return Must(::unlink(p) == 0, "unlink", path);
    const auto cut = static_cast<off_t>(o.at * kRecord);
    if (o.kind == 'T') return Must(::truncate(p, cut) == 0, "truncate", path);
    const int flags = o.kind == 'C' ? O_CREAT | O_EXCL : 0;
    const Fd fd(::open(p, O_RDWR | O_CLOEXEC | flags, 0644));
    Must(fd.valid(), "open", path);
    if (o.kind == 'C') Append(fd.get(), path, o, 0);
    if (o.kind == 'A') Append(fd.get(), path, o, files_[o.name].versions.size());
    if (o.kind == 'M') Overwrite(fd.get(), path, o);
  }

  void ReadOne();

  const std::string dir_;
  const uint32_t id_;
  Random random_;
  Fd ledger_;
  Files files_;
  uint64_t version_ = 0;
  uint64_t created_ = 0;
  uint64_t steps_ = 0;
  std::chrono::steady_clock::duration slowest_{};
};

/// Empty where the file holds exactly what it should, else what is wrong.
std::string Compare(const std::string& path, uint32_t writer, const File& file) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return std::string("cannot be opened: ") + std::strerror(errno);
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return std::string("fstat: ") + std::strerror(errno);
  if (st.st_size != static_cast<off_t>(file.versions.size() * kRecord)) {
    return "holds " + std::to_string(st.st_size) + " bytes, not " +
           std::to_string(file.versions.size() * kRecord);
  }
  for (uint32_t i = 0; i < file.versions.size(); ++i) {
    Record found{};
    if (::pread(fd.get(), &found, kRecord, static_cast<off_t>(i * kRecord)) !=
        static_cast<ssize_t>(kRecord)) {
      return "record " + std::to_string(i) + " cannot be read";
    }
    const Record expected = MakeRecord(writer, file.id, i, file.versions[i]);
    if (std::memcmp(&found, &expected, kRecord) == 0) continue;
    const bool sound = found.crc == Crc32(&found, offsetof(Record, crc));
    return "record " + std::to_string(i) +
           (sound ? " is another one (version " : " is torn (version ") +
           std::to_string(found.version) + ", expected " + std::to_string(file.versions[i]) + ")";
  }
  return "";
}

void Writer::ReadOne() {
  if (files_.empty()) return;
  auto it = files_.begin();
  std::advance(it, static_cast<long>(random_.Below(files_.size())));
  const std::string wrong = Compare(dir_ + "/" + it->first, id_, it->second);
  if (wrong.empty()) return;
  std::fprintf(stderr, "writer_verify[%d]: %s/%s %s\n", ::getpid(), dir_.c_str(), it->first.c_str(),
               wrong.c_str());
  std::_Exit(1);
}

volatile std::sig_atomic_t g_stop = 0;

int WriteAll(const std::string& dir, const std::string& ledger, const Options& options) {
  const auto writers = static_cast<uint32_t>(options.Number("writers", 8));
  const auto seconds = std::chrono::seconds(options.Number("seconds", 10));
  std::vector<pid_t> children;
  for (uint32_t id = 0; id < writers; ++id) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::signal(SIGTERM, [](int) { g_stop = 1; });
      Writer writer(dir, ledger, id, options.Number("seed", 1));
      const auto end = std::chrono::steady_clock::now() + seconds;
      while (g_stop == 0 && std::chrono::steady_clock::now() < end) writer.Step();
      std::printf("writer %u: %llu operations, the slowest took %.1f ms\n", id,
                  static_cast<unsigned long long>(writer.steps()), writer.slowest_ms());
      std::fflush(stdout);
      std::_Exit(0);
    }
    children.push_back(child);
  }
  struct sigaction stop{};
  stop.sa_handler = [](int) { g_stop = 1; };
  ::sigaction(SIGTERM, &stop, nullptr);  // without SA_RESTART: it has to interrupt waitpid
  bool ok = true;
  for (const pid_t child : children) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
      for (const pid_t each : children) ::kill(each, SIGTERM);
    }
    ok = ok && status == 0;
  }
  return ok ? 0 : 1;
}

/// Reads one ledger: what there should be, and the operation in flight at its end.
std::optional<Operation> ReadLedger(const std::string& path, Files& files) {
  std::ifstream in(path);
  std::optional<Operation> pending;
  for (std::string line; std::getline(in, line);) {
    if (line == "D") {
      Apply(*pending, files);
      pending.reset();
      continue;
    }
    Operation o;
    char begin = 0;
    std::istringstream(line) >> begin >> o.kind >> o.name >> o.to >> o.id >> o.at >> o.version;
    pending = o;
  }
  return pending;
}

/// Names in a directory that should not be there.
uint64_t CountForeign(const std::string& dir, const Files& files, const std::string& touched) {
  DIR* open = ::opendir(dir.c_str());
  if (open == nullptr) {
    std::fprintf(stderr, "writer_verify: opendir %s: %s\n", dir.c_str(), std::strerror(errno));
    return 1;
  }
  uint64_t foreign = 0;
  while (const dirent* entry = ::readdir(open)) {
    const std::string name = entry->d_name;
    if (name == "." || name == ".." || files.count(name) != 0 || name == touched) continue;
    std::fprintf(stderr, "writer_verify: %s/%s should not be there\n", dir.c_str(), name.c_str());
    ++foreign;
  }
  ::closedir(open);
  return foreign;
}

/// Number of mismatches of one writer's directory.
uint64_t VerifyOne(const std::string& dir, uint32_t id, const Files& files,
                   const std::optional<Operation>& in_flight) {
  uint64_t wrong = 0;
  for (const auto& [name, file] : files) {
    // What the operation in flight touches may be in between; the others may not.
    if (in_flight && (name == in_flight->name || name == in_flight->to)) continue;
    const std::string why = Compare(dir + "/" + name, id, file);
    if (why.empty()) continue;
    std::fprintf(stderr, "writer_verify: %s/%s %s\n", dir.c_str(), name.c_str(), why.c_str());
    ++wrong;
  }
  std::string touched;
  if (in_flight) touched = in_flight->kind == 'R' ? in_flight->to : in_flight->name;
  return wrong + CountForeign(dir, files, touched);
}

int VerifyAll(const std::string& dir, const std::string& ledger, const Options& options) {
  uint64_t wrong = 0;
  uint64_t total = 0;
  uint32_t id = 0;
  for (;; ++id) {
    const std::string path = ledger + "/w" + std::to_string(id);
    if (::access(path.c_str(), F_OK) != 0) break;
    Files files;
    std::optional<Operation> pending = ReadLedger(path, files);
    if (pending && !options.Has("in-flight")) {
      std::fprintf(stderr, "writer_verify: writer %u did not finish: %s\n", id,
                   Line(*pending).c_str());
      ++wrong;
    }
    total += files.size();
    wrong += VerifyOne(dir + "/w" + std::to_string(id), id, files, pending);
  }
  std::printf("writer_verify: %u writers, %llu files, %llu wrong\n", id,
              static_cast<unsigned long long>(total), static_cast<unsigned long long>(wrong));
  return wrong == 0 && id > 0 ? 0 : 1;
}

}  // namespace
}  // namespace btd::stress

int main(int argc, char** argv) {
  using namespace btd::stress;
  const Options options(argc, argv,
                        "writer_verify write|verify DIR LEDGER [--writers W] [--seconds S] "
                        "[--seed N] [--in-flight]");
  const std::string mode = options.Positional(0);
  const std::string dir = options.Positional(1);
  const std::string ledger = options.Positional(2);
  return mode == "write" ? WriteAll(dir, ledger, options) : VerifyAll(dir, ledger, options);
}
