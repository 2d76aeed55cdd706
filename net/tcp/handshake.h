// Handshake: what is said on a stream before the first frame: the guards of both sides, then Hello.
// A pure state machine: bytes in, bytes out; whoever owns the stream sets the deadline.
//
//   connecting                               accepting
//   guard.begin()  ------------------------>
//                  <- guards, as they need ->
//   Hello          ------------------------>  heard()
//   heard()        <------------------------  answer() or refuse()
//
// Nothing is said or believed before the peer's guard has proved itself, and no more is kept of a
// stranger's bytes than kMostBytes.
#pragma once

#include <memory>
#include <optional>
#include <variant>

#include "net/tcp/guard.h"
#include "net/wire.h"

namespace btd::net {

class Handshake {
 public:
  // Of all that the peer says in it: room for a chain of certificates.
  static constexpr std::size_t kMostBytes = 64 << 10;

  Handshake(Side side, std::unique_ptr<Guard> guard) : side_(side), guard_(std::move(guard)) {}

  // The connecting side's: `hello` is said when the peer has proved who it is.
  Status begin(const wire::Hello& hello);
  // Errors: EKEYREJECTED, EPROTO, EMSGSIZE; the stream must end.
  Status take(std::span<const std::byte> bytes);

  // What the peer has said in the end: of the accepting side always a Hello.
  using Heard = std::variant<wire::Hello, wire::Refuse>;
  [[nodiscard]] const std::optional<Heard>& heard() const { return heard_; }
  // The accepting side's answer.
  Status answer(const wire::Hello& hello);
  Status refuse(const wire::Refuse& refuse);

  // What is to be sent; the taker empties it.
  [[nodiscard]] Bytes& output() { return output_; }
  // Of frames that came behind the peer's last word.
  [[nodiscard]] std::span<const std::byte> rest() const { return plain_; }
  [[nodiscard]] const Guard& guard() const { return *guard_; }
  // For what follows; the handshake is over.
  std::unique_ptr<Guard> release_guard() { return std::move(guard_); }

 private:
  template <class T>
  Status say(const T& frame);
  Status hear();

  const Side side_;
  std::unique_ptr<Guard> guard_;
  std::optional<wire::Hello> hello_;  // not said yet
  std::optional<Heard> heard_;
  std::size_t taken_ = 0;
  Bytes plain_;
  Bytes output_;
};

}  // namespace btd::net
