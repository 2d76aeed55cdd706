// What is said on a stream before the first frame: to one side by a stranger, and between two nodes
// of a cluster whose conversation is damaged on its way.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "alloc/unique_fd.h"
#include "net/tcp/handshake.h"
#include "net/tcp/key_guard.h"
#include "tests/fuzz/target.h"
#include "tests/net/secrets.h"

namespace btd::fuzz {

using namespace btd::net;

namespace {

enum Kind : std::uint8_t { kPlain, kKey, kTls, kKinds };

Handshake make(Kind kind, Side side) {
  static const auto makers = [] {
    const Secrets secrets;  // read now: they need not stay
    return std::array<GuardMaker, kKinds>{*make_guards(NoSecurity{}), *make_guards(secrets.key()),
                                          *make_guards(secrets.tls())};
  }();
  return {side, *makers.at(kind)(side)};
}

wire::Hello hello_of(std::uint16_t node) {
  wire::Hello hello;
  hello.node = node;
  hello.attempt = 1;
  hello.window = 16;
  return wire::sealed(hello);
}

// The first byte chooses the side and the guard, what follows is cut where it says.
void run_handshake(Input input) {
  if (input.empty()) return;
  const auto kind = static_cast<Kind>(input[0] % kKinds);
  const Side side = input[0] / kKinds % 2 == 0 ? Side::kConnecting : Side::kAccepting;
  Handshake handshake = make(kind, side);
  if (side == Side::kConnecting && !handshake.begin(hello_of(1))) return;
  Script script(input.subspan(1));
  while (!script.is_over()) {
    const std::size_t n = script.byte() % 97U;
    if (!handshake.take(std::as_bytes(script.take(n)))) break;
  }
  // Nobody guesses a key, or makes a certificate.
  check(kind == kPlain || !handshake.guard().is_open());
  check(kind == kPlain || !handshake.heard());
}

std::vector<std::string> handshake_seeds() {
  std::vector<std::string> seeds;
  for (int i = 0; i < 2 * kKinds; ++i) {
    const std::string choice(1, static_cast<char>(i));
    key_wire::Challenge challenge;
    challenge.side = static_cast<std::uint8_t>(i < kKinds ? Side::kAccepting : Side::kConnecting);
    const std::string challenges = raw_of(challenge), hello = raw_of(hello_of(2));
    seeds.push_back(choice + static_cast<char>(challenges.size()) + challenges);
    seeds.push_back(choice + static_cast<char>(hello.size()) + hello);
    seeds.push_back(choice + static_cast<char>(sizeof(wire::Refuse)) +
                    raw_of(wire::sealed(wire::Refuse{.error = EBUSY})));
    seeds.push_back(choice + std::string("\x05\x16\x03\x01\x01\x00", 6));
    seeds.push_back(choice + std::string("\x07\x15\x03\x03\x00\x02\x02\x28", 8));
    // What a node says first.
    Handshake other = make(static_cast<Kind>(i % kKinds), Side::kConnecting);
    check(other.begin(hello_of(2)).has_value());
    std::string said = choice;
    auto left = std::as_bytes(std::span{other.output()});
    while (!left.empty()) {
      const auto piece = left.first(std::min<std::size_t>(left.size(), 96));
      left = left.subspan(piece.size());
      said += static_cast<char>(piece.size());
      said.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    seeds.push_back(said);
  }
  return seeds;
}

// What may happen to a piece of the stream on its way.
enum class Harm : std::uint8_t { kNone, kFlip, kLose, kRepeat, kCut, kHarms };

// Takes what one side says to the other, with the next harm of the script; false: the stream ended.
bool carry(Handshake& from, Handshake& to, Script& script, bool& is_harmed) {
  Bytes said = std::exchange(from.output(), {});
  if (said.empty()) return true;
  const auto harm = static_cast<Harm>(script.byte() % static_cast<unsigned>(Harm::kHarms));
  is_harmed |= harm != Harm::kNone;
  const std::size_t at = (script.byte() * 256U + script.byte()) % said.size();
  if (harm == Harm::kFlip) said[at] ^= static_cast<std::byte>(script.byte() | 1U);
  if (harm == Harm::kLose) said.erase(said.begin() + static_cast<std::ptrdiff_t>(at));
  if (harm == Harm::kCut) said.resize(at);
  if (!to.take(std::span{said}.first(said.size() / 2)) ||
      !to.take(std::span{said}.subspan(said.size() / 2)))
    return false;
  return harm != Harm::kRepeat || to.take(said).has_value();
}

bool is_hello_of(const std::optional<Handshake::Heard>& heard, std::uint16_t node) {
  const auto* hello = heard ? std::get_if<wire::Hello>(&*heard) : nullptr;
  const wire::Hello wanted = hello_of(node);
  return hello != nullptr && std::memcmp(hello, &wanted, sizeof(wanted)) == 0;
}

void run_conversation(Input input) {
  if (input.empty()) return;
  const auto kind = static_cast<Kind>(input[0] % kKinds);
  Script script(input.subspan(1));
  Handshake connecting = make(kind, Side::kConnecting), accepting = make(kind, Side::kAccepting);
  if (!connecting.begin(hello_of(1))) return;
  bool is_harmed = false, has_answered = false, goes_on = true;
  for (int turn = 0; turn < 8 && goes_on; ++turn) {
    goes_on = carry(connecting, accepting, script, is_harmed);
    if (goes_on && accepting.heard() && !std::exchange(has_answered, true))
      check(accepting.answer(hello_of(2)).has_value());
    goes_on = goes_on && carry(accepting, connecting, script, is_harmed);
  }
  const bool is_understood =
      is_hello_of(accepting.heard(), 1) && is_hello_of(connecting.heard(), 2);
  check(is_harmed || is_understood);
  // TLS seals what is said; a key proves only who speaks.
  if (kind == kTls) {
    check(!accepting.heard() || is_hello_of(accepting.heard(), 1));
    check(!connecting.heard() || is_hello_of(connecting.heard(), 2));
  }
}

std::vector<std::string> conversation_seeds() {
  std::vector<std::string> seeds;
  for (char kind = 0; kind < kKinds; ++kind) {
    const std::string choice(1, kind);
    seeds.push_back(choice);
    for (std::size_t piece = 0; piece < 4; ++piece)
      for (char harm = 1; harm < static_cast<char>(Harm::kHarms); ++harm)
        seeds.push_back(choice + std::string(piece * 3, '\0') + harm + '\0' + '\7' + '\2');
  }
  return seeds;
}

std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Files {
  std::string authority, certificate, key;
};

// The files of a node as they were made once.
const Files& good_files() {
  static const Files files = [] {
    const Secrets& secrets = Secrets::mine();
    return Files{contents_of(secrets.path("ca.pem")), contents_of(secrets.path("node.pem")),
                 contents_of(secrets.path("node.key"))};
  }();
  return files;
}

// A file in memory with these bytes, and its path.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    check(fd_ && ::fchmod(fd_.get(), 0600) == 0);
    check(::write(fd_.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(fd_.get()); }

 private:
  UniqueFd fd_;
};

// One file of a node has these bytes, the others are good.
void run_secret_file(Input input) {
  if (input.empty()) return;
  const std::string bytes(text_of(input.subspan(1)));
  const unsigned which = input[0] % 4;
  if (which == 0) {
    const MemoryFile key(bytes);
    const auto made = make_guards(KeySecurity{key.path()});
    check(made.has_value() == (bytes.size() == key_wire::kKeyBytes));
    check(made || !made.error().message.empty());
    return;
  }
  const Files& good = good_files();
  const MemoryFile authority(which == 1 ? bytes : good.authority);
  const MemoryFile certificate(which == 2 ? bytes : good.certificate);
  const MemoryFile key(which == 3 ? bytes : good.key);
  const auto made = make_guards(TlsSecurity{authority.path(), certificate.path(), key.path()});
  check(made ? (*made)(Side::kAccepting).has_value() : !made.error().message.empty());
}

}  // namespace

Target handshake_target() { return {.run = run_handshake, .seeds = handshake_seeds()}; }

Target conversation_target() {
  return {.run = run_conversation, .seeds = conversation_seeds(), .most_bytes = 64};
}

Target secret_file_target() {
  const Files& good = good_files();
  return {.run = run_secret_file,
          .seeds = {std::string(1, '\0') + std::string(32, 'k'), '\1' + good.authority,
                    '\2' + good.certificate, '\3' + good.key,
                    '\2' + good.certificate + good.authority, '\1' + good.key},
          .words = {"-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n",
                    "-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n",
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "Proc-Type: 4,ENCRYPTED\n"}};
}

}  // namespace btd::fuzz
