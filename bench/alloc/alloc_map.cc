// alloc_map: what the embedded store costs a namespace. Creates files as the daemon does (inode,
// name, parent and result in one commit), reads them, renames and removes some, and prints bytes a
// file, microseconds and fences a commit.
//   alloc_map [files]      default 1,000,000; the memory is anonymous, flushes and fences are real
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "alloc/embedded_store.h"
#include "alloc/memory_arenas.h"

namespace {

using namespace btd;
using Clock = std::chrono::steady_clock;

std::string big_endian(std::uint64_t v) {
  std::string s(8, '\0');
  for (int i = 7; i >= 0; --i, v >>= 8) s[static_cast<std::size_t>(i)] = static_cast<char>(v);
  return s;
}

std::uint64_t scatter(
    std::uint64_t x) {  // a bijection: order of names is random, names are not twice
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

std::string inode_key(std::uint64_t id) { return "i" + big_endian(id); }

std::string inode_value(std::uint64_t id, std::uint64_t version) {
  std::string v(80, '\0');
  const auto a = big_endian(id);
  const auto b = big_endian(version);
  v.replace(0, 8, a);
  v.replace(40, 8, b);
  return v;
}

std::string name_key(std::uint64_t dir, std::uint64_t id) {
  const std::uint64_t h = scatter(id);
  std::array<char, 16> name{};
  std::snprintf(name.data(), name.size(), "f%011llx",
                static_cast<unsigned long long>(h & 0xfffffffffff));
  return "d" + big_endian(dir) + big_endian(h) + std::string(name.data(), 12);
}

class Timer {
 public:
  explicit Timer(std::size_t n) { us_.reserve(n); }
  template <class F>
  void time(F&& f) {
    const auto t = Clock::now();
    f();
    us_.push_back(std::chrono::duration<float, std::micro>(Clock::now() - t).count());
  }
  // Of the whole phase with the making of its batches: on a busy machine more telling than times.
  static double cpu_seconds() {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  }
  void print(const char* what, const MetaStore::Stats& before, const MetaStore::Stats& after) {
    const double cpu = cpu_seconds() - began_;
    std::sort(us_.begin(), us_.end());
    double sum = 0;
    for (const float v : us_) sum += v;
    const auto n = static_cast<double>(us_.size());
    std::printf(
        "%-8s %9zu   cpu %5.2f   mean %6.2f   median %5.2f   99%% %6.2f us   "
        "fences %5.3f   lines %6.1f\n",
        what, us_.size(), cpu * 1e6 / n, sum / n, us_[us_.size() / 2], us_[us_.size() * 99 / 100],
        static_cast<double>(after.fences - before.fences) / n,
        static_cast<double>(after.lines - before.lines) / n);
  }

 private:
  std::vector<float> us_;
  const double began_ = cpu_seconds();
};

void must(const Status& s) {
  if (s) return;
  std::fprintf(stderr, "alloc_map: %s\n", s.error().message.c_str());
  std::exit(1);
}

constexpr std::uint64_t kFilesInDirectory = 10000;

Batch file_batch(std::uint64_t id, bool create) {
  const std::uint64_t dir = 1 + id / kFilesInDirectory;
  Batch b;
  if (create) {
    b.require(name_key(dir, id), std::nullopt);
    b.put(inode_key(id + (1U << 20)), inode_value(id, 0));
    b.put(name_key(dir, id), big_endian(id) + "f");
  } else {
    b.erase(name_key(dir, id));
    b.erase(inode_key(id + (1U << 20)));
  }
  b.put(inode_key(dir), inode_value(dir, id));
  b.put("r" + big_endian(id % 64), big_endian(id) + big_endian(dir));
  return b;
}

void sizes(const EmbeddedStore& store, std::uint64_t files) {
  const auto report = store.check();
  for (const auto& sentence : report.damage) std::printf("DAMAGE %s\n", sentence.c_str());
  const auto pages = report.leaves + report.inners;
  std::printf(
      "space: %llu entries, %llu leaves, %llu inner pages, %.1f%% full; pages %.1f, heap %.1f "
      "bytes a file\n",
      static_cast<unsigned long long>(report.entries),
      static_cast<unsigned long long>(report.leaves),
      static_cast<unsigned long long>(report.inners),
      100.0 * static_cast<double>(report.used_bytes) / static_cast<double>(pages * kMapRoom),
      static_cast<double>(pages * kMapPageBytes) / static_cast<double>(files),
      static_cast<double>(store.stats().used_bytes) / static_cast<double>(files));
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t files = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000000;
  auto arenas = MemoryArenas::create(std::uint64_t{256} << 20, 64);
  if (!arenas) return 1;
  auto heap = Heap::format(**arenas, {});
  if (!heap) return 1;
  auto made = EmbeddedStore::create(**heap, 0);
  if (!made) return 1;
  EmbeddedStore& store = **made;

  auto phase = [&](const char* name, std::uint64_t n, auto&& make) {
    Timer timer(n);
    const auto before = store.stats();
    for (std::uint64_t i = 0; i < n; ++i) {
      const Batch b = make(i);
      timer.time([&] { must(store.commit(b)); });
    }
    timer.print(name, before, store.stats());
  };
  phase("create", files, [](std::uint64_t i) { return file_batch(i, true); });
  sizes(store, files);

  std::mt19937_64 rng(1);
  Timer reads(files);
  const auto before = store.stats();
  for (std::uint64_t i = 0; i < files; ++i) {
    const std::uint64_t id = rng() % files;
    const std::string key = name_key(1 + id / kFilesInDirectory, id);
    reads.time([&] {
      if (!store.get(key)->has_value()) std::abort();
    });
  }
  reads.print("lookup", before, store.stats());
  phase("update", files, [&](std::uint64_t i) {
    const std::uint64_t id = rng() % files;
    Batch b;
    b.put(inode_key(id + (1U << 20)), inode_value(id, i + 1));
    return b;
  });
  phase("unlink", files, [](std::uint64_t i) { return file_batch(i, false); });
  sizes(store, files);
  return 0;
}
