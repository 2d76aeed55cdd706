// Load on two nodes' transport, measured: a node that lends a region to whoever connects, and one
// that runs a verb on it, so many at a time. What `btd net` and the benchmarks share.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "alloc/persist.h"
#include "net/engine.h"

namespace btd::net {

// Durations from 1 ns to hours, each kept to 1.6 %.
class Histogram {
 public:
  void add(Time time);
  [[nodiscard]] std::uint64_t count() const { return count_; }
  // The time that this share of all did not exceed; 1 is the longest.
  [[nodiscard]] Time percentile(double share) const;

 private:
  static constexpr unsigned kBits = 6;  // of precision
  [[nodiscard]] static std::size_t bucket(std::uint64_t value);
  [[nodiscard]] static std::uint64_t value(std::size_t bucket);

  std::array<std::uint32_t, (64 - kBits + 1) << kBits> buckets_{};
  std::uint64_t count_ = 0;
};

// The lending node: registers a region and tells each peer of it. All calls on the engine's thread.
class LoadServer final : public Handler {
 public:
  // `is_persistent`: writes are flushed, as to NVRAM.
  LoadServer(Engine& engine, std::size_t bytes, bool is_persistent);
  Result<std::string> listen(std::string_view address);

  void on_up(Endpoint& endpoint) override;
  void on_completion(Endpoint& endpoint, const Completion& completion) override;
  int on_message(Endpoint& endpoint, std::span<const std::byte> message) override;
  [[nodiscard]] std::uint64_t messages() const { return messages_; }

 private:
  Engine& engine_;
  std::vector<std::byte> memory_;
  Persist persist_;
  const bool is_persistent_;
  RegionDescriptor region_;
  std::uint64_t messages_ = 0;
};

struct LoadOptions {
  Verb verb = Verb::kRead;
  std::size_t bytes = 64;
  unsigned in_flight = 1;
  Time warm_up = std::chrono::milliseconds(50);
  Time duration = std::chrono::seconds(1);
};

struct LoadReport {
  std::uint64_t operations = 0;
  std::uint64_t bytes = 0;
  Time elapsed{};
  Histogram latency;

  [[nodiscard]] double seconds() const { return std::chrono::duration<double>(elapsed).count(); }
  [[nodiscard]] double operations_per_second() const {
    return static_cast<double>(operations) / seconds();
  }
  [[nodiscard]] double bytes_per_second() const { return static_cast<double>(bytes) / seconds(); }
};

// The other one: connects, is lent a region, and runs loads. It waits in the engine itself.
class LoadClient final : public Handler {
 public:
  explicit LoadClient(Engine& engine) : engine_(engine) {}
  LoadClient(const LoadClient&) = delete;
  LoadClient& operator=(const LoadClient&) = delete;
  // Closes, and waits until that is done.
  ~LoadClient() override;

  // Errors: those of connecting; ETIMEDOUT the peer lends nothing.
  Status connect(std::string_view address, Time patience);
  // Errors: EMSGSIZE the peer's region is smaller; what the first operation failed with.
  Result<LoadReport> run(const LoadOptions& options);
  // The same for several clients of one engine: start all, wait for each.
  Status start(const LoadOptions& options);
  Result<LoadReport> finish();
  // How long the next operation takes.
  Result<Time> once(const LoadOptions& options);

  [[nodiscard]] const Endpoint* endpoint() const { return endpoint_; }

  void on_completion(Endpoint& endpoint, const Completion& completion) override;
  int on_message(Endpoint& endpoint, std::span<const std::byte> message) override;
  void on_closed(Endpoint& endpoint, const Error& why) override;

 private:
  struct Slot {
    Time begin{};
    std::byte* bytes = nullptr;
  };

  Status post(std::size_t slot, Time at);
  void give_up(Error why);
  Status prepare(const LoadOptions& options);
  Status wait_until_idle();

  Engine& engine_;
  Endpoint* endpoint_ = nullptr;
  std::optional<RegionDescriptor> region_;
  std::vector<std::byte> memory_;
  std::vector<Slot> slots_;
  LoadOptions options_;
  LoadReport report_;
  Time begin_{}, end_{};
  unsigned running_ = 0;
  std::optional<Error> failure_;
};

}  // namespace btd::net
