#include "net/load/load.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>

namespace btd::net {

namespace {

// Of one operation: far more than it takes, so that what hangs is told of.
constexpr Time kPatience = std::chrono::seconds(10);
// Of the buffers. Short ones lie line by line: a page for each would put them all into the same few
// sets of a cache, and measure that.
constexpr std::size_t kPageAlignment = 4096;
constexpr std::size_t kLineAlignment = 64;

iovec segment(const void* bytes, std::size_t size) {
  return {.iov_base = const_cast<void*>(bytes), .iov_len = size};
}

std::string explain(const Completion& completion) {
  return std::string("An operation failed: ") + std::strerror(completion.error) + ".";
}

}  // namespace

std::size_t Histogram::bucket(std::uint64_t value) {
  const unsigned width = static_cast<unsigned>(std::bit_width(value));
  if (width <= kBits + 1) return value;
  const unsigned shift = width - kBits - 1;
  return (static_cast<std::size_t>(shift) << kBits) + (value >> shift);
}

std::uint64_t Histogram::value(std::size_t bucket) {
  if (bucket < (std::size_t{2} << kBits)) return bucket;
  const std::size_t shift = (bucket >> kBits) - 1;
  return (bucket - (shift << kBits)) << shift;
}

void Histogram::add(Time time) {
  ++buckets_.at(bucket(static_cast<std::uint64_t>(std::max<std::int64_t>(time.count(), 0))));
  ++count_;
}

Time Histogram::percentile(double share) const {
  auto left = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_)));
  left = std::max<std::uint64_t>(left, 1);
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if (buckets_[i] >= left) return Time(static_cast<std::int64_t>(value(i)));
    left -= buckets_[i];
  }
  return {};
}

// --- LoadServer ---

LoadServer::LoadServer(Engine& engine, std::size_t bytes, bool is_persistent)
    : engine_(engine),
      memory_(bytes),
      persist_(Domain::kCacheLine),
      is_persistent_(is_persistent) {}

Result<std::string> LoadServer::listen(std::string_view address) {
  BTD_ASSIGN(region_, engine_.register_region(memory_, kRemoteRead | kRemoteWrite | kRemoteCas,
                                              is_persistent_ ? &persist_ : nullptr));
  return engine_.listen(address, [this](Endpoint&) { return this; });
}

void LoadServer::on_up(Endpoint& endpoint) {
  const iovec message = segment(&region_, sizeof(region_));
  static_cast<void>(endpoint.send({&message, 1}, 0, engine_.now() + kPatience));
}

void LoadServer::on_completion(Endpoint& /*endpoint*/, const Completion& /*completion*/) {}

int LoadServer::on_message(Endpoint& /*endpoint*/, std::span<const std::byte> /*message*/) {
  ++messages_;
  return 0;
}

// --- LoadClient ---

LoadClient::~LoadClient() {
  if (endpoint_ != nullptr) endpoint_->close();
  const Time until = engine_.now() + kPatience;
  while (endpoint_ != nullptr && engine_.now() < until)
    if (!engine_.wait(until)) return;
}

Status LoadClient::connect(std::string_view address, Time patience) {
  BTD_ASSIGN(endpoint_, engine_.connect(address, *this));
  const Time until = engine_.now() + patience;
  while (!region_ && !failure_ && engine_.now() < until) BTD_TRY(engine_.wait(until));
  if (failure_) return std::unexpected(*failure_);
  if (!region_)
    return fail(ETIMEDOUT,
                std::string(address) +
                    " lends no memory to measure with; is `btd net bench server` there?");
  return {};
}

int LoadClient::on_message(Endpoint& /*endpoint*/, std::span<const std::byte> message) {
  if (message.size() != sizeof(RegionDescriptor)) return EMSGSIZE;
  std::memcpy(&region_.emplace(), message.data(), message.size());
  return 0;
}

void LoadClient::on_closed(Endpoint& /*endpoint*/, const Error& why) {
  endpoint_ = nullptr;
  running_ = 0;
  give_up(why);
}

void LoadClient::give_up(Error why) {
  if (!failure_) failure_ = std::move(why);
}

Status LoadClient::prepare(const LoadOptions& options) {
  if (failure_) return std::unexpected(*failure_);
  if (endpoint_ == nullptr || !region_) return fail(ENOTCONN, "No peer is connected.");
  options_ = options;
  if (options_.verb == Verb::kCas8) options_.bytes = sizeof(std::uint64_t);
  if (options_.verb != Verb::kSend && options_.bytes > region_->length)
    return fail(EMSGSIZE, "The peer lends " + std::to_string(region_->length) +
                              " bytes only; start it with more.");
  const std::size_t alignment = options_.bytes < kPageAlignment ? kLineAlignment : kPageAlignment;
  const std::size_t stride = (options_.bytes + alignment - 1) / alignment * alignment;
  memory_.assign(stride * options_.in_flight, std::byte{1});
  slots_.assign(options_.in_flight, {});
  for (std::size_t i = 0; i < slots_.size(); ++i) slots_[i].bytes = memory_.data() + i * stride;
  report_ = {};
  return {};
}

Status LoadClient::post(std::size_t slot, Time at) {
  slots_[slot].begin = at;
  const iovec local = segment(slots_[slot].bytes, options_.bytes);
  Operation operation{.verb = options_.verb,
                      .token = slot,
                      .deadline = slots_[slot].begin + kPatience,
                      .remote = {.key = region_->key, .offset = 0}};
  if (options_.verb != Verb::kCas8) operation.local = {&local, 1};
  BTD_TRY(endpoint_->post(operation));
  ++running_;
  return {};
}

void LoadClient::on_completion(Endpoint& /*endpoint*/, const Completion& completion) {
  if (running_ > 0) --running_;
  if (completion.error != 0) return give_up({completion.error, explain(completion)});
  const Time at = engine_.now();
  if (at >= begin_ && at < end_) {
    report_.latency.add(at - slots_[completion.token].begin);
    ++report_.operations;
    report_.bytes += options_.bytes;
  }
  if (at >= end_ || failure_ || endpoint_ == nullptr) return;
  if (auto posted = post(completion.token, at); !posted) give_up(std::move(posted).error());
}

Status LoadClient::wait_until_idle() {
  while (running_ > 0) BTD_TRY(engine_.wait(kNever));
  if (failure_) return std::unexpected(*failure_);
  return {};
}

Result<LoadReport> LoadClient::run(const LoadOptions& options) {
  BTD_TRY(start(options));
  return finish();
}

Status LoadClient::start(const LoadOptions& options) {
  BTD_TRY(prepare(options));
  begin_ = engine_.now() + options.warm_up;
  end_ = begin_ + options.duration;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) BTD_TRY(post(slot, engine_.now()));
  return {};
}

Result<LoadReport> LoadClient::finish() {
  BTD_TRY(wait_until_idle());
  report_.elapsed = options_.duration;
  return report_;
}

Result<Time> LoadClient::once(const LoadOptions& options) {
  BTD_TRY(prepare(options));
  begin_ = end_ = Time{};
  const Time begin = engine_.now();
  BTD_TRY(post(0, begin));
  BTD_TRY(wait_until_idle());
  return engine_.now() - begin;
}

}  // namespace btd::net
