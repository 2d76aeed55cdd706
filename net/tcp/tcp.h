// The tcp engine: operations travel over TCP, and the remote side's processor executes them.
// It needs nothing but a socket: Linux 6.1 or newer with io_uring.
#pragma once

#include <memory>
#include <string>
#include <variant>

#include "net/engine.h"

namespace btd::net {

// Anybody who reaches the port is a peer: for one host, since the engine refuses other addresses
// than loopback ones, unless `is_everywhere`.
struct NoSecurity {
  bool is_everywhere = false;
};

// A file of 32 random bytes (mode 0600 or stricter) that all nodes of the cluster have: peers prove
// to each other that they know it. What follows is neither encrypted nor sealed: for a network
// where nobody else reads or alters packets.
struct KeySecurity {
  std::string file;
};

// TLS 1.3; each side has a certificate of the cluster's own authority, which is all that is asked
// of it: whoever has one is a node. Files are PEM; the private key's mode is 0600 or stricter.
struct TlsSecurity {
  std::string authority;
  std::string certificate;
  std::string key;
};

using Security = std::variant<NoSecurity, KeySecurity, TlsSecurity>;

// What an engine did.
struct TcpCounts {
  std::uint64_t zero_copy_sends = 0;
  std::uint64_t zero_copies_copied = 0;  // of those; the kernel said so
  std::uint64_t multishot_receives = 0;
  std::uint64_t receives_without_buffer = 0;  // and were tried again
};

struct TcpOptions {
  EngineOptions engine;
  Security security;
  // Peers that connected and have not said who they are; one more, and the oldest must go.
  std::uint32_t max_handshakes = 1024;
  // Payloads as long are sent without a copy, and the memory is held until the peer has them. A
  // connection where the kernel copies all the same (on loopback, or for lack of a card's support)
  // stops asking for it, unless `is_zero_copy_forced`, which is for tests. Encrypted bytes are no
  // payload's memory, and are not sent so. UINT32_MAX: none are.
  std::uint32_t zero_copy_bytes = 64 << 10;
  bool is_zero_copy_forced = false;
  // Receives of a connection, without a long payload among them, after which it has a multishot
  // one; of connections that the engine does not ask by itself while it spins. UINT32_MAX: none.
  std::uint32_t multishot_after = 16;
  TcpCounts* counts = nullptr;  // outlives the engine, if there is one; of the engine's thread
};

// Addresses are "host:port": a name, an IPv4 address, or an IPv6 address in brackets. A name is
// resolved by connect() and listen(), which wait for the resolver where it is no number; later
// attempts use what was found.
// Errors: EINVAL (also of options that can't work), EACCES a key file that others may read, ENOENT;
// ENOSYS no io_uring here.
Result<std::unique_ptr<Engine>> make_tcp_engine(const TcpOptions& options);

}  // namespace btd::net
