#include "net/verbs/engine.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include "net/verbs/flush.h"

namespace btd::net {

Result<std::unique_ptr<Engine>> make_verbs_engine(const VerbsOptions& options) {
  BTD_ASSIGN(auto engine, verbs::VerbsEngine::make(options));
  return engine;
}

}  // namespace btd::net

namespace btd::net::verbs {

namespace {

constexpr int kBatch = 64;                                    // completions of one look
constexpr Time kBetweenLooks = std::chrono::milliseconds(1);  // for events of the manager
constexpr std::size_t kMostBatches = 8;  // of one round, so that handlers and timers get theirs

bool set_nonblocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

VerbsEndpoint& mine(SessionEndpoint& endpoint) { return static_cast<VerbsEndpoint&>(endpoint); }

std::uint32_t capabilities_of(const VerbsOptions& options, const Device& device) {
  return kOneSidedReads | (device.flush().any() ? kNativeFlush : 0U) |
         (options.direct_write_is_durable ? kDirectWrite : 0U);
}

}  // namespace

VerbsEngine::VerbsEngine(const VerbsOptions& options, Random random, std::unique_ptr<Device> device)
    : SessionEngine(options.engine, std::move(random), capabilities_of(options, *device)),
      options_(options),
      device_(std::move(device)) {}

Result<std::unique_ptr<VerbsEngine>> VerbsEngine::make(const VerbsOptions& options) {
  BTD_TRY(judge(options.engine));
  BTD_ASSIGN(auto device, Device::open(options.device, options.native_flush));
  BTD_ASSIGN(Random random, system_random());
  std::unique_ptr<VerbsEngine> engine(
      new VerbsEngine(options, std::move(random), std::move(device)));
  BTD_TRY(engine->set_up());
  return engine;
}

Status VerbsEngine::set_up() {
  events_.reset(rdma_create_event_channel());
  if (!events_ || !set_nonblocking(events_->fd))
    return fail(errno, "The RDMA connection manager is not there; load the module rdma_ucm.");
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0 || !set_nonblocking(device_->channel()->fd) ||
      !set_nonblocking(device_->context()->async_fd))
    return fail(errno, "There are no more descriptors for an RDMA engine; raise `ulimit -n`.");
  return {};
}

VerbsEngine::~VerbsEngine() {
  for (auto& [number, link] : links_) {
    if (link->endpoint != nullptr) link->endpoint->link = nullptr;
    link->destroy_pair();
    rdma_disconnect(link->id());
  }
  links_.clear();  // before the endpoints, which the base destroys
  if (wake_fd_ >= 0) close(wake_fd_);
}

Time VerbsEngine::now() const {
  timespec at{};
  clock_gettime(CLOCK_MONOTONIC, &at);
  return std::chrono::seconds(at.tv_sec) + Time(at.tv_nsec);
}

Result<RegionDescriptor> VerbsEngine::register_region(std::span<std::byte> memory,
                                                      std::uint32_t access, Persist* persist) {
  if (options_.direct_write_is_durable && persist != nullptr &&
      persist->domain() != btd::Domain::kCacheLine)
    return fail(EINVAL,
                "This memory is not made durable by cache lines, so what the NIC writes there is "
                "not durable by itself; make the engine without direct_write_is_durable.");
  if (memory.empty() || access == 0)
    return fail(EINVAL, "A region needs memory, and something that peers may do with it.");
  const Flush flush = choose_flush(
      device_->flush(), persist != nullptr ? std::optional(persist->domain()) : std::nullopt,
      options_.direct_write_is_durable);
  BTD_ASSIGN(LocalRegion * region,
             device_->add_region(memory, access, options_.direct_write_is_durable, flush));
  auto added =
      regions().add(memory, access, persist,
                    fixed_bits({.rkey = region->memory->rkey,
                                .page_offset = static_cast<std::uint32_t>(region->device_address),
                                .flush = region->flush}));
  if (!added) {
    static_cast<void>(device_->remove_region(region));
    return added;
  }
  regions_by_key_.emplace(added->key, region);
  return added;
}

