// What the supervisor tells its children, each as one argument of a command line.
#include <charconv>
#include <nlohmann/json.hpp>

#include "fs/daemon/daemon.h"
#include "fs/daemon/notifier.h"

namespace btd {

namespace {

// A path may be any bytes and JSON is UTF-8, so each byte travels as the character of that number.
std::string pack(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      text.push_back(c);
    } else {
      text.push_back(static_cast<char>(0xc0 | byte >> 6));
      text.push_back(static_cast<char>(0x80 | (byte & 0x3f)));
    }
  }
  return text;
}

std::string unpack(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80 || i + 1 == text.size()) {
      bytes.push_back(text[i]);
    } else {
      const auto next = static_cast<unsigned char>(text[++i]);
      bytes.push_back(static_cast<char>((lead & 0x03) << 6 | (next & 0x3f)));
    }
  }
  return bytes;
}

}  // namespace

std::string WorkerArgs::to_argument() const {
  const nlohmann::json j = {{"pool", pack(pool)},       {"mountpoint", pack(mountpoint)},
                            {"cluster", pack(cluster)}, {"log_level", log_level},
                            {"version", version},       {"foreground", foreground},
                            {"io_uring", io_uring},     {"passthrough", passthrough},
                            {"threads", threads},       {"spin_us", spin_us},
                            {"idle_ids", idle_ids},     {"share_processor", share_processor},
                            {"control_fd", control_fd}, {"lock_fd", lock_fd},
                            {"state_fd", state_fd},     {"supervisor_pid", supervisor_pid}};
  return j.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

Result<WorkerArgs> WorkerArgs::parse(std::string_view argument) {
  const auto j = nlohmann::json::parse(argument, nullptr, false);
  if (!j.is_object()) return fail(EINVAL, "'btd worker' is started by 'btd mount', not by people");
  WorkerArgs args;
  try {
    args.pool = unpack(j.at("pool").get<std::string>());
    args.mountpoint = unpack(j.at("mountpoint").get<std::string>());
    args.cluster = unpack(j.value("cluster", ""));
    args.log_level = j.value("log_level", "info");
    args.version = j.value("version", "unknown");
    args.foreground = j.value("foreground", false);
    args.io_uring = j.value("io_uring", false);
    args.passthrough = j.value("passthrough", true);
    args.threads = j.value("threads", 0U);
    args.spin_us = j.value("spin_us", -1);
    args.idle_ids = j.value("idle_ids", 0U);
    args.share_processor = j.value("share_processor", true);
    args.control_fd = j.at("control_fd").get<int>();
    args.lock_fd = j.at("lock_fd").get<int>();
    args.state_fd = j.at("state_fd").get<int>();
    args.supervisor_pid = j.value("supervisor_pid", 0);
  } catch (const nlohmann::json::exception&) {
    return fail(EINVAL, "'btd worker' got arguments of another version of 'btd mount'");
  }
  return args;
}

std::string NotifierArgs::to_argument() const {
  std::string text;
  for (const long number : {static_cast<long>(fuse_fd), static_cast<long>(socket),
                            static_cast<long>(lifeline), static_cast<long>(connection)})
    text += std::to_string(number) + " ";
  return text + mountpoint;
}

Result<NotifierArgs> NotifierArgs::parse(std::string_view argument) {
  NotifierArgs args;
  const auto take = [&argument](auto& number) {
    const auto [end, error] =
        std::from_chars(argument.data(), argument.data() + argument.size(), number);
    const bool is_good = error == std::errc{} && end != argument.data() + argument.size();
    if (is_good) argument.remove_prefix(static_cast<std::size_t>(end - argument.data()) + 1);
    return is_good;
  };
  if (!take(args.fuse_fd) || !take(args.socket) || !take(args.lifeline) || !take(args.connection))
    return fail(EINVAL, "`btd notifier` is started by `btd mount` alone");
  args.mountpoint = argument;
  return args;
}

}  // namespace btd
