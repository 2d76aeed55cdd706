// Whether to look for the next request for a moment before sleeping.
//
// A wake-up across processors costs more than most requests do, so under load a short look pays;
// under sparse load it would only burn the processor. What the last wait took decides (as the
// kernel's halt polling does for virtual machines).
#pragma once

#include <cstdint>

namespace btd {

class SpinPolicy {
 public:
  static constexpr std::uint64_t kWorth = 4;  // a sleep with its wake-up takes several spins

  explicit SpinPolicy(unsigned spin_us) : limit_ns_(spin_us * std::uint64_t{1000}) {}

  // How long the coming wait may spin; 0: sleep at once.
  [[nodiscard]] std::uint64_t spin_ns() const { return pays_ ? limit_ns_ : 0; }
  // The wait that brought a request took this long, spinning and sleeping together.
  void waited(std::uint64_t ns) { pays_ = ns < kWorth * limit_ns_; }

 private:
  std::uint64_t limit_ns_;
  bool pays_ = false;
};

}  // namespace btd
