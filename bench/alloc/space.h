// space: what memory an allocator takes.
//   churn      1 MiB allocated, touched at both ends and freed, 100,000 times: time, and growth
//   space      10,000,000 objects of 64 bytes: bytes taken / bytes asked for
//   fragment   2,000,000 objects of 64 bytes, 87.5 % of them freed at random, and objects of 200
//              bytes in their stead: bytes taken / bytes live
// Bytes taken are blocks of the pool's files, and resident memory of volatile allocators.
#pragma once
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "bench/alloc/local.h"

namespace btd::bench {

inline double resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  double total = 0;
  double resident = 0;
  statm >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

inline double bytes_of_files(const std::string& dir) {
  double bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    struct stat st{};
    if (lstat(entry.path().c_str(), &st) == 0) bytes += 512.0 * static_cast<double>(st.st_blocks);
  }
  return bytes;
}

// What objects take: of a pool all it has but the table of links, for it may hold segments ready
// from the beginning; of a process what it did not have before.
template <class A>
double taken(double before, double now, std::size_t links) {
  if (!A::kPersistent) return now - before;
  return now - (A::kSlotsInPool ? static_cast<double>(links * sizeof(typename A::Slot)) : 0);
}

template <class A>
Outcome churn() {
  const std::size_t bytes = published(options.bytes, std::size_t{1} << 20);
  const std::size_t rounds = published(options.rounds, std::size_t{100000});
  const std::size_t early = rounds / 100 + 1;
  Slots<A> s(1);
  const auto go = [&](std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      make<A>(s.slots[0], bytes);
      drop<A>(s.slots[0]);
    }
  };
  go(early);
  const Space before = A::space();
  Stopwatch<A> watch;
  watch.start();
  go(rounds);
  watch.stop(rounds);
  const Space after = A::space();
  Outcome out = watch.total();
  out.more = {{"files_before", before.files},
              {"files_after", after.files},
              {"mapped_before", before.mapped},
              {"mapped_after", after.mapped}};
  return out;
}

template <class A>
Outcome space() {
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  Slots<A> s(published(options.objects, std::size_t{10000000}));
  const Space before = A::space();
  Stopwatch<A> watch;
  watch.start();
  for (std::size_t i = 0; i < s.count; ++i) make<A>(s.slots[i], bytes);
  watch.stop(s.count);
  const Space after = A::space();
  const double asked = static_cast<double>(bytes) * static_cast<double>(s.count);
  Outcome out = watch.total();
  out.more = {{"files_ratio", taken<A>(before.files, after.files, s.count) / asked}};
  if (after.mapped > 0) {
    out.more.emplace_back("mapped_ratio", taken<A>(before.mapped, after.mapped, s.count) / asked);
  }
  for (std::size_t i = 0; options.verify && i < s.count; ++i) drop<A>(s.slots[i]);
  return out;
}

template <class A>
Outcome fragment() {
  constexpr std::size_t kSmall = 64;
  constexpr std::size_t kLarger = 200;
  constexpr std::size_t kOf = 8;  // one of eight survives
  Slots<A> small(published(options.objects, std::size_t{2000000}));
  Slots<A> larger(small.count * (kOf - 1) / kOf * kSmall / kLarger);
  const Space before = A::space();
  Stopwatch<A> watch;
  watch.start();
  for (std::size_t i = 0; i < small.count; ++i) make<A>(small.slots[i], kSmall);
  watch.stop(small.count);
  Random random(1);
  std::vector<bool> live(small.count);
  std::size_t survivors = 0;
  watch.start();
  for (std::size_t i = 0; i < small.count; ++i) {
    live[i] = random.below(kOf) == 0;
    survivors += live[i] ? 1 : 0;
    if (!live[i]) drop<A>(small.slots[i]);
  }
  watch.stop(small.count);
  const Space freed = A::space();
  watch.start();
  for (std::size_t i = 0; i < larger.count; ++i) make<A>(larger.slots[i], kLarger);
  watch.stop(larger.count);
  const Space after = A::space();
  if (options.verify) {
    for (std::size_t i = 0; i < small.count; ++i) {
      if (live[i]) drop<A>(small.slots[i]);
    }
    for (std::size_t i = 0; i < larger.count; ++i) drop<A>(larger.slots[i]);
  }
  const auto few = static_cast<double>(survivors * kSmall);
  const auto all = few + static_cast<double>(larger.count * kLarger);
  Outcome out = watch.total();
  out.more = {
      {"freed_ratio", taken<A>(before.files, freed.files, small.count + larger.count) / few},
      {"resized_ratio", taken<A>(before.files, after.files, small.count + larger.count) / all}};
  return out;
}

}  // namespace btd::bench
