// Link: one TCP connection of the engine, from connect() or accept() until no I/O of it is left.
// Only data: tcp_engine.cc says what happens to it.
#pragma once

#include <sys/socket.h>

#include <array>
#include <list>
#include <memory>

#include "alloc/unique_fd.h"
#include "net/address.h"
#include "net/tcp/handshake.h"

namespace btd::net {

class TcpEndpoint;
struct Link;
struct Listener;

// What a completion of the ring is of: the low bits of its user data, next to a pointer.
enum class Io : std::uintptr_t {
  kReceive = 0,
  kSend = 1,
  kConnect = 2,
  kAccept = 3,
  kWake = 4,
  kZeroCopy = 5,
  kAlarm = 6
};
inline constexpr std::uintptr_t kIoMask = 7;

// Bytes of one gather() that have left and are held until the kernel refers to them no more: those
// of a send without a copy, or of others behind it, for they are freed in their order.
struct alignas(kIoMask + 1) HeldSend {
  Link* link = nullptr;
  std::size_t bytes = 0;
  bool is_free = false;  // the kernel refers to them no more
};

struct alignas(kIoMask + 1) Link {
  enum class State : std::uint8_t {
    kConnecting,
    kHandshake,
    kWaiting,  // its Hello came; an older link of the session must end first
    kUp,
    kEnding,  // until no I/O is left
  };
  // Referred payloads take two each; as many as a window of 4 KiB answers fills.
  static constexpr std::size_t kSegments = 128;

  UniqueFd socket;
  State state = State::kConnecting;
  bool is_receiving = false, is_sending = false, is_connecting = false;
  bool is_direct = false;            // the receive goes into a payload's place
  bool is_cancelled = false;         // the receive is a multishot that is to end
  std::uint32_t small_receives = 0;  // since the link was last to have single shots
  bool is_queued = false;            // for its next receive
  bool is_drained = false;           // the socket had no more bytes when it was last read
  TcpEndpoint* endpoint = nullptr;
  Listener* listener = nullptr;  // of an accepted one
  std::list<Link>::iterator self;

  std::unique_ptr<Handshake> handshake;
  std::unique_ptr<Guard> guard;  // afterwards; none if frames travel as they are
  Time until = kNever;           // of an accepted one's handshake
  std::string name;              // the peer's address

  Bytes output;   // of the guards and the handshake; before what the connection gathers
  Bytes sending;  // what the send that runs was made of, unless gathered bytes themselves
  std::size_t gathered = 0;  // the connection's bytes that the send stands for
  std::size_t left = 0;      // of the send that runs
  std::list<HeldSend> held;
  HeldSend* zero_copy = nullptr;  // of them, the one whose send runs
  unsigned notices_due = 0;       // that the kernel refers to the bytes of a send no more
  bool may_zero_copy = true;
  unsigned copied_in_a_row = 0;  // notices which said that the bytes were copied all the same
  msghdr message{};
  std::unique_ptr<std::array<iovec, kSegments>> segments;  // made at the first send

  Error why;  // it ends

  [[nodiscard]] bool is_busy() const { return is_receiving || is_sending || is_connecting; }
};

struct alignas(kIoMask + 1) Listener {
  UniqueFd socket;
  Acceptor acceptor;
  bool is_accepting = false;
  Time next{};  // after an error, when to accept again
};

template <class T>
[[nodiscard]] std::uint64_t user_data(const T* object, Io io) {
  return reinterpret_cast<std::uintptr_t>(object) | static_cast<std::uintptr_t>(io);
}

template <class T>
[[nodiscard]] T* object_of(std::uint64_t data) {
  return reinterpret_cast<T*>(data & ~kIoMask);
}

}  // namespace btd::net