Status VerbsEngine::deregister_region(std::uint64_t key) {
  const auto found = regions_by_key_.find(key);
  if (found != regions_by_key_.end()) {
    BTD_TRY(device_->remove_region(found->second));  // no NIC reaches it from now
    regions_by_key_.erase(found);
  }
  return SessionEngine::deregister_region(key);
}

void VerbsEngine::set_epoch(Epoch epoch) {
  if (epoch == this->epoch()) return;
  SessionEngine::set_epoch(epoch);
  const Error why{ESTALE, "The epoch changed; connections are made anew."};
  std::vector<std::uint32_t> attempts;
  for (auto& [number, link] : links_) {
    if (link->state == Link::State::kUp) {
      end_pair(*link);
      fail_link(*link->endpoint, why);
    } else if (link->state == Link::State::kHandshake && link->endpoint != nullptr) {
      attempts.push_back(number);  // they said the old one
    }
  }
  for (const std::uint32_t number : attempts)
    if (Link* link = find(number)) end_link(*link, why);
}

void VerbsEngine::cut_links() {
  for (auto& [number, link] : links_) {
    if (link->state != Link::State::kUp) continue;
    end_pair(*link);
    fail_link(*link->endpoint, {ECONNRESET, "The connection was cut."});
  }
}

std::unique_ptr<SessionEndpoint> VerbsEngine::make_endpoint(SessionEndpoint::Role role,
                                                            wire::SessionId id,
                                                            std::string peer_name) {
  return std::make_unique<VerbsEndpoint>(*this, role, id, std::move(peer_name));
}

OneSided* VerbsEngine::one_sided(SessionEndpoint& endpoint) {
  return accepting_ != nullptr ? accepting_ : mine(endpoint).link;
}

void VerbsEngine::pump(SessionEndpoint& endpoint) {
  if (Link* link = mine(endpoint).link) link->pump(*endpoint.connection());
}

void VerbsEngine::posted(SessionEndpoint& endpoint) {
  mark(endpoint);
  // In a round the endpoint is served soon, and only when what came is durable.
  if (!is_in_round_) first_ = &endpoint;
}

void VerbsEngine::pump_first() {
  SessionEndpoint* const endpoint = std::exchange(first_, nullptr);
  if (endpoint == nullptr || !endpoint->is_up() || endpoint->is_closing()) return;
  Link* link = mine(*endpoint).link;
  const Requester& requester = endpoint->session().requester();
  if (link == nullptr || requester.unanswered() > 0 || requester.next_deadline() <= round_time_)
    return;
  // Answers leave only when step() has made durable what they say.
  if (!endpoint->connection()->is_drained()) return;
  link->pump(*endpoint->connection());
}

void VerbsEngine::break_link(SessionEndpoint& endpoint) {
  if (Link* link = mine(endpoint).link)
    end_link(*link, {ECONNRESET, "The connection to " + endpoint.peer_name() + " ended."});
}

void VerbsEngine::link_answered(VerbsEndpoint& endpoint, const wire::ResponseHeader& header) {
  answered(endpoint, header);
}

void VerbsEngine::link_failed(VerbsEndpoint& endpoint, Error why) {
  fail_link(endpoint, std::move(why));
  if (endpoint.phase() == SessionEndpoint::Phase::kUp || endpoint.link == nullptr) return;
  failed_.emplace_back(endpoint.link->number());
}

void VerbsEngine::link_progressed(VerbsEndpoint& endpoint) {
  mark(endpoint);
  touched_.push_back(endpoint.link->number());
}

