// Guard: who may speak on a stream, and how its bytes are protected. A pure state machine: bytes of
// the stream go in, bytes for the stream and bytes of frames come out.
//
// The connecting side speaks first and proves itself first: a stranger learns nothing of the other.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "net/tcp/tcp.h"

namespace btd::net {

using Bytes = std::vector<std::byte>;

enum class Side : std::uint8_t { kConnecting, kAccepting };

class Guard {
 public:
  virtual ~Guard() = default;
  // What the connecting side says first goes to `out`.
  virtual Status begin(Bytes& out) = 0;
  // Takes all of `bytes`. What is to be sent is added to `out`, what the peer says beyond the
  // guards to `plain`. Errors: EKEYREJECTED, EPROTO; the stream must end, after `out` if possible.
  virtual Status take(std::span<const std::byte> bytes, Bytes& plain, Bytes& out) = 0;
  // The peer has proved who it is.
  [[nodiscard]] virtual bool is_open() const = 0;
  // Once it is open, frames travel as they are, and take() and protect() are not needed.
  [[nodiscard]] virtual bool is_transparent() const = 0;
  // Adds what stands for `plain` on the stream to `out`. Only when open.
  virtual Status protect(std::span<const iovec> plain, Bytes& out) = 0;
  // What it may mean that the peer ends the stream now.
  [[nodiscard]] virtual const char* when_ended() const {
    return "it closed the connection; is it a bartender node, with the same kind of security?";
  }
};

using GuardMaker = std::function<Result<std::unique_ptr<Guard>>(Side side)>;

// Reads the files once. Errors: ENOENT, EACCES others may read a key, EINVAL.
Result<GuardMaker> make_guards(const Security& security);
Result<GuardMaker> make_key_guards(const KeySecurity& security);
Result<GuardMaker> make_tls_guards(const TlsSecurity& security);

// A file that holds a secret, `most` bytes of it at most. Errors: EACCES others may read it.
Result<Bytes> read_secret(const std::string& path, std::size_t most);

}  // namespace btd::net
