#include "commands.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <exception>
#include <new>

#include "resp.h"

namespace kv {
namespace {

constexpr std::size_t kMaxScanCount = 10'000;
constexpr std::size_t kMaxReplyBytes = 4 * 1024 * 1024;

using Request = std::vector<std::string_view>;

struct Command {
  std::string_view name;
  int arity;  // with the name; negative: at least so many
  std::string_view flag;
  int first_key, last_key, step;
  void (*run)(Table& table, const Request& request, std::string& reply);
};

bool same_word(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

void ping(Table&, const Request& request, std::string& reply) {
  if (request.size() > 2) return reply_error(reply, "ERR wrong number of arguments for 'ping'");
  if (request.size() == 2) return reply_bulk(reply, request[1]);
  reply_simple(reply, "PONG");
}

void get(Table& table, const Request& request, std::string& reply) {
  const std::optional<std::string_view> value = table.get(request[1]);
  value ? reply_bulk(reply, *value) : reply_null(reply);
}

void set(Table& table, const Request& request, std::string& reply) {
  if (request.size() > 3) {
    return reply_error(reply, "ERR syntax error: this store knows SET without options only");
  }
  if (request[1].size() > Table::kMaxKeyBytes) {
    return reply_error(reply, "ERR a key has at most 65536 bytes");
  }
  table.set(request[1], request[2]);
  reply_simple(reply, "OK");
}

void del(Table& table, const Request& request, std::string& reply) {
  std::int64_t removed = 0;
  for (std::size_t i = 1; i < request.size(); ++i) removed += table.remove(request[i]) ? 1 : 0;
  reply_integer(reply, removed);
}

void exists(Table& table, const Request& request, std::string& reply) {
  std::int64_t found = 0;
  for (std::size_t i = 1; i < request.size(); ++i) found += table.get(request[i]) ? 1 : 0;
  reply_integer(reply, found);
}

void dbsize(Table& table, const Request&, std::string& reply) {
  reply_integer(reply, static_cast<std::int64_t>(table.size()));
}

template <class Number>
bool read_number(std::string_view text, Number& number) {
  const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return code == std::errc{} && stop == text.data() + text.size();
}

void scan(Table& table, const Request& request, std::string& reply) {
  std::uint64_t cursor = 0;
  std::size_t count = 10;
  std::string_view pattern = "*";
  if (!read_number(request[1], cursor)) return reply_error(reply, "ERR invalid cursor");
  for (std::size_t i = 2; i < request.size(); i += 2) {
    if (i + 1 == request.size()) return reply_error(reply, "ERR syntax error");
    if (same_word(request[i], "match")) {
      pattern = request[i + 1];
    } else if (same_word(request[i], "count")) {
      if (!read_number(request[i + 1], count) || count == 0) {
        return reply_error(reply, "ERR value is not an integer or out of range");
      }
    } else {
      return reply_error(reply, "ERR syntax error: SCAN knows MATCH and COUNT");
    }
  }
  std::vector<std::string_view> keys;
  cursor = table.scan(cursor, std::min(count, kMaxScanCount), keys);
  std::erase_if(keys, [&](std::string_view key) { return !matches(pattern, key); });
  reply_array(reply, 2);
  reply_bulk(reply, std::to_string(cursor));
  reply_array(reply, keys.size());
  for (const std::string_view key : keys) reply_bulk(reply, key);
}

// What redis-benchmark asks: there are no snapshots and no log of commands, for every change is
// durable before its reply. Of all other parameters, none is there.
void config(Table&, const Request& request, std::string& reply) {
  if (!same_word(request[1], "get") || request.size() < 3) {
    return reply_error(reply, "ERR this store knows CONFIG GET only");
  }
  std::vector<std::pair<std::string_view, std::string_view>> found;
  for (const auto& [name, value] :
       {std::pair<std::string_view, std::string_view>{"save", ""}, {"appendonly", "no"}}) {
    for (std::size_t i = 2; i < request.size(); ++i) {
      if (!matches(request[i], name)) continue;
      found.emplace_back(name, value);
      break;
    }
  }
  reply_array(reply, 2 * found.size());
  for (const auto& [name, value] : found) {
    reply_bulk(reply, name);
    reply_bulk(reply, value);
  }
}

void echo(Table&, const Request& request, std::string& reply) { reply_bulk(reply, request[1]); }
void quit(Table&, const Request&, std::string& reply) { reply_simple(reply, "OK"); }
void command(Table&, const Request& request, std::string& reply);

constexpr Command kCommands[] = {
    {"ping", -1, "fast", 0, 0, 0, ping},          {"echo", 2, "fast", 0, 0, 0, echo},
    {"get", 2, "readonly", 1, 1, 1, get},         {"set", -3, "write", 1, 1, 1, set},
    {"del", -2, "write", 1, -1, 1, del},          {"exists", -2, "readonly", 1, -1, 1, exists},
    {"scan", -2, "readonly", 0, 0, 0, scan},      {"dbsize", 1, "readonly", 0, 0, 0, dbsize},
    {"command", -1, "loading", 0, 0, 0, command}, {"config", -2, "admin", 0, 0, 0, config},
    {"quit", -1, "fast", 0, 0, 0, quit},
};

void describe(const Command& each, std::string& reply) {
  reply_array(reply, 6);
  reply_bulk(reply, each.name);
  reply_integer(reply, each.arity);
  reply_array(reply, 1);
  reply_simple(reply, each.flag);
  reply_integer(reply, each.first_key);
  reply_integer(reply, each.last_key);
  reply_integer(reply, each.step);
}

void command(Table&, const Request& request, std::string& reply) {
  const std::string_view what = request.size() > 1 ? request[1] : std::string_view();
  if (same_word(what, "count")) return reply_integer(reply, std::size(kCommands));
  if (same_word(what, "docs")) return reply_array(reply, 0);  // there are none
  if (!what.empty()) return reply_error(reply, "ERR this store knows COMMAND, COUNT and DOCS");
  reply_array(reply, std::size(kCommands));
  for (const Command& each : kCommands) describe(each, reply);
}

void run(Table& table, const Request& request, std::string& reply) {
  const auto* const found =
      std::find_if(std::begin(kCommands), std::end(kCommands),
                   [&](const Command& each) { return same_word(each.name, request[0]); });
  if (found == std::end(kCommands)) {
    return reply_error(reply,
                       "ERR unknown command '" + std::string(request[0].substr(0, 64)) + "'");
  }
  const int count = static_cast<int>(request.size());
  if (found->arity >= 0 ? count != found->arity : count < -found->arity) {
    return reply_error(reply,
                       "ERR wrong number of arguments for '" + std::string(found->name) + "'");
  }
  found->run(table, request, reply);
}

}  // namespace

bool execute(Table& table, const Request& request, std::string& reply) {
  const std::size_t before = reply.size();
  try {
    run(table, request, reply);
    if (reply.size() - before <= kMaxReplyBytes) return same_word(request[0], "quit");
    reply.resize(before);
    reply_error(reply, "ERR the reply is larger than 4 MiB; ask for less, as by a smaller COUNT");
  } catch (const std::bad_alloc&) {
    reply.resize(before);
    reply_error(reply, "OOM the heap is full; delete keys, or give it more room.");
  } catch (const std::exception& failed) {
    reply.resize(before);
    reply_error(reply, std::string("ERR ") + failed.what());
  }
  return false;
}

}  // namespace kv
