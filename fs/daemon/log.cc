#include "fs/daemon/log.h"

#include <fuse_log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>
#include <syslog.h>

#include <cstdarg>
#include <cstdio>
#include <string_view>

namespace btd {

namespace {

// libfuse's own messages, as ours.
void fuse_message(fuse_log_level level, const char* format, va_list arguments) {
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  std::string_view line(text);
  while (line.ends_with('\n')) line.remove_suffix(1);
  spdlog::log(level <= FUSE_LOG_ERR       ? spdlog::level::err
              : level <= FUSE_LOG_WARNING ? spdlog::level::warn
                                          : spdlog::level::debug,
              "{}", line);
}

}  // namespace

void start_log(const std::string& name, bool foreground, const std::string& level) {
  spdlog::sink_ptr sink;
  if (foreground) {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    sink->set_pattern("%Y-%m-%d %H:%M:%S.%e %n[%P] %l: %v");
  } else {
    sink = std::make_shared<spdlog::sinks::syslog_sink_mt>(name, LOG_PID, LOG_DAEMON, true);
    sink->set_pattern("%l: %v");
  }
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(name, std::move(sink)));
  if (!set_log_level(level)) spdlog::set_level(spdlog::level::info);
  fuse_set_log_func(fuse_message);
}

Status set_log_level(const std::string& level) {
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off")
    return fail(EINVAL, "unknown log level '" + level +
                            "'; use trace, debug, info, warn, error, critical or off");
  spdlog::set_level(parsed);
  return {};
}

}  // namespace btd
