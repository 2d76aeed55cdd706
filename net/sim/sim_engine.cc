#include "net/sim/sim_engine.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace btd::net::sim {

namespace {

constexpr std::size_t kGathered = 16;

// The bytes of the frame that begins there.
std::size_t frame_bytes(std::span<const std::byte> bytes) {
  if (bytes[0] == static_cast<std::byte>(wire::FrameType::kRequest)) {
    wire::RequestHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    return sizeof(header) + (static_cast<Verb>(header.verb) == Verb::kRead ? 0 : header.length);
  }
  wire::ResponseHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  return sizeof(header) + header.length;
}

void renumber(std::vector<std::byte>& frame) {
  if (frame[0] != static_cast<std::byte>(wire::FrameType::kRequest)) return;
  wire::RequestHeader header;
  std::memcpy(&header, frame.data(), sizeof(header));
  ++header.seq;
  header = wire::sealed(header);
  std::memcpy(frame.data(), &header, sizeof(header));
}

}  // namespace

SimEngine::SimEngine(SimNetwork& network, std::string name, const EngineOptions& options)
    : SessionEngine(options, seeded_random(network.random()())),
      network_(network),
      name_(std::move(name)),
      judged_(judge(options)) {
  network_.join(*this);
}

SimEngine::~SimEngine() { network_.leave(*this); }

Result<std::string> SimEngine::listen(std::string_view address, Acceptor acceptor) {
  BTD_TRY(judged_);
  if (!address.empty() && address != name_)
    return fail(EINVAL, "A simulated node listens on its own name, which is " + name_ + ".");
  acceptor_ = std::move(acceptor);
  return name_;
}

Result<Endpoint*> SimEngine::connect(std::string_view address, Handler& handler) {
  BTD_TRY(judged_);
  if (address.empty()) return fail(EINVAL, "An address is the name of a node.");
  return add_connecting(std::string(address), handler);
}

Result<std::size_t> SimEngine::wait(Time deadline) {
  is_awake_ = false;
  std::size_t done = step();
  while (done == 0 && !is_awake_ && network_.run_one(deadline)) done = step();
  return done;
}

std::unique_ptr<SessionEndpoint> SimEngine::make_endpoint(SessionEndpoint::Role role,
                                                          wire::SessionId id,
                                                          std::string peer_name) {
  return std::make_unique<SessionEndpoint>(*this, role, id, std::move(peer_name));
}

std::uint64_t SimEngine::link_of(const SessionEndpoint& endpoint) const {
  for (const auto& [number, link] : links_)
    if (link.endpoint == &endpoint) return number;
  return 0;
}

void SimEngine::to_peer(Link& link, std::function<void(SimEngine&)> what) {
  if (network_.is_cut(name_, link.peer_name)) {
    link.is_dead = true;  // what is lost in a stream can't be made up by what comes later
    return;
  }
  link.last = std::max(link.last, network_.now() + network_.latency(link.peer_name));
  network_.at(link.last, link.peer, std::move(what));
}

void SimEngine::start_attempt(SessionEndpoint& endpoint) {
  const wire::Hello hello = endpoint.session().begin_attempt(node());
  const std::uint64_t number = network_.next_order_++;
  SimEngine* peer = network_.find(endpoint.peer_name());
  Link& link = links_[number];
  link.endpoint = &endpoint;
  link.peer_name = endpoint.peer_name();
  if (peer == nullptr) {  // nobody has that name: a host that refuses
    network_.at(network_.now() + network_.latency(name_), number_,
                [number](SimEngine& self) { self.got_end(number); });
    return;
  }
  link.peer = peer->number_;
  to_peer(link, [number, from = number_, name = name_, hello](SimEngine& other) {
    other.got_hello(number, from, name, hello);
  });
}

void SimEngine::got_hello(std::uint64_t number, std::uint64_t from, const std::string& name,
                          const wire::Hello& hello) {
  Acceptance acceptance = accept(hello, name, acceptor_);
  if (const auto* older = std::get_if<MustBreak>(&acceptance)) {
    break_link(*older->endpoint);
    acceptance = accept(hello, name, acceptor_);
  }
  Link link{.peer = from, .peer_name = name};
  if (const auto* refused = std::get_if<Refused>(&acceptance)) {
    to_peer(link, [number, frame = refused->frame](SimEngine& other) {
      other.got_refusal(number, frame);
    });
    return;
  }
  const auto& accepted = std::get<Accepted>(acceptance);
  link.endpoint = accepted.endpoint;
  Link& kept = links_[number] = link;
  to_peer(kept, [number, me = number_, answer = accepted.answer](SimEngine& other) {
    other.got_answer(number, me, answer);
  });
}

void SimEngine::got_answer(std::uint64_t number, std::uint64_t from, const wire::Hello& answer) {
  const auto found = links_.find(number);
  if (found == links_.end() || found->second.peer != from) return;
  SessionEndpoint& endpoint = *found->second.endpoint;
  if (auto answered = endpoint.session().answered(answer); !answered) {
    links_.erase(found);
    link_ended(endpoint, answered.error());
    return;
  }
  attempt_done(endpoint);
}

