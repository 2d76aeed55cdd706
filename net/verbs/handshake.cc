#include "net/verbs/handshake.h"

namespace btd::net::verbs {

Result<Proof> prove_accepting(std::string_view key, const Nonce& connecting,
                              const Nonce& accepting) {
  return prove(std::as_bytes(std::span{key}), "bartender verbs accepts", {connecting, accepting});
}

Result<Proof> prove_connecting(std::string_view key, const Nonce& connecting,
                               const Nonce& accepting, const wire::Hello& hello) {
  return prove(std::as_bytes(std::span{key}), "bartender verbs connects",
               {connecting, accepting, wire::bytes_of(hello)});
}

}  // namespace btd::net::verbs
