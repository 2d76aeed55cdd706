// Addresses, what a verbs engine hears before frames, and what etcd answers.
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "net/address.h"
#include "net/etcd/base64.h"
#include "net/etcd/grpc.h"
#include "net/etcd/http2.h"
#include "net/etcd/wire.h"
#include "net/verbs/handshake.h"
#include "net/verbs/rules.h"
#include "tests/fuzz/target.h"

namespace btd::fuzz {

using namespace btd::net;

namespace {

// Numbers only: a name would wait for a resolver.
void run_address(Input input) {
  if (input.empty()) return;
  const bool is_passive = input[0] % 2 == 1;
  const auto address = parse_numeric_address(text_of(input.subspan(1)), is_passive);
  if (!address) return check(!address.error().message.empty());
  const auto again = parse_numeric_address(address->text(), true);
  check(again && again->size == address->size &&
        std::memcmp(&again->bytes, &address->bytes, again->size) == 0);
  static_cast<void>(address->is_loopback());
}

template <class T>
void parse_as(std::span<const std::byte> bytes) {
  const auto parsed = verbs::parse<T>(bytes);
  check(!parsed || bytes.size() >= sizeof(T));
}

void run_verbs(Input input) {
  Script script(input);
  // Credits as a peer gives them: what it never had is refused, so no sum goes wrong.
  verbs::Credits credits;
  std::uint64_t sent = 0, returned = 0;
  for (int left = script.byte() % 64; left > 0; --left) {
    const unsigned what = script.byte();
    if (what % 2 == 0 && credits.can_send()) {
      static_cast<void>(credits.send());
      ++sent;
    } else if (what % 2 == 1) {
      const std::uint32_t given = script.byte() % 3 == 0 ? 1 : script.byte() * 0x01010101U;
      if (!credits.received(given)) break;
      returned += given;
    }
    check(returned <= sent && sent - returned < verbs::Credits::kEach);
  }
  const auto bytes = std::as_bytes(script.rest());
  parse_as<verbs::ConnectData>(bytes);
  parse_as<verbs::AcceptData>(bytes);
  parse_as<verbs::FirstMessage>(bytes);
  parse_as<verbs::RejectData>(bytes);
  if (bytes.size() < sizeof(std::uint64_t)) return;
  std::uint64_t key = 0;
  std::memcpy(&key, bytes.data(), sizeof(key));
  const verbs::DeviceKey device = verbs::device_key(key);
  check(device.page_offset < verbs::kPageBytes);
  const RegionTable::Fixed fixed = verbs::fixed_bits(device);
  check((fixed.bits & ~fixed.mask) == 0);
}

void check_told(const Error& error) { check(error.code != 0 && !error.message.empty()); }

void run_etcd_answer(Input input) {
  const std::string_view answer = text_of(input);
  const std::vector<Batch::Requirement> requirements = {{"b", "1"}, {"c", std::nullopt}};
  const std::vector<EtcdCommit> commits = {{{}, {}, "p/a", "known", "id"},
                                           {requirements, {}, "p/d", "known", "id"}};
  const auto results = etcd_wire::parse_commits(answer, commits);
  check(!results || results->results.size() == commits.size());
  if (!results) check_told(results.error());
  const auto page = etcd_wire::parse_range(answer, "p/");
  if (!page) check_told(page.error());
  const auto message = etcd_wire::parse_watch(answer, "p/");
  if (!message) check_told(message.error());
  const auto status = etcd_wire::parse_status(answer);
  if (!status) check_told(status.error());
  const auto token = etcd_wire::parse_token(answer);
  if (!token) check_told(token.error());
  static_cast<void>(etcd_wire::parse_complaint(answer));
}

// A watch by gRPC, in pieces: the first byte says how long.
void run_etcd_watch(Input input) {
  if (input.empty()) return;
  Http2Exchange exchange(
      {.scheme = "http", .authority = "a", .path = "/", .token = {}, .body = "q"});
  std::string_view rest = text_of(input.subspan(1));
  for (bool more = true; more && !rest.empty();) {
    const std::string_view piece = rest.substr(0, 1U + input[0]);
    more = exchange.take(piece);
    rest.remove_prefix(piece.size());
  }
  check(exchange.body.size() <= input.size());
  std::string_view body = exchange.body;
  while (const auto size = etcd_grpc::message_bytes(body)) {
    const auto message = etcd_grpc::parse_watch(body.substr(etcd_grpc::kHeaderBytes, *size), "p/");
    if (!message) check_told(message.error());
    body.remove_prefix(etcd_grpc::kHeaderBytes +
                       std::min(*size, body.size() - etcd_grpc::kHeaderBytes));
  }
  const auto message = etcd_grpc::parse_watch(text_of(input), {});
  if (!message) check_told(message.error());
}

// One text for some bytes, and one only.
void run_base64(Input input) {
  const auto bytes = decode_base64(text_of(input));
  std::string text;
  if (bytes) append_base64(text, *bytes);
  check(!bytes || text == text_of(input));
  text.clear();
  append_base64(text, text_of(input));
  check(decode_base64(text) == text_of(input));
}

}  // namespace

Target address_target() {
  return {.run = run_address,
          .seeds = {std::string(1, '\0') + "127.0.0.1:7000", std::string(1, '\0') + "[::1]:7000",
                    "\001*:0", "\001:65535", "\001[fe80::1%lo]:1", "\1[::ffff:127.0.0.1]:80"},
          .words = {"[", "]", ":", "::", "*", "%lo", "127.0.0.1", "0x7f.1", "65536"},
          .most_bytes = 128};
}

Target verbs_target() {
  const std::string none(1, '\0');
  return {.run = run_verbs,
          .seeds = {none + raw_of(verbs::ConnectData{}), none + raw_of(verbs::AcceptData{}),
                    none + raw_of(verbs::FirstMessage{}), none + raw_of(verbs::RejectData{}),
                    std::string("\x06\x02\x02\x01\x03\x02\x01\x02", 8) +
                        raw_of(verbs::fixed_bits({.rkey = 7, .page_offset = 64}).bits)},
          .most_bytes = 512};
}

Target etcd_answer_target() {
  // NOLINTBEGIN(bugprone-suspicious-missing-comma): long lines are cut
  return {
      .run = run_etcd_answer,
      .seeds =
          {R"({"header":{"cluster_id":"7","revision":"5"},"kvs":[{"key":"cC9h","create_revision":)"
           R"("2","mod_revision":"3","version":"2","value":"dmFsdWU="}],"more":true,"count":"1"})",
           R"({"result":{"header":{"cluster_id":"7","revision":"5"},"fragment":true,"events":)"
           R"([{"kv":{"key":"cC9h","mod_revision":"3"},"type":"DELETE"},{"kv":{"key":"cC9i",)"
           R"("value":"eA=="}}]}})",
           R"({"result":{"header":{"revision":"5"},"created":true,"canceled":true,)"
           R"("compact_revision":"9","cancel_reason":"why"}})",
           R"({"header":{"revision":"5"},"responses":[{"response_range":{"kvs":[{"key":"cC9h",)"
           R"("value":"YQ==","mod_revision":"4"}]}},{"response_txn":{"succeeded":true}}]})",
           R"({"header":{"revision":"5"},"responses":[{"response_put":{}},{"response_txn":)"
           R"({"succeeded":true,"responses":[{}]}},{"response_txn":{"succeeded":true,)"
           R"("responses":[{}]}}]})",
           R"({"header":{"revision":"5"},"responses":[{"response_put":{}},{"response_txn":)"
           R"({"responses":[{"response_range":{"kvs":[{"key":"cC9h","value":"aWQ=",)"
           R"("mod_revision":"4"}]}}]}},{"response_txn":{"responses":[{"response_range":{}},)"
           R"({"response_range":{}},{"response_range":{"kvs":[{"mod_revision":"4"}]}}]}}]})",
           R"({"error":"etcdserver: request timed out","code":14})",
           R"({"error":{"message":"etcdserver: mvcc: database space exceeded","grpc_code":8}})",
           R"({"header":{"member_id":"1"},"version":"3.4.23","dbSize":"20","leader":"1"})",
           R"({"header":{"cluster_id":"7"},"token":"abc.1"})"},
      .words = {"\"header\":",
                "\"revision\":",
                "\"cluster_id\":",
                "\"kvs\":",
                "\"more\":true",
                "\"key\":",
                "\"value\":",
                "\"mod_revision\":",
                "\"create_revision\":",
                "\"version\":",
                "\"result\":",
                "\"events\":",
                "\"kv\":",
                "\"type\":\"DELETE\"",
                "\"fragment\":true",
                "\"created\":",
                "\"canceled\":",
                "\"compact_revision\":",
                "\"responses\":",
                "\"response_range\":",
                "\"response_txn\":",
                "\"succeeded\":true",
                "\"error\":",
                "\"code\":",
                "\"message\":",
                "\"token\":",
                "-9223372036854775808",
                "18446744073709551616",
                "null",
                "[",
                "]",
                "{",
                "}",
                "1e999",
                "\\ud800",
                "cC9h"}};
  // NOLINTEND(bugprone-suspicious-missing-comma)
}

Target etcd_watch_target() {
  const std::string settings("\0\0\0\4\0\0\0\0\0", 9), ping("\0\0\2\6\0\0\0\0\0ab", 11);
  const std::string event =
      std::string("\x0a\x04\x08\x07\x18\x09\x5a\x12\x12\x10\x0a\x03p/k\x10\x08\x18\x09\x20\x02",
                  22) +
      std::string("\x2a\x03val", 5);
  const std::string message = std::string("\0\0\0\0", 4) + static_cast<char>(event.size()) + event;
  const std::string data = std::string("\0\0", 2) + static_cast<char>(message.size()) +
                           std::string("\0\0\0\0\0\1", 6) + message;
  return {.run = run_etcd_watch,
          .seeds = {"\xff" + settings + data, "\3" + settings + ping + data + data, event,
                    "\xff" + settings + std::string("\0\0\0\1\5\0\0\0\1", 9)},
          .words = {settings, ping, event, "p/k", "HTTP/1.1 400"},
          .most_bytes = 1024};
}

Target base64_target() {
  return {.run = run_base64,
          .seeds = {"", "YQ==", "YWI=", "YWJj", "AB==", "AAA\n", "AA-_", "////++++"},
          .words = {"=", "==", "+", "/"},
          .most_bytes = 256};
}

}  // namespace btd::fuzz
