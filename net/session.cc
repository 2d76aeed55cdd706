#include "net/session.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace btd::net {

namespace {

std::string versions(std::uint16_t from, std::uint16_t to) {
  return from == to ? std::to_string(from) : std::to_string(from) + " to " + std::to_string(to);
}

}  // namespace

Result<std::uint16_t> common_version(const wire::Hello& hello) {
  if (hello.type != wire::FrameType::kHello || hello.magic != wire::kMagic ||
      !wire::is_sound(hello))
    return fail(EPROTO, "The peer does not speak bartender's protocol.");
  const std::uint16_t version = std::min(hello.version_max, wire::kVersionMax);
  if (version < hello.version_min || version < wire::kVersionMin)
    return fail(EPROTONOSUPPORT,
                "The peer speaks version " + versions(hello.version_min, hello.version_max) +
                    " of the protocol and this node " +
                    versions(wire::kVersionMin, wire::kVersionMax) + "; upgrade the older one.");
  return version;
}

Error refused(const wire::Refuse& refuse) {
  if (refuse.type != wire::FrameType::kRefuse || !wire::is_sound(refuse))
    return {EPROTO, "The peer does not speak bartender's protocol."};
  switch (refuse.error) {
    case EPROTONOSUPPORT:
      return {EPROTONOSUPPORT,
              "The peer speaks version " + versions(refuse.version_min, refuse.version_max) +
                  " of the protocol and this node " +
                  versions(wire::kVersionMin, wire::kVersionMax) + "; upgrade the older one."};
    case EACCES:
      return {EACCES, "The peer does not take connections of this node."};
    case EBUSY:
      return {EBUSY, "The peer has as many connections as it may have; try later."};
    case ESTALE:
      return {ESTALE, "The peer has a newer connection of this session."};
    default:
      return {EPROTO, "The peer refused the connection without a known reason."};
  }
}

Session::Session(wire::SessionId id, RegionTable& regions, const Limits& limits)
    : id_(id), limits_(limits), requester_(limits), responder_(regions, limits) {}

wire::Hello Session::hello(const LocalNode& node) const {
  wire::Hello hello;
  hello.node = node.id;
  hello.attempt = attempt_;
  hello.session = id_;
  hello.oldest = requester_.oldest();
  hello.epoch = node.epoch;
  hello.transfer_bytes = limits_.transfer_bytes;
  hello.window = limits_.window;
  hello.message_bytes = limits_.message_bytes;
  hello.capabilities = node.capabilities;
  return hello;
}

wire::Hello Session::begin_attempt(const LocalNode& node) {
  ++attempt_;
  return wire::sealed(hello(node));
}

void Session::up(const wire::Hello& peers, bool is_known) {
  peer_ = peers.node;
  peer_capabilities_ = peers.capabilities;
  if (!is_known) responder_.start(peers.oldest);
  is_forgotten_ = is_forgotten_ || (!is_known && was_up_);
  was_up_ = true;
  requester_.up({.window = peers.window,
                 .message_bytes = peers.message_bytes,
                 .transfer_bytes = peers.transfer_bytes,
                 .is_known = is_known});
}

Status Session::answered(const wire::Hello& answer) {
  BTD_TRY(common_version(answer));
  if (answer.session != id_ || answer.attempt != attempt_ || answer.window == 0 ||
      answer.state == 0)
    return fail(EPROTO, "The peer answered another connection's handshake.");
  up(answer, std::exchange(state_, answer.state) == answer.state);
  return {};
}

Result<wire::Hello> Session::accept(const wire::Hello& peers, const LocalNode& node,
                                    std::uint64_t new_state) {
  BTD_ASSIGN(const std::uint16_t version, common_version(peers));
  if (peers.attempt <= attempt_) return fail(ESTALE, "The peer has a newer connection already.");
  if (peers.window == 0) return fail(EPROTO, "The peer grants nothing.");
  attempt_ = peers.attempt;
  if (new_state != 0) state_ = new_state;
  up(peers, new_state == 0);
  wire::Hello answer = hello(node);
  answer.state = state_;
  answer.version_min = answer.version_max = version;
  return wire::sealed(answer);
}

}  // namespace btd::net
