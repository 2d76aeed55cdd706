#include "fs/daemon/metrics.h"

#include <algorithm>
#include <bit>
#include <ctime>

namespace btd {

std::uint64_t monotonic_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(t.tv_nsec);
}

std::string_view opcode_name(std::uint32_t opcode) {
  switch (opcode) {
    case proto::kLookup:
      return "lookup";
    case proto::kForget:
      return "forget";
    case proto::kGetattr:
      return "getattr";
    case proto::kSetattr:
      return "setattr";
    case proto::kReadlink:
      return "readlink";
    case proto::kSymlink:
      return "symlink";
    case proto::kMknod:
      return "mknod";
    case proto::kMkdir:
      return "mkdir";
    case proto::kUnlink:
      return "unlink";
    case proto::kRmdir:
      return "rmdir";
    case proto::kRename:
      return "rename";
    case proto::kRename2:
      return "rename2";
    case proto::kLink:
      return "link";
    case proto::kOpen:
      return "open";
    case proto::kRead:
      return "read";
    case proto::kWrite:
      return "write";
    case proto::kStatfs:
      return "statfs";
    case proto::kRelease:
      return "release";
    case proto::kFlush:
      return "flush";
    case proto::kGetlk:
      return "getlk";
    case proto::kSetlk:
      return "setlk";
    case proto::kSetlkw:
      return "setlkw";
    case proto::kFsync:
      return "fsync";
    case proto::kIoctl:
      return "ioctl";
    case proto::kFsyncdir:
      return "fsyncdir";
    case proto::kSetxattr:
      return "setxattr";
    case proto::kGetxattr:
      return "getxattr";
    case proto::kListxattr:
      return "listxattr";
    case proto::kRemovexattr:
      return "removexattr";
    case proto::kReaddir:
      return "readdir";
    case proto::kReaddirplus:
      return "readdirplus";
    case proto::kCreate:
      return "create";
    case proto::kTmpfile:
      return "tmpfile";
    case proto::kStatx:
      return "statx";
    case proto::kBatchForget:
      return "batch_forget";
    case proto::kFallocate:
      return "fallocate";
    case proto::kLseek:
      return "lseek";
    case proto::kCopyFileRange:
      return "copy_file_range";
    default:
      return "?";
  }
}

unsigned Histogram::bucket(std::uint64_t ns) {
  if (ns < kSteps) return static_cast<unsigned>(ns);
  const unsigned log = 63U - static_cast<unsigned>(std::countl_zero(ns));
  const auto step = static_cast<unsigned>((ns >> (log - 3)) & (kSteps - 1));
  return std::min(kBuckets - 1, (log - 2) * kSteps + step);
}

std::uint64_t Histogram::upper_bound(unsigned bucket) {
  if (bucket < kSteps) return bucket;
  const unsigned log = bucket / kSteps + 2;
  return ((std::uint64_t{kSteps} + bucket % kSteps + 1) << (log - 3)) - 1;
}

void Histogram::record(std::uint64_t ns) {
  counts_[bucket(ns)].fetch_add(1, std::memory_order_relaxed);
  if (ns > max_.load(std::memory_order_relaxed)) max_.store(ns, std::memory_order_relaxed);
}

void Histogram::merge_into(std::array<std::uint64_t, kBuckets>& sums) const {
  for (unsigned i = 0; i < kBuckets; ++i) sums[i] += counts_[i].load(std::memory_order_relaxed);
}

void ThreadMetrics::record(const TraceRecord& record) {
  if (record.opcode < proto::kOpcodes) {
    PerOp* op = ops_[record.opcode].load(std::memory_order_relaxed);
    if (op == nullptr) {
      owned_[record.opcode] = std::make_unique<PerOp>();
      op = owned_[record.opcode].get();
      ops_[record.opcode].store(op, std::memory_order_release);
    }
    op->latency.record(record.latency_ns);
    if (record.result != 0) op->errors.fetch_add(1, std::memory_order_relaxed);
  }
  std::lock_guard lock(trace_mutex_);
  trace_[trace_next_++ % kTrace] = record;
}

ThreadMetrics& Metrics::mine() {
  thread_local std::pair<Metrics*, ThreadMetrics*> cache{nullptr, nullptr};
  if (cache.first != this) {
    std::lock_guard lock(mutex_);
    threads_.push_back(std::make_unique<ThreadMetrics>());
    cache = {this, threads_.back().get()};
  }
  return *cache.second;
}

std::vector<OpSummary> Metrics::summaries() const {
  std::lock_guard lock(mutex_);
  std::vector<OpSummary> result;
  for (std::uint32_t opcode = 0; opcode < proto::kOpcodes; ++opcode) {
    std::array<std::uint64_t, Histogram::kBuckets> sums{};
    OpSummary summary;
    summary.opcode = opcode;
    for (const auto& thread : threads_) {
      const auto* op = thread->ops_[opcode].load(std::memory_order_acquire);
      if (op == nullptr) continue;
      op->latency.merge_into(sums);
      summary.errors += op->errors.load(std::memory_order_relaxed);
      summary.max = std::max(summary.max, op->latency.max());
    }
    for (std::uint64_t count : sums) summary.count += count;
    if (summary.count == 0) continue;
    auto percentile = [&](std::uint64_t percent) {
      const std::uint64_t rank = (summary.count * percent + 99) / 100;
      std::uint64_t seen = 0;
      for (unsigned i = 0; i < Histogram::kBuckets; ++i) {
        seen += sums[i];
        if (seen >= rank) return std::min(Histogram::upper_bound(i), summary.max);
      }
      return summary.max;
    };
    summary.p50 = percentile(50);
    summary.p90 = percentile(90);
    summary.p99 = percentile(99);
    result.push_back(summary);
  }
  return result;
}

std::vector<TraceRecord> Metrics::trace() const {
  std::lock_guard lock(mutex_);
  std::vector<TraceRecord> result;
  for (const auto& thread : threads_) {
    std::lock_guard thread_lock(thread->trace_mutex_);
    for (const TraceRecord& record : thread->trace_)
      if (record.when_ns != 0) result.push_back(record);
  }
  std::ranges::sort(result, {}, &TraceRecord::when_ns);
  return result;
}

}  // namespace btd
