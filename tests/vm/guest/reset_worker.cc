// SPDX-License-Identifier: BSD-3-Clause
#include "tests/vm/guest/reset_worker.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace btd::vm {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Of one operation; the peer's machine takes longer to come back.
constexpr net::Time kPatience = seconds(3);
// The engine's timers, and a machine that is emulated.
constexpr net::Time kSlack = seconds(2);

long in_milliseconds(net::Time time) {
  return static_cast<long>(std::chrono::duration_cast<milliseconds>(time).count());
}

}  // namespace

std::uint64_t word_of(std::size_t slot, std::size_t index, std::uint32_t version) {
  if (version == 0) return 0;
  std::uint64_t z = (slot << 48) ^ (index << 32) ^ version;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return (std::uint64_t{version} << 32) | (z >> 32);
}

Result<Versions> judge(std::size_t slot, const SlotWords& words, Versions allowed) {
  Versions seen{.oldest = UINT32_MAX, .newest = 0};
  for (std::size_t i = 0; i < kWords; ++i) {
    const auto version = static_cast<std::uint32_t>(words[i] >> 32);
    const std::string where = "word " + std::to_string(i) + " of slot " + std::to_string(slot);
    if (words[i] != word_of(slot, i, version)) return fail(EUCLEAN, where + " is of no version");
    if (version < allowed.oldest || version > allowed.newest)
      return fail(EUCLEAN, where + " is of version " + std::to_string(version) + ", not of " +
                               std::to_string(allowed.oldest) + " to " +
                               std::to_string(allowed.newest));
    seen.oldest = std::min(seen.oldest, version);
    seen.newest = std::max(seen.newest, version);
  }
  return seen;
}

ResetWorker::ResetWorker(net::Engine& engine, std::string name, Say say)
    : engine_(engine), name_(std::move(name)), say_(std::move(say)) {}

ResetWorker::~ResetWorker() {
  if (endpoint_ != nullptr) endpoint_->close();
  const net::Time until = engine_.now() + kSlack;
  while (endpoint_ != nullptr && engine_.now() < until)
    if (!engine_.wait(until)) return;
}

Status ResetWorker::run(const std::string& address, std::uint64_t more, net::Time patience) {
  const net::Time until = engine_.now() + patience;
  while (!failure_ && after_ < more) {
    if (endpoint_ == nullptr) {
      BTD_ASSIGN(endpoint_, engine_.connect(address, *this));
    }
    BTD_TRY(engine_.wait(engine_.now() + milliseconds(100)));
    BTD_TRY(watch());
    if (engine_.now() > until) return fail(ETIMEDOUT, "the peer did not come back in time");
  }
  if (failure_) return std::unexpected(*failure_);
  tell_figures();
  return {};
}

Status ResetWorker::watch() {
  for (const Lane& lane : lanes_)
    if (lane.is_busy && engine_.now() > lane.deadline + kSlack)
      return fail(ETIMEDOUT, "an operation did not end though its deadline has passed");
  return {};
}

void ResetWorker::tell_figures() {
  std::string errors;
  for (const auto& [error, count] : errors_)
    errors += std::to_string(count) + " " + strerrorname_np(error) + ", ";
  say_("fact " + name_ + "_figures " + std::to_string(writes_) + " writes, " +
       std::to_string(reads_) + " reads, " + errors + "the longest took " +
       std::to_string(in_milliseconds(longest_)) + " ms");
}

void ResetWorker::give_up(Error why) {
  if (!failure_) failure_ = std::move(why);
}

void ResetWorker::choose(Lane& lane) {
  if (phase_ == Phase::kVerify) {
    lane.is_write = false;
    lane.slot = verified_;
  } else if (lane.is_write) {
    while (slots_[next_slot_ % kSlots].is_written) ++next_slot_;
    lane.slot = next_slot_++ % kSlots;
  } else {
    random_ = random_ * 6364136223846793005U + 1442695040888963407U;
    lane.slot = (random_ >> 33) % kSlots;
  }
}

