#include "net/tcp/key_guard.h"

#include <openssl/crypto.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "net/cluster_key.h"
#include "net/tcp/guard.h"
#include "net/wire.h"

namespace btd::net {

namespace {

using key_wire::Challenge;
using wire::bytes_of;

// Wiped when the last stream that uses it has gone.
struct Key {
  std::array<std::byte, key_wire::kKeyBytes> bytes{};
  Key() = default;
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;
  ~Key() { OPENSSL_cleanse(bytes.data(), bytes.size()); }
};

void append(std::span<const std::byte> bytes, Bytes& to) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

class KeyGuard final : public Guard {
 public:
  KeyGuard(std::shared_ptr<const Key> key, Side side) : key_(std::move(key)), side_(side) {}

  Status make_challenge() {
    mine_.side = static_cast<std::uint8_t>(side_);
    BTD_ASSIGN(mine_.nonce, make_nonce());
    return {};
  }

  Status begin(Bytes& out) override {
    append(bytes_of(mine_), out);
    return {};
  }

  Status take(std::span<const std::byte> bytes, Bytes& plain, Bytes& out) override {
    while (!bytes.empty() && step_ != Step::kOpen) {
      const std::size_t size = step_ == Step::kChallenge ? sizeof(Challenge) : sizeof(Proof);
      const std::size_t n = std::min(size - size_, bytes.size());
      std::memcpy(buffer_.data() + size_, bytes.data(), n);
      size_ += n;
      bytes = bytes.subspan(n);
      if (size_ < size) return {};
      size_ = 0;
      BTD_TRY(step_ == Step::kChallenge ? take_challenge(out) : take_proof(out));
    }
    plain.insert(plain.end(), bytes.begin(), bytes.end());
    return {};
  }

  [[nodiscard]] bool is_open() const override { return step_ == Step::kOpen; }
  [[nodiscard]] bool is_transparent() const override { return true; }

  Status protect(std::span<const iovec> plain, Bytes& out) override {
    for (const iovec& part : plain) {
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      out.insert(out.end(), from, from + part.iov_len);
    }
    return {};
  }

  [[nodiscard]] const char* when_ended() const override {
    return step_ == Step::kProof && side_ == Side::kConnecting
               ? "it closed the connection when this node proved itself; do both have the same "
                 "cluster key?"
               : Guard::when_ended();
  }

 private:
  enum class Step : std::uint8_t { kChallenge, kProof, kOpen };

  Status take_challenge(Bytes& out) {
    std::memcpy(&peers_, buffer_.data(), sizeof(peers_));
    const auto other = side_ == Side::kConnecting ? Side::kAccepting : Side::kConnecting;
    if (peers_.magic != key_wire::kMagic || peers_.side != static_cast<std::uint8_t>(other))
      return fail(EPROTO, "The peer does not ask for the cluster key as this node does.");
    if (peers_.version != key_wire::kVersion)
      return fail(EPROTONOSUPPORT,
                  "The peer proves the cluster key in another version; upgrade "
                  "the older node.");
    step_ = Step::kProof;
    if (side_ == Side::kAccepting) {
      append(bytes_of(mine_), out);
      return {};
    }
    return prove_mine(out);
  }

  Status take_proof(Bytes& out) {
    const bool is_mine_first = side_ == Side::kConnecting;
    BTD_ASSIGN(const Proof expected, proof(is_mine_first ? Side::kAccepting : Side::kConnecting));
    Proof said;
    std::memcpy(said.data(), buffer_.data(), said.size());
    if (!is_same(said, expected))
      return fail(EKEYREJECTED, "The peer does not have this node's cluster key.");
    step_ = Step::kOpen;
    return side_ == Side::kAccepting ? prove_mine(out) : Status{};
  }

  Status prove_mine(Bytes& out) {
    BTD_ASSIGN(const Proof mine, proof(side_));
    append(mine, out);
    return {};
  }

  [[nodiscard]] Result<Proof> proof(Side prover) const {
    const std::string_view label = prover == Side::kConnecting ? "bartender, the connecting side"
                                                               : "bartender, the accepting side";
    const bool is_connecting = side_ == Side::kConnecting;
    return prove(
        key_->bytes, label,
        {bytes_of(is_connecting ? mine_ : peers_), bytes_of(is_connecting ? peers_ : mine_)});
  }

  const std::shared_ptr<const Key> key_;
  const Side side_;
  Step step_ = Step::kChallenge;
  Challenge mine_, peers_;
  std::array<std::byte, sizeof(Challenge)> buffer_{};
  std::size_t size_ = 0;
};

}  // namespace

Result<GuardMaker> make_key_guards(const KeySecurity& security) {
  BTD_ASSIGN(Bytes bytes, read_secret(security.file, key_wire::kKeyBytes));
  auto key = std::make_shared<Key>();
  const bool is_sized = bytes.size() == key->bytes.size();
  if (is_sized) std::ranges::copy(bytes, key->bytes.begin());
  OPENSSL_cleanse(bytes.data(), bytes.size());
  if (!is_sized)
    return fail(EINVAL, "The file " + security.file +
                            " is no cluster key, which has 32 bytes; make one on one node with "
                            "head -c 32 /dev/urandom, and copy it to the others.");
  return GuardMaker([key](Side side) -> Result<std::unique_ptr<Guard>> {
    auto guard = std::make_unique<KeyGuard>(key, side);
    BTD_TRY(guard->make_challenge());
    return guard;
  });
}

}  // namespace btd::net
