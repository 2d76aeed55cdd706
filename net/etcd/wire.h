// What is said to etcd's JSON gateway, and what its answers mean. Pure functions: an answer of any
// bytes at all gives a value or EPROTO.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"

namespace btd::net {

// A row as etcd keeps it, or as an event tells it; nullopt: erased. The key is without the prefix.
struct EtcdRow {
  std::string key;
  std::optional<std::string> value;
  std::int64_t created = 0;   // revision in which it was made
  std::int64_t modified = 0;  // revision of its last change
  std::int64_t version = 0;   // changes since it was made; 1 at first
};

// One commit. It happens only where the slot's row holds `expected`, and leaves `id` there: so it
// happens once, however often it is sent.
struct EtcdCommit {
  std::span<const Batch::Requirement> requirements;
  std::span<const Batch::Change* const> changes;
  std::string slot;  // key of the row, with the prefix
  std::string expected;
  std::string id;
};

// Where in etcd the rows lie.
struct EtcdPlaces {
  std::string rows;       // prefix of all clients' rows
  std::string own;        // prefix of this client's own rows
  std::string own_begin;  // how the keys of those begin; empty: there are none

  [[nodiscard]] bool is_own(std::string_view key) const {
    return !own_begin.empty() && key.starts_with(own_begin);
  }
  [[nodiscard]] std::string of(std::string_view key) const {
    return std::string(is_own(key) ? own : rows).append(key);
  }
};

struct EtcdCommitResult {
  bool applied = false;
  // Of a commit that was not applied, when it was looked why: the slot's row (nullopt: gone) and
  // its last change, and for each requirement the revision of its key's last change (nullopt:
  // absent).
  std::optional<std::string> slot;
  std::int64_t slot_modified = 0;
  std::int64_t refused_at = 0;  // the revision that was looked at
  std::vector<std::optional<std::int64_t>> required;
};

struct EtcdCommitAnswer {
  std::int64_t revision = 0;
  std::vector<EtcdCommitResult> results;
};

struct EtcdPage {
  std::uint64_t cluster = 0;
  std::int64_t revision = 0;  // of the whole store when the page was read
  bool more = false;
  std::vector<EtcdRow> rows;
};

struct EtcdWatchMessage {
  std::uint64_t cluster = 0;
  std::int64_t revision = 0;
  bool created = false, canceled = false;
  bool fragment = false;       // the message goes on in the next one
  std::int64_t compacted = 0;  // the revisions before this one are gone
  std::string reason;
  std::vector<EtcdRow> events;
};

struct EtcdServerStatus {
  std::string version;
  std::uint64_t leader = 0, member = 0;
  std::int64_t revision = 0, db_size = 0;
};

// What etcd says instead of an answer.
enum class EtcdRefusal {
  unknown,    // nothing follows about what was done
  no_space,   // the quota is reached; the request may have been carried out nevertheless
  too_large,  // the rest was surely not carried out
  busy,
  login,
  denied,
  compacted,
};
struct EtcdComplaint {
  EtcdRefusal refusal = EtcdRefusal::unknown;
  std::string text;
};

namespace etcd_wire {

inline constexpr std::size_t kMaxOperations = 128;  // of one transaction, along one path
inline constexpr std::size_t kMaxRequest = std::size_t{3} << 19U;

// Several commits travel in one transaction, each with conditions of its own, if none names a key
// that another changes. `marker` is a row that is then written as well: etcd counts only
// unconditional writes when it asks whether there is room.
[[nodiscard]] std::string commits(std::span<const EtcdCommit> commits, const EtcdPlaces& places,
                                  std::string_view marker);
[[nodiscard]] Result<EtcdCommitAnswer> parse_commits(std::string_view answer,
                                                     std::span<const EtcdCommit> commits);

// Reads what commits require and their slots. It is not a part of the commits, since etcd would
// have to read the question each time, though hardly one is refused.
[[nodiscard]] std::string looks(std::span<const EtcdCommit> commits, const EtcdPlaces& places);
[[nodiscard]] Result<EtcdCommitAnswer> parse_looks(std::string_view answer,
                                                   std::span<const EtcdCommit> commits);

// revision 0: the present one.
[[nodiscard]] std::string range(std::string_view from, std::string_view to, std::size_t limit,
                                std::int64_t revision);
[[nodiscard]] Result<EtcdPage> parse_range(std::string_view answer, std::string_view prefix);

// Puts `value` into all rows named, and the owner's name into `owner_row`; once, however often it
// is sent.
[[nodiscard]] std::string take_over(std::string_view owner_row, std::string_view owner,
                                    std::span<const std::string> rows, std::string_view value);
[[nodiscard]] std::string erase(std::string_view from, std::string_view to);

[[nodiscard]] std::string watch(std::string_view from, std::string_view to, std::int64_t revision);
[[nodiscard]] Result<EtcdWatchMessage> parse_watch(std::string_view line, std::string_view prefix);

[[nodiscard]] std::string login(std::string_view user, std::string_view password);
[[nodiscard]] Result<std::string> parse_token(std::string_view answer);

[[nodiscard]] Result<EtcdServerStatus> parse_status(std::string_view answer);

// nullopt: not from etcd.
[[nodiscard]] std::optional<EtcdComplaint> parse_complaint(std::string_view answer);

}  // namespace etcd_wire
}  // namespace btd::net