void SimEngine::got_refusal(std::uint64_t number, const wire::Refuse& refuse) {
  const auto found = links_.find(number);
  if (found == links_.end()) return;
  SessionEndpoint& endpoint = *found->second.endpoint;
  links_.erase(found);
  link_ended(endpoint, refused(refuse));
}

void SimEngine::got_bytes(std::uint64_t number, const std::vector<std::byte>& bytes) {
  const auto found = links_.find(number);
  if (found != links_.end()) feed(*found->second.endpoint, bytes);
}

void SimEngine::got_end(std::uint64_t number) {
  const auto found = links_.find(number);
  if (found == links_.end()) return;
  SessionEndpoint& endpoint = *found->second.endpoint;
  links_.erase(found);
  link_ended(endpoint, {ECONNRESET, endpoint.peer_name() + " can't be reached."});
}

void SimEngine::break_link(SessionEndpoint& endpoint) {
  const std::uint64_t number = link_of(endpoint);
  Error why{ECONNRESET, "The connection to " + endpoint.peer_name() + " was cut."};
  if (const auto found = links_.find(number); found != links_.end()) {
    if (!found->second.is_dead && found->second.peer != 0)
      to_peer(found->second, [number](SimEngine& other) { other.got_end(number); });
    links_.erase(found);
  }
  link_ended(endpoint, std::move(why));
}

void SimEngine::pump(SessionEndpoint& endpoint) {
  const std::uint64_t number = link_of(endpoint);
  std::vector<std::byte> bytes;
  std::array<iovec, kGathered> segments{};
  Connection& connection = *endpoint.connection();
  while (const std::size_t n = connection.gather(segments, SIZE_MAX)) {
    const std::size_t before = bytes.size();
    for (const iovec& segment : std::span{segments}.first(n)) {
      const auto* from = static_cast<const std::byte*>(segment.iov_base);
      bytes.insert(bytes.end(), from, from + segment.iov_len);
    }
    connection.sent(bytes.size() - before);
  }
  const auto found = links_.find(number);
  if (found == links_.end() || found->second.is_dead || bytes.empty()) return;
  if (may_lose()) {
    send_frames(number, found->second, bytes);
  } else {
    send_stream(number, found->second, std::move(bytes));
  }
  mark(endpoint);
}

// Cuts bytes where it likes; a reader may rely on no boundary.
void SimEngine::send_stream(std::uint64_t number, Link& link, std::vector<std::byte> bytes) {
  bool is_cut = false;
  if (network_.happens(network_.faults().cut)) {
    bytes.resize(std::uniform_int_distribution<std::size_t>(0, bytes.size())(network_.random()));
    is_cut = true;
  }
  for (std::size_t at = 0; at < bytes.size() && !link.is_dead;) {
    const std::size_t left = bytes.size() - at;
    const std::size_t n = network_.happens(0.5) ? left
                                                : std::uniform_int_distribution<std::size_t>(
                                                      1, left)(network_.random());
    std::vector<std::byte> piece(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                 bytes.begin() + static_cast<std::ptrdiff_t>(at + n));
    at += n;
    to_peer(link, [number, piece = std::move(piece)](SimEngine& other) {
      other.got_bytes(number, piece);
    });
  }
  if (is_cut) cut(number, link);
}

void SimEngine::cut(std::uint64_t number, Link& link) {
  link.is_dead = true;
  if (!network_.happens(network_.faults().cut_in_silence))
    to_peer(link, [number](SimEngine& other) { other.got_end(number); });
  if (!network_.happens(network_.faults().cut_in_silence))
    network_.at(network_.now() + network_.latency(name_), number_,
                [number](SimEngine& self) { self.got_end(number); });
}

void SimEngine::send_frames(std::uint64_t number, Link& link, const std::vector<std::byte>& bytes) {
  const Faults& faults = network_.faults();
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t n = frame_bytes(std::span{bytes}.subspan(at));
    std::vector<std::byte> frame(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                 bytes.begin() + static_cast<std::ptrdiff_t>(at + n));
    at += n;
    if (network_.is_cut(name_, link.peer_name) || network_.happens(faults.loss)) continue;
    const int copies = network_.happens(faults.repeat) ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
      if (i == 1 && faults.forge) renumber(frame);
      link.last = std::max(link.last, network_.now() + network_.latency(link.peer_name));
      Time time = link.last;
      if (network_.happens(faults.delay))
        time += Time(std::uniform_int_distribution<std::int64_t>(
            0, faults.delay_max.count())(network_.random()));
      network_.at(time, link.peer,
                  [number, frame](SimEngine& other) { other.got_bytes(number, frame); });
    }
  }
}

void SimEngine::cut_links() {
  std::vector<std::uint64_t> numbers;
  for (auto& [number, link] : links_)
    if (!link.is_dead && link.peer != 0) numbers.push_back(number);
  for (const std::uint64_t number : numbers) cut(number, links_[number]);
}

}  // namespace btd::net::sim
