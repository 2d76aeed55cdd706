#include "fs/daemon/status.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "fs/daemon/protocol.h"
#include "fs/daemon/server.h"
#include "fs/daemon/status_cluster.h"

namespace btd {

namespace {

using nlohmann::json;

json transport(const Server& s) {
  json j;
  j["kind"] = s.over_io_uring ? "io_uring" : "/dev/fuse";
  j["gives_up"] =
      s.over_io_uring || s.protocol_minor < proto::kResendMinor
          ? "requests in flight are lost when the worker dies, and the mount ends with it"
          : "nothing";
  if (!s.transport_note.empty()) j["note"] = s.transport_note;
  return j;
}

json operations(const Server& s) {
  json list = json::object();
  for (const OpSummary& op : s.metrics.summaries()) {
    const auto us = [](std::uint64_t ns) { return static_cast<double>(ns) / 1000.0; };
    list[std::string(opcode_name(op.opcode))] = {{"count", op.count},    {"errors", op.errors},
                                                 {"p50_us", us(op.p50)}, {"p90_us", us(op.p90)},
                                                 {"p99_us", us(op.p99)}, {"max_us", us(op.max)}};
  }
  return list;
}

json capacity(const Server& s) {
  const auto st = s.backing().statfs();
  if (!st) return json::object();
  return {{"bytes", st->f_blocks * st->f_frsize},
          {"used_bytes", (st->f_blocks - st->f_bfree) * st->f_frsize},
          {"free_bytes", st->f_bavail * st->f_frsize}};
}

json describe(const Server& s) {
  const PoolFacts& facts = s.pool.facts();
  const MetaStore::Stats meta = s.pool.meta().stats();
  const FileTable::Counts files = s.files.counts();
  const StateHeader& header = s.state.header();
  json j;
  j["version"] = s.args.version;
  j["mountpoint"] = s.args.mountpoint;
  j["pool"] = {{"path", facts.path},
               {"uuid", facts.uuid},
               {"version", facts.version},
               {"capacity", facts.capacity},
               {"file_system", facts.file_system}};
  j["nvram"] = {{"kind", facts.nvram},
                {"persist_method", facts.persist_method},
                {"survives", facts.survives}};
  j["space"] = capacity(s);
  j["passthrough"] = {{"active", s.files.passthrough()}, {"reason", s.passthrough_reason}};
  j["transport"] = transport(s);
  j["supervisor"] = {{"pid", s.args.supervisor_pid}};
  j["worker"] = {{"pid", getpid()},
                 {"restarts", header.restarts},
                 {"uptime_s", (monotonic_ns() - s.started_ns) / 1'000'000'000}};
  j["mounted_s"] = static_cast<std::uint64_t>(time(nullptr)) - header.mounted_at;
  j["requests"] = header.requests;
  j["files"] = {{"known", files.known},
                {"opens", files.open},
                {"registered", files.registered},
                {"pruned", files.pruned}};
  j["meta"] = {{"entries", meta.entries},         {"used_bytes", meta.used_bytes},
               {"total_bytes", meta.total_bytes}, {"commits", meta.commits},
               {"fences", meta.fences},           {"lines", meta.lines}};
  if (s.cluster != nullptr) j["cluster"] = status_of(*s.cluster);
  j["operations"] = operations(s);
  return j;
}

std::string size_text(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string text_of(const json& value) { return value.get<std::string>(); }

}  // namespace

std::string status_json(const Server& server) { return describe(server).dump(2) + "\n"; }

std::string status_text(const Server& server) {
  const json j = describe(server);
  std::string out;
  auto line = [&out](std::string_view name, const std::string& value) {
    fmt::format_to(std::back_inserter(out), "{:<13}{}\n", name, value);
  };
  const auto& pool = j["pool"];
  line("pool", fmt::format("{} ({}, version {}, {})", text_of(pool["path"]), text_of(pool["uuid"]),
                           pool["version"].get<unsigned>(), text_of(pool["file_system"])));
  if (const auto& space = j["space"]; !space.empty())
    line("space",
         fmt::format("{} used of {}, {} free", size_text(space["used_bytes"].get<double>()),
                     size_text(space["bytes"].get<double>()),
                     size_text(space["free_bytes"].get<double>())));
  line("nvram",
       fmt::format("{}, by {}; survives {}", text_of(j["nvram"]["kind"]),
                   text_of(j["nvram"]["persist_method"]), text_of(j["nvram"]["survives"])));
  line("passthrough", server.files.passthrough() ? "active" : "off: " + server.passthrough_reason);
  std::string note = server.transport_note.empty() ? "" : "; " + server.transport_note;
  line("transport", fmt::format("{}; gives up {}{}", text_of(j["transport"]["kind"]),
                                text_of(j["transport"]["gives_up"]), note));
  line("version", server.args.version);
  line("supervisor", fmt::format("pid {}", server.args.supervisor_pid));
  line("worker", fmt::format("pid {}, up {} s, {} restarts", getpid(),
                             j["worker"]["uptime_s"].get<std::uint64_t>(),
                             j["worker"]["restarts"].get<unsigned>()));
  const auto& files = j["files"];
  line("files",
       fmt::format("{} known, {} opens, {} registered", files["known"].get<std::uint64_t>(),
                   files["opens"].get<std::uint64_t>(), files["registered"].get<std::uint64_t>()));
  if (j.contains("cluster")) out += cluster_text(j["cluster"]);
  const auto& meta = j["meta"];
  line("metadata",
       fmt::format(
           "{} rows, {} of {}; {} commits, {} fences, {} lines",
           meta["entries"].get<std::uint64_t>(), size_text(meta["used_bytes"].get<double>()),
           size_text(meta["total_bytes"].get<double>()), meta["commits"].get<std::uint64_t>(),
           meta["fences"].get<std::uint64_t>(), meta["lines"].get<std::uint64_t>()));
  fmt::format_to(std::back_inserter(out), "\n{:<16}{:>10}{:>8}{:>10}{:>10}{:>10}{:>11}\n",
                 "operation", "count", "errors", "p50 us", "p90 us", "p99 us", "max us");
  for (const auto& [name, op] : j["operations"].items())
    fmt::format_to(std::back_inserter(out),
                   "{:<16}{:>10}{:>8}{:>10.1f}{:>10.1f}{:>10.1f}{:>11.1f}\n", name,
                   op["count"].get<std::uint64_t>(), op["errors"].get<std::uint64_t>(),
                   op["p50_us"].get<double>(), op["p90_us"].get<double>(),
                   op["p99_us"].get<double>(), op["max_us"].get<double>());
  return out;
}

std::string trace_text(const Server& server) {
  std::string out;
  for (const TraceRecord& record : server.metrics.trace()) {
    const auto seconds = static_cast<time_t>(record.when_ns / 1'000'000'000);
    fmt::format_to(std::back_inserter(out),
                   "{:%FT%T}.{:06}Z {:<15} {:>8} {:<16} {:>9.1f} us{} {}\n", fmt::gmtime(seconds),
                   record.when_ns % 1'000'000'000 / 1000, opcode_name(record.opcode), record.id,
                   record.result == 0 ? "ok" : strerrorname_np(record.result),
                   static_cast<double>(record.latency_ns) / 1000.0, record.resent ? " resent" : "",
                   record.name);
  }
  return out;
}

}  // namespace btd