void ResetWorker::post(std::size_t number) {
  if (failure_ || !region_ || endpoint_ == nullptr) return;
  Lane& lane = lanes_[number];
  choose(lane);
  Slot& slot = slots_[lane.slot];
  lane.floor = slot.acknowledged;
  lane.deadline = engine_.now() + kPatience;
  if (lane.is_write) {
    slot.is_written = true;
    lane.version = ++slot.posted;
    for (std::size_t i = 0; i < kWords; ++i) lane.words[i] = word_of(lane.slot, i, lane.version);
  }
  const iovec local{lane.words.data(), sizeof(lane.words)};
  const net::RemoteRange range{region_->key, lane.slot * kSlotBytes};
  const Status posted = lane.is_write
                            ? endpoint_->write_persist({&local, 1}, range, number, lane.deadline)
                            : endpoint_->read({&local, 1}, range, number, lane.deadline);
  if (!posted) return give_up(posted.error());
  lane.is_busy = true;
}

void ResetWorker::take_write(const Lane& lane) {
  slots_[lane.slot].acknowledged = lane.version;
  ++writes_;
  say_("ack " + name_ + " " + std::to_string(lane.slot) + " " + std::to_string(lane.version));
  if (phase_ == Phase::kWorkOn) ++after_;
}

void ResetWorker::take_read(const Lane& lane) {
  ++reads_;
  const auto seen =
      judge(lane.slot, lane.words, {.oldest = lane.floor, .newest = slots_[lane.slot].posted});
  if (!seen) return give_up(seen.error());
  if (phase_ != Phase::kVerify) return;
  say_("found " + name_ + " " + std::to_string(lane.slot) + " " + std::to_string(seen->oldest) +
       " " + std::to_string(seen->newest));
  ++verified_;
}

// The peer lost its state, or was away longer than the operation may take, or has come back and
// does not know the old key.
void ResetWorker::take_error(int error) {
  const bool is_fair = error == ECONNRESET || error == ETIMEDOUT || error == EACCES;
  if (!is_fair || !was_down_ || phase_ == Phase::kVerify || phase_ == Phase::kWorkOn)
    return give_up({error, std::string("an operation failed with ") + strerrorname_np(error)});
  ++errors_[error];
}

void ResetWorker::on_completion(net::Endpoint& /*endpoint*/, const net::Completion& completion) {
  Lane& lane = lanes_.at(completion.token);
  lane.is_busy = false;
  if (lane.is_write) slots_[lane.slot].is_written = false;
  longest_ = std::max(longest_, engine_.now() - (lane.deadline - kPatience));
  if (completion.error != 0) {
    // A silent peer: the deadline of an operation may pass before the connection is given up.
    if (completion.error == ETIMEDOUT) was_down_ = true;
    take_error(completion.error);
  } else if (lane.is_write) {
    take_write(lane);
  } else {
    take_read(lane);
  }
  next();
}

// Work goes on in all lanes that are free; to verify, one is enough.
void ResetWorker::next() {
  const bool is_idle = std::ranges::none_of(lanes_, &Lane::is_busy);
  if (phase_ == Phase::kDrain && is_idle) phase_ = Phase::kVerify;
  if (phase_ == Phase::kVerify && is_idle && verified_ < kSlots) return post(0);
  if (phase_ == Phase::kVerify && is_idle) phase_ = Phase::kWorkOn;
  if (phase_ != Phase::kWork && phase_ != Phase::kWorkOn) return;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (lanes_[i].is_busy) continue;
    lanes_[i].is_write = i % 2 == 0;
    post(i);
  }
}

int ResetWorker::on_message(net::Endpoint& /*endpoint*/, std::span<const std::byte> message) {
  if (message.size() != sizeof(net::RegionDescriptor)) return EMSGSIZE;
  net::RegionDescriptor region;
  std::memcpy(&region, message.data(), sizeof(region));
  // A connection that merely broke finds the same memory; one that was reset has another key.
  const bool is_new = region_ && region_->key != region.key;
  region_ = region;
  if (is_new && phase_ != Phase::kWork) give_up({EPROTO, "the peer was reset twice"});
  if (is_new) phase_ = Phase::kDrain;
  next();
  return 0;
}

void ResetWorker::on_down(net::Endpoint& /*endpoint*/, const Error& why) {
  if (!was_down_) say_("at down " + name_ + ": " + why.message);
  was_down_ = true;
}

void ResetWorker::on_closed(net::Endpoint& /*endpoint*/, const Error& why) {
  endpoint_ = nullptr;
  // Before the first connection, the peer may not listen yet.
  if (region_) give_up(why);
}

}  // namespace btd::vm
