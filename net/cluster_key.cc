#include "net/cluster_key.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <cerrno>
#include <vector>

namespace btd::net {

Result<Nonce> make_nonce() {
  Nonce nonce;
  if (getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size()))
    return fail(EIO, "The kernel gives no random bytes for a handshake.");
  return nonce;
}

Result<Proof> prove(std::span<const std::byte> key, std::string_view label,
                    std::initializer_list<std::span<const std::byte>> parts) {
  std::vector<unsigned char> text(label.begin(), label.end());
  text.push_back(0);
  for (const auto part : parts) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(part.data());
    text.insert(text.end(), bytes, bytes + part.size());
  }
  Proof proof{};
  unsigned length = 0;
  const auto* made = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), text.data(),
                          text.size(), reinterpret_cast<unsigned char*>(proof.data()), &length);
  if (made == nullptr || length != proof.size())
    return fail(EIO, "OpenSSL can't compute HMAC-SHA256.");
  return proof;
}

bool is_same(const Proof& a, const Proof& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace btd::net
