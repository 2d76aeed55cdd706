#include "net/verbs/handshake.h"

namespace btd::net::verbs {

Proof prove_accepting(std::string_view key, const Nonce& connecting, const Nonce& accepting) {
  return prove(key, "bartender verbs accepts", {connecting, accepting});
}

Proof prove_connecting(std::string_view key, const Nonce& connecting, const Nonce& accepting,
                       const wire::Hello& hello) {
  return prove(key, "bartender verbs connects",
               {connecting, accepting, std::as_bytes(std::span{&hello, 1})});
}

}  // namespace btd::net::verbs
