// SPDX-License-Identifier: BSD-3-Clause
// ResetWorker: writes and reads a peer's memory while the peer's machine is reset, and knows of
// each word what it may be. A slot is a page; each of its words says which version of the slot it
// is of, so that a slot that was half written when the peer died is told from one that is wrong.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "net/engine.h"

namespace btd::vm {

inline constexpr std::size_t kSlots = 64, kSlotBytes = 4096;
inline constexpr std::size_t kWords = kSlotBytes / sizeof(std::uint64_t);

using SlotWords = std::array<std::uint64_t, kWords>;

// Version 0 is what nobody has written yet.
std::uint64_t word_of(std::size_t slot, std::size_t index, std::uint32_t version);

struct Versions {
  std::uint32_t oldest = 0, newest = 0;
};
// EUCLEAN a word is of no version, or of one that it can't be.
Result<Versions> judge(std::size_t slot, const SlotWords& words, Versions allowed);

class ResetWorker final : public net::Handler {
 public:
  using Say = std::function<void(const std::string&)>;  // one report
  ResetWorker(net::Engine& engine, std::string name, Say say);
  ResetWorker(const ResetWorker&) = delete;
  ResetWorker& operator=(const ResetWorker&) = delete;
  ~ResetWorker() override;

  // Until `more` writes were acknowledged after a peer that forgot all had been verified.
  // Errors: EUCLEAN memory is not as it must be; ETIMEDOUT an operation did not end in time, or all
  // took longer than `patience`; what else the engine said.
  Status run(const std::string& address, std::uint64_t more, net::Time patience);

  void on_completion(net::Endpoint& endpoint, const net::Completion& completion) override;
  int on_message(net::Endpoint& endpoint, std::span<const std::byte> message) override;
  void on_down(net::Endpoint& endpoint, const Error& why) override;
  void on_closed(net::Endpoint& endpoint, const Error& why) override;

 private:
  enum class Phase : std::uint8_t { kWork, kDrain, kVerify, kWorkOn };
  struct Lane {
    bool is_busy = false, is_write = false;
    std::size_t slot = 0;
    std::uint32_t version = 0, floor = 0;
    net::Time deadline{};
    SlotWords words{};
  };
  struct Slot {
    std::uint32_t acknowledged = 0, posted = 0;
    bool is_written = false;  // a write is under way
  };

  void post(std::size_t number);
  void choose(Lane& lane);
  void take_write(const Lane& lane);
  void take_read(const Lane& lane);
  void take_error(int error);
  void next();
  void give_up(Error why);
  Status watch();
  void tell_figures();

  net::Engine& engine_;
  const std::string name_;
  const Say say_;
  net::Endpoint* endpoint_ = nullptr;
  std::optional<net::RegionDescriptor> region_;
  std::array<Lane, 8> lanes_;
  std::array<Slot, kSlots> slots_;
  Phase phase_ = Phase::kWork;
  std::size_t next_slot_ = 0, verified_ = 0;
  std::uint64_t writes_ = 0, reads_ = 0, after_ = 0;
  std::uint64_t random_ = 1;
  bool was_down_ = false;
  net::Time longest_{};
  std::map<int, std::uint64_t> errors_;
  std::optional<Error> failure_;
};

}  // namespace btd::vm
