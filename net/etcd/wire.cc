#include "net/etcd/wire.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "net/etcd/base64.h"

namespace btd::net::etcd_wire {
namespace {

using Json = nlohmann::json;

std::unexpected<Error> garbage(std::string_view what) {
  return fail(EPROTO, "etcd's answer has " + std::string(what) +
                          "; check that the endpoint is an etcd server, version 3.4 or newer.");
}

// --- writing ---------------------------------------------------------------------------------

void append_bytes(std::string& out, std::string_view name, std::string_view bytes) {
  out.append("\"").append(name).append("\":\"");
  append_base64(out, bytes);
  out += '"';
}

void append_put(std::string& out, std::string_view key, std::string_view value) {
  out += "{\"request_put\":{";
  append_bytes(out, "key", key);
  out += ',';
  append_bytes(out, "value", value);
  out += "}}";
}

void append_change(std::string& out, const EtcdPlaces& places, const Batch::Change& change) {
  const std::string key = places.of(change.key);
  if (change.value) return append_put(out, key, *change.value);
  out += "{\"request_delete_range\":{";
  append_bytes(out, "key", key);
  out += "}}";
}

// What is not said is zero or the first of its kind: that the two are equal, and of an absent row
// that its version is 0. The gateway takes long for each member that it reads.
void append_compare(std::string& out, std::string_view key,
                    const std::optional<std::string>& value) {
  out += '{';
  append_bytes(out, "key", key);
  if (value) {
    out += ",\"target\":\"VALUE\",";
    append_bytes(out, "value", *value);
  }
  out += '}';
}

void append_commit(std::string& out, const EtcdPlaces& places, const EtcdCommit& c) {
  out += "{\"compare\":[";
  append_compare(out, c.slot, c.expected);
  for (const Batch::Requirement& r : c.requirements) {
    out += ',';
    append_compare(out, places.of(r.key), r.value);
  }
  out += "],\"success\":[";
  append_put(out, c.slot, c.id);
  for (const Batch::Change* change : c.changes) {
    out += ',';
    append_change(out, places, *change);
  }
  out += "]}";
}

void append_look(std::string& out, const EtcdPlaces& places, const EtcdCommit& c) {
  out += "{\"success\":[{\"request_range\":{";
  append_bytes(out, "key", c.slot);
  out += "}}";
  for (const Batch::Requirement& r : c.requirements) {
    out += ",{\"request_range\":{\"keys_only\":true,";
    append_bytes(out, "key", places.of(r.key));
    out += "}}";
  }
  out += "]}";
}

// --- reading ---------------------------------------------------------------------------------

const Json kNothing;

const Json& member(const Json& object, const char* name) {
  if (!object.is_object()) return kNothing;
  const auto found = object.find(name);
  return found == object.end() ? kNothing : *found;
}

// The gateway writes 64-bit numbers as strings and leaves zeros out.
template <class Number>
Result<Number> number(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (value.is_null()) return Number{0};
  if (value.is_number_unsigned()) return static_cast<Number>(value.get<std::uint64_t>());
  if (!value.is_string()) return garbage("something else where a number belongs");
  const auto& text = value.get_ref<const std::string&>();
  Number result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  if (error != std::errc() || end != text.data() + text.size())
    return garbage("a number that is none");
  return result;
}

Result<std::string> bytes(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (value.is_null()) return std::string();
  if (!value.is_string()) return garbage("something else where bytes belong");
  auto decoded = decode_base64(value.get_ref<const std::string&>());
  if (!decoded) return garbage("bytes that are not base64");
  return *std::move(decoded);
}

Result<bool> flag(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (value.is_null()) return false;
  if (!value.is_boolean()) return garbage("something else where true or false belongs");
  return value.get<bool>();
}

std::string text_of(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

Result<Json> parse_object(std::string_view text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return garbage("no JSON object");
  return json;
}

Result<EtcdRow> parse_row(const Json& kv, std::string_view prefix) {
  if (!kv.is_object()) return garbage("something else where a row belongs");
  EtcdRow row;
  BTD_ASSIGN(row.key, bytes(kv, "key"));
  if (!row.key.starts_with(prefix)) return garbage("a key that was not asked for");
  row.key.erase(0, prefix.size());
  BTD_ASSIGN(row.value, bytes(kv, "value"));
  BTD_ASSIGN(row.created, number<std::int64_t>(kv, "create_revision"));
  BTD_ASSIGN(row.modified, number<std::int64_t>(kv, "mod_revision"));
  BTD_ASSIGN(row.version, number<std::int64_t>(kv, "version"));
  return row;
}

Result<EtcdRow> parse_event(const Json& event, std::string_view prefix) {
  BTD_ASSIGN(EtcdRow row, parse_row(member(event, "kv"), prefix));
  const Json& type = member(event, "type");
  if (type.is_null() || type == "PUT") return row;
  if (type != "DELETE") return garbage("an event of a kind that is unknown");
  row.value.reset();
  return row;
}

// The rows of one range inside a transaction's answer.
const Json& rows_of(const Json& response) {
  return member(member(response, "response_range"), "kvs");
}

Result<EtcdCommitResult> parse_commit(const Json& txn, const EtcdCommit& c) {
  if (!txn.is_object()) return garbage("no result for a commit");
  EtcdCommitResult result;
  BTD_ASSIGN(result.applied, flag(txn, "succeeded"));
  const Json& responses = member(txn, "responses");
  if (!result.applied) return result;
  if (!responses.is_array() || responses.size() != 1 + c.changes.size())
    return garbage("another number of results than was asked for");
  return result;
}

Result<EtcdCommitResult> parse_look(const Json& txn, const EtcdCommit& c) {
  EtcdCommitResult result;
  const Json& responses = member(txn, "responses");
  if (!responses.is_array() || responses.size() != 1 + c.requirements.size())
    return garbage("another number of results than was asked for");
  const Json& slot = rows_of(responses[0]);
  if (slot.is_array() && slot.size() == 1) {
    BTD_ASSIGN(EtcdRow row, parse_row(slot[0], c.slot));
    result.slot = std::move(row.value);
    result.slot_modified = row.modified;
  }
  for (std::size_t i = 1; i < responses.size(); ++i) {
    const Json& rows = rows_of(responses[i]);
    std::optional<std::int64_t>& revision = result.required.emplace_back();
    if (!rows.is_array() || rows.empty()) continue;
    BTD_ASSIGN(revision, number<std::int64_t>(rows[0], "mod_revision"));
  }
  return result;
}

// `parse_one` of each commit; `first` is where the nested ones begin among the results.
template <class ParseOne>
Result<EtcdCommitAnswer> parse_each(std::string_view answer, std::span<const EtcdCommit> commits,
                                    std::size_t first, const ParseOne& parse_one) {
  BTD_ASSIGN(const Json json, parse_object(answer));
  EtcdCommitAnswer out;
  BTD_ASSIGN(out.revision, number<std::int64_t>(member(json, "header"), "revision"));
  if (out.revision <= 0) return garbage("no revision");
  if (commits.size() == 1) {
    BTD_ASSIGN(EtcdCommitResult result, parse_one(json, commits[0]));
    out.results.push_back(std::move(result));
    return out;
  }
  const Json& responses = member(json, "responses");
  if (!responses.is_array() || responses.size() != first + commits.size())
    return garbage("another number of results than was asked for");
  for (std::size_t i = 0; i < commits.size(); ++i) {
    BTD_ASSIGN(EtcdCommitResult result,
               parse_one(member(responses[first + i], "response_txn"), commits[i]));
    out.results.push_back(std::move(result));
  }
  return out;
}

}  // namespace

std::string commits(std::span<const EtcdCommit> commits, const EtcdPlaces& places,
                    std::string_view marker) {
  std::string out;
  if (commits.size() == 1) {
    append_commit(out, places, commits[0]);
    return out;
  }
  out += "{\"success\":[";
  append_put(out, marker, commits[0].id);
  for (const EtcdCommit& c : commits) {
    out += ",{\"request_txn\":";
    append_commit(out, places, c);
    out += '}';
  }
  out += "]}";
  return out;
}

Result<EtcdCommitAnswer> parse_commits(std::string_view answer,
                                       std::span<const EtcdCommit> commits) {
  return parse_each(answer, commits, 1, parse_commit);
}

std::string looks(std::span<const EtcdCommit> commits, const EtcdPlaces& places) {
  std::string out;
  if (commits.size() == 1) {
    append_look(out, places, commits[0]);
    return out;
  }
  for (const EtcdCommit& c : commits) {
    out += out.empty() ? R"({"success":[{"request_txn":)" : R"(,{"request_txn":)";
    append_look(out, places, c);
    out += '}';
  }
  return out += "]}";
}

Result<EtcdCommitAnswer> parse_looks(std::string_view answer, std::span<const EtcdCommit> commits) {
  return parse_each(answer, commits, 0, parse_look);
}

std::string range(std::string_view from, std::string_view to, std::size_t limit,
                  std::int64_t revision) {
  std::string out = "{";
  append_bytes(out, "key", from);
  if (!to.empty()) {
    out += ',';
    append_bytes(out, "range_end", to);
  }
  out += ",\"limit\":\"" + std::to_string(limit) + "\",\"revision\":\"" + std::to_string(revision) +
         "\"}";
  return out;
}

Result<EtcdPage> parse_range(std::string_view answer, std::string_view prefix) {
  BTD_ASSIGN(const Json json, parse_object(answer));
  EtcdPage page;
  const Json& header = member(json, "header");
  BTD_ASSIGN(page.revision, number<std::int64_t>(header, "revision"));
  BTD_ASSIGN(page.cluster, number<std::uint64_t>(header, "cluster_id"));
  if (page.revision <= 0 || page.cluster == 0) return garbage("no revision of a cluster");
  BTD_ASSIGN(page.more, flag(json, "more"));
  const Json& rows = member(json, "kvs");
  if (!rows.is_array() && !rows.is_null()) return garbage("something else where rows belong");
  for (const Json& kv : rows) {
    BTD_ASSIGN(EtcdRow row, parse_row(kv, prefix));
    page.rows.push_back(std::move(row));
  }
  return page;
}

std::string take_over(std::string_view owner_row, std::string_view owner,
                      std::span<const std::string> rows, std::string_view value) {
  std::string out = "{\"compare\":[";
  append_compare(out, owner_row, std::string(owner));
  out += "],\"failure\":[";
  append_put(out, owner_row, owner);
  for (const std::string& row : rows) {
    out += ',';
    append_put(out, row, value);
  }
  return out += "]}";
}

std::string erase(std::string_view from, std::string_view to) {
  std::string out = "{";
  append_bytes(out, "key", from);
  out += ',';
  append_bytes(out, "range_end", to);
  return out += '}';
}

std::string watch(std::string_view from, std::string_view to, std::int64_t revision) {
  std::string out = R"({"create_request":{"progress_notify":true,"fragment":true,)";
  append_bytes(out, "key", from);
  out += ',';
  append_bytes(out, "range_end", to);
  return out += ",\"start_revision\":\"" + std::to_string(revision) + "\"}}";
}

Result<EtcdWatchMessage> parse_watch(std::string_view line, std::string_view prefix) {
  BTD_ASSIGN(const Json json, parse_object(line));
  const Json& result = member(json, "result");
  if (!result.is_object()) return garbage("no result in a watch");
  EtcdWatchMessage message;
  const Json& header = member(result, "header");
  BTD_ASSIGN(message.cluster, number<std::uint64_t>(header, "cluster_id"));
  BTD_ASSIGN(message.revision, number<std::int64_t>(header, "revision"));
  BTD_ASSIGN(message.created, flag(result, "created"));
  BTD_ASSIGN(message.canceled, flag(result, "canceled"));
  BTD_ASSIGN(message.fragment, flag(result, "fragment"));
  BTD_ASSIGN(message.compacted, number<std::int64_t>(result, "compact_revision"));
  message.reason = text_of(result, "cancel_reason");
  const Json& events = member(result, "events");
  if (!events.is_array() && !events.is_null()) return garbage("something else where events belong");
  for (const Json& event : events) {
    BTD_ASSIGN(EtcdRow row, parse_event(event, prefix));
    message.events.push_back(std::move(row));
  }
  return message;
}

std::string login(std::string_view user, std::string_view password) {
  return Json{{"name", user}, {"password", password}}.dump(-1, ' ', true,
                                                           Json::error_handler_t::replace);
}

Result<std::string> parse_token(std::string_view answer) {
  BTD_ASSIGN(const Json json, parse_object(answer));
  std::string token = text_of(json, "token");
  // It goes into a header of its own, where no line may end.
  if (token.empty() || token.find_first_of("\r\n") != std::string::npos) return garbage("no token");
  return token;
}

Result<EtcdServerStatus> parse_status(std::string_view answer) {
  BTD_ASSIGN(const Json json, parse_object(answer));
  EtcdServerStatus status;
  status.version = text_of(json, "version");
  const Json& header = member(json, "header");
  BTD_ASSIGN(status.leader, number<std::uint64_t>(json, "leader"));
  BTD_ASSIGN(status.member, number<std::uint64_t>(header, "member_id"));
  BTD_ASSIGN(status.revision, number<std::int64_t>(header, "revision"));
  BTD_ASSIGN(status.db_size, number<std::int64_t>(json, "dbSize"));
  return status;
}

std::optional<EtcdComplaint> parse_complaint(std::string_view answer) {
  const Json json = Json::parse(answer, nullptr, false);
  std::string text = text_of(json, "error");
  if (text.empty()) text = text_of(member(json, "error"), "message");  // in a stream
  if (text.empty()) return std::nullopt;
  struct Phrase {
    std::string_view words;
    EtcdRefusal refusal;
  };
  static constexpr Phrase kPhrases[] = {
      {"database space exceeded", EtcdRefusal::no_space},
      {"request is too large", EtcdRefusal::too_large},
      {"too many operations", EtcdRefusal::too_large},
      {"too many requests", EtcdRefusal::busy},
      {"invalid auth token", EtcdRefusal::login},
      {"user name is empty", EtcdRefusal::login},
      {"revision of auth store is old", EtcdRefusal::login},
      {"permission denied", EtcdRefusal::denied},
      {"authentication failed", EtcdRefusal::denied},
      {"authentication is not enabled", EtcdRefusal::denied},
      {"has been compacted", EtcdRefusal::compacted},
  };
  EtcdComplaint complaint;
  for (const Phrase& phrase : kPhrases) {
    if (text.find(phrase.words) != std::string::npos) complaint.refusal = phrase.refusal;
  }
  complaint.text = std::move(text);
  return complaint;
}

}  // namespace btd::net::etcd_wire