// Takes what the device has completed, and notes whose it is while that is known.
std::size_t VerbsEngine::collect() {
  std::array<ibv_wc, kBatch> batch;
  std::size_t total = 0;
  for (std::size_t i = 0; i < kMostBatches; ++i) {
    const int count = ibv_poll_cq(device_->completions(), kBatch, batch.data());
    if (count < 0) is_broken_ = true;
    const auto got = static_cast<std::size_t>(std::max(count, 0));
    for (const ibv_wc& completion : std::span{batch}.first(got)) {
      Arrived arrived{.link = static_cast<std::uint32_t>(completion.wr_id >> 32),
                      .completion = completion};
      if (arrived.link == 0) {
        const auto pair = pairs_.find(completion.qp_num);
        arrived.link = pair == pairs_.end() ? 0 : pair->second;
      }
      arrived_.push_back(arrived);
    }
    total += got;
    if (count < kBatch) break;
  }
  return total;
}

std::size_t VerbsEngine::take_completions() {
  if (arrived_.empty()) collect();
  taken_.clear();
  std::swap(taken_, arrived_);
  const std::size_t count = taken_.size();
  for (std::size_t i = 0; i < count; ++i) take(taken_[i]);
  for (const std::uint32_t number : std::exchange(failed_, {}))
    if (Link* link = find(number))
      end_link(*link, {ECONNRESET, "The connection to " + link->peer_name + " broke."});
  return count;
}

void VerbsEngine::take(const Arrived& arrived) {
  const ibv_wc& completion = arrived.completion;
  Link* link = find(arrived.link);
  if (completion.wr_id >> 32 != 0) {
    if (is_flush_done(completion)) ++flushes_;
    if (link != nullptr)
      link->completed(static_cast<std::uint32_t>(completion.wr_id), completion.status);
    return;
  }
  if (link == nullptr || completion.status != IBV_WC_SUCCESS || link->pair_number() == 0) {
    device_->repost(completion.wr_id);
    return;
  }
  got_message(*link, completion);
}

void VerbsEngine::got_message(Link& link, const ibv_wc& completion) {
  constexpr std::uint32_t kCreditMask = 0xFF;
  const std::uint32_t immediate = ntohl(completion.imm_data);
  const auto kind = static_cast<Message>(immediate >> 8);
  const std::uint32_t number = link.number();
  const std::uint64_t index = completion.wr_id;
  if (!link.received(immediate & kCreditMask)) {
    device_->repost(index);
    return end_link(link, {EPROTO, "The peer gives credits that it never had."});
  }
  touched_.push_back(number);
  if (link.endpoint != nullptr) mark(*link.endpoint);  // what waited for credits
  if (kind == Message::kStream) {
    link.held.emplace_back(index, completion.byte_len);
    return feed_held(link);
  }
  std::array<std::byte, sizeof(FirstMessage)> first{};
  const auto message = device_->message(index, completion.byte_len);
  const std::size_t size = std::min(message.size(), first.size());
  std::copy_n(message.begin(), size, first.begin());
  device_->repost(index);
  link.freed();
  if (kind == Message::kHandshake) {
    got_handshake(link, std::span{first}.first(size));
  } else if (kind == Message::kReady && link.state == Link::State::kUp) {
    got_ready(link);
  }
}

void VerbsEngine::feed_held(Link& link) {
  while (!link.held.empty()) {
    Connection* connection = link.endpoint != nullptr ? link.endpoint->connection() : nullptr;
    if (connection != nullptr && connection->is_full()) return;
    const auto [index, size] = link.held.front();
    link.held.pop_front();
    if (connection != nullptr && link.pair_number() != 0)
      feed(*link.endpoint, device_->message(index, size));
    device_->repost(index);
    link.freed();
  }
}

Result<std::size_t> VerbsEngine::poll() {
  if (is_broken_)
    return fail(EIO, "The RDMA device " + device_->name() + " has failed; start the engine anew.");
  is_in_round_ = true;
  const std::size_t count = round();
  is_in_round_ = false;
  return count;
}

