#include "net/tcp/handshake.h"

#include <cerrno>
#include <cstring>

namespace btd::net {

namespace {

template <class T>
T first_of(std::span<const std::byte> bytes) {
  T frame;
  std::memcpy(&frame, bytes.data(), sizeof(frame));
  return frame;
}

}  // namespace

template <class T>
Status Handshake::say(const T& frame) {
  // The list is not const in iovec, its bytes are only read.
  const iovec part{.iov_base = const_cast<T*>(&frame), .iov_len = sizeof(frame)};
  return guard_->protect({&part, 1}, output_);
}

Status Handshake::begin(const wire::Hello& hello) {
  hello_ = hello;
  BTD_TRY(guard_->begin(output_));
  return hear();
}

Status Handshake::take(std::span<const std::byte> bytes) {
  // What comes behind the last word are frames, which have bounds of their own.
  if (!heard_) taken_ += bytes.size();
  if (taken_ > kMostBytes) return fail(EMSGSIZE, "The peer says too much before its first frame.");
  BTD_TRY(guard_->take(bytes, plain_, output_));
  return hear();
}

Status Handshake::hear() {
  if (!guard_->is_open()) return {};
  if (hello_) {
    const wire::Hello hello = *hello_;
    hello_.reset();
    BTD_TRY(say(hello));
  }
  if (heard_ || plain_.empty()) return {};
  const auto type = static_cast<wire::FrameType>(plain_[0]);
  const bool is_refuse = type == wire::FrameType::kRefuse && side_ == Side::kConnecting;
  if (!is_refuse && type != wire::FrameType::kHello)
    return fail(EPROTO, "The peer does not speak bartender's protocol.");
  const std::size_t size = is_refuse ? sizeof(wire::Refuse) : sizeof(wire::Hello);
  if (plain_.size() < size) return {};
  if (is_refuse) {
    heard_ = first_of<wire::Refuse>(plain_);
  } else {
    heard_ = first_of<wire::Hello>(plain_);
  }
  plain_.erase(plain_.begin(), plain_.begin() + static_cast<std::ptrdiff_t>(size));
  return {};
}

Status Handshake::answer(const wire::Hello& hello) { return say(hello); }
Status Handshake::refuse(const wire::Refuse& refuse) { return say(refuse); }

}  // namespace btd::net
