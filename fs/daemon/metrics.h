// Counters, latencies and the last operations, kept per thread and merged when somebody reads them.
// Buckets are logarithmic with eight steps to a power of two, so a percentile is within 13 %.
// Thread-safety: a ThreadMetrics is written by its own thread, read by any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "fs/daemon/protocol.h"

namespace btd {

std::uint64_t monotonic_ns();

// The name of a request as the protocol has it, in lower case; "?" for an unknown one.
std::string_view opcode_name(std::uint32_t opcode);

class Histogram {
 public:
  static constexpr unsigned kSteps = 8;
  static constexpr unsigned kBuckets = 40 * kSteps;

  void record(std::uint64_t ns);
  void merge_into(std::array<std::uint64_t, kBuckets>& sums) const;
  [[nodiscard]] std::uint64_t max() const { return max_.load(std::memory_order_relaxed); }
  static unsigned bucket(std::uint64_t ns);
  static std::uint64_t upper_bound(unsigned bucket);

 private:
  std::array<std::atomic<std::uint32_t>, kBuckets> counts_{};
  std::atomic<std::uint64_t> max_{0};
};

struct TraceRecord {
  std::uint64_t when_ns = 0;  // since the epoch
  std::uint64_t latency_ns = 0;
  std::uint64_t id = 0;
  std::uint32_t opcode = 0;
  int result = 0;
  bool resent = false;
  char name[39] = {};  // cut off, always ended
};

struct OpSummary {
  std::uint32_t opcode = 0;
  std::uint64_t count = 0, errors = 0;
  std::uint64_t p50 = 0, p90 = 0, p99 = 0, max = 0;  // nanoseconds
};

class ThreadMetrics {
 public:
  static constexpr std::size_t kTrace = 256;

  void record(const TraceRecord& record);

 private:
  friend class Metrics;
  struct PerOp {
    Histogram latency;
    std::atomic<std::uint64_t> errors{0};
  };
  std::array<std::atomic<PerOp*>, proto::kOpcodes> ops_{};
  std::array<std::unique_ptr<PerOp>, proto::kOpcodes> owned_;
  mutable std::mutex trace_mutex_;  // taken by the owner for each request, by others for `trace`
  std::array<TraceRecord, kTrace> trace_;
  std::size_t trace_next_ = 0;
};

class Metrics {
 public:
  // The calling thread's own; made at its first call.
  ThreadMetrics& mine();
  [[nodiscard]] std::vector<OpSummary> summaries() const;
  [[nodiscard]] std::vector<TraceRecord> trace() const;  // oldest first

 private:
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<ThreadMetrics>> threads_;
};

}  // namespace btd