std::size_t VerbsEngine::round() {
  round_time_ = now();
  pump_first();
  std::size_t count = take_completions();
  // In vain it costs a call of the kernel, so not in every round of a busy engine.
  if (round_time_ >= next_look_) {
    next_look_ = round_time_ + kBetweenLooks;
    count += take_events();
  }
  end_late(round_time_);
  count += step();
  std::swap(touched_, touched_before_);
  for (const std::uint32_t number : touched_before_) {
    Link* link = find(number);
    if (link == nullptr || link->state != Link::State::kUp) continue;
    feed_held(*link);
    link->return_credits();
  }
  touched_before_.clear();
  return count;
}

bool VerbsEngine::must_wake(Time deadline) {
  return is_awake_.exchange(false) || (deadline != kNever && now() >= deadline);
}

Result<std::size_t> VerbsEngine::wait(Time deadline) {
  BTD_ASSIGN(std::size_t count, poll());
  const Time spin_until = round_time_ + options_.engine.spin;
  while (count == 0 && !must_wake(deadline)) {
    Time until = std::min(deadline, next_time());
    for (const std::uint32_t number : young_)
      if (const Link* link = find(number)) until = std::min(until, link->deadline);
    if (!spin(std::min(until, spin_until)) && now() < until) BTD_TRY(sleep(until));
    BTD_ASSIGN(count, poll());
  }
  return count;
}

// Looks for completions and nothing else, which is what a round trip waits for.
bool VerbsEngine::spin(Time until) {
  constexpr int kLooks = 8;  // to one at the clock
  while (arrived_.empty() && !is_awake_.load(std::memory_order_relaxed)) {
    if (now() >= until) return false;
    for (int i = 0; i < kLooks && arrived_.empty(); ++i) collect();
  }
  return true;
}

// Until the device, the manager or a thread has something, `until` at most.
Status VerbsEngine::sleep(Time until) {
  if (ibv_req_notify_cq(device_->completions(), 0) != 0)
    return fail(EIO, "The RDMA device " + device_->name() + " tells no completions.");
  // What completed before it was armed is not told.
  if (collect() > 0) return {};
  std::array<pollfd, 4> fds{
      pollfd{.fd = device_->channel()->fd, .events = POLLIN, .revents = 0},
      pollfd{.fd = events_->fd, .events = POLLIN, .revents = 0},
      pollfd{.fd = wake_fd_, .events = POLLIN, .revents = 0},
      pollfd{.fd = device_->context()->async_fd, .events = POLLIN, .revents = 0}};
  timespec left{};
  if (until != kNever) {
    const Time time = std::max(Time{}, until - now());
    left.tv_sec =
        static_cast<time_t>(std::chrono::duration_cast<std::chrono::seconds>(time).count());
    left.tv_nsec = static_cast<long>((time % std::chrono::seconds(1)).count());
  }
  next_look_ = Time{};
  if (options().before_sleep) options().before_sleep();
  if (ppoll(fds.data(), fds.size(), until == kNever ? nullptr : &left, nullptr) <= 0) return {};
  return take_signals();
}

Status VerbsEngine::take_signals() {
  std::uint64_t wakes = 0;
  if (read(wake_fd_, &wakes, sizeof(wakes)) < 0 && errno != EAGAIN)
    return fail(errno, "An RDMA engine's descriptor is gone.");
  ibv_cq* queue = nullptr;
  void* context = nullptr;
  while (ibv_get_cq_event(device_->channel(), &queue, &context) == 0) ibv_ack_cq_events(queue, 1);
  ibv_async_event event{};
  while (ibv_get_async_event(device_->context(), &event) == 0) {
    const bool is_mine = event.event_type == IBV_EVENT_CQ_ERR
                             ? event.element.cq == device_->completions()
                             : event.event_type == IBV_EVENT_DEVICE_FATAL;
    ibv_ack_async_event(&event);
    if (is_mine) is_broken_ = true;
  }
  return {};
}

void VerbsEngine::wake() {
  is_awake_ = true;
  const std::uint64_t one = 1;
  static_cast<void>(write(wake_fd_, &one, sizeof(one)));
}

}  // namespace btd::net::verbs
