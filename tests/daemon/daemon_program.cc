// The smallest program around the daemon's library, for its tests and measurements:
//   daemon_program format POOL | mount POOL DIR [option...] | worker ARGUMENT | notifier ARGUMENT
// Options: -f, no_passthrough, io_uring, threads=N, spin=US, idle_ids=N, level=L, or as of
// mount(8).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "fs/daemon/daemon.h"
#include "fs/daemon/notifier.h"
#include "fs/pool/pool.h"

namespace {

int report(const btd::Result<int>& result) {
  if (result) return *result;
  std::fprintf(stderr, "daemon_program: %s\n",
               result.error().message.empty() ? std::strerror(result.error().code)
                                              : result.error().message.c_str());
  return 1;
}

void set_option(btd::MountOptions& options, const std::string& word) {
  const auto value = [&word](const char* name) -> const char* {
    const std::size_t length = std::strlen(name);
    return word.starts_with(name) ? word.c_str() + length : nullptr;
  };
  if (word == "-f") {
    options.foreground = true;
  } else if (word == "no_passthrough") {
    options.passthrough = false;
  } else if (word == "io_uring") {
    options.io_uring = true;
  } else if (const char* threads = value("threads=")) {
    options.threads = static_cast<unsigned>(std::atoi(threads));
  } else if (const char* spin = value("spin=")) {
    options.spin_us = std::atoi(spin);
  } else if (const char* idle = value("idle_ids=")) {
    options.idle_ids = static_cast<unsigned>(std::atoi(idle));
  } else if (const char* level = value("level=")) {
    options.log_level = level;
  } else {
    options.kernel_options.push_back(word);
  }
}

int format(const char* path) {
  const auto formatted = btd::Pool::format(path, {});
  if (formatted) return 0;
  return report(std::unexpected(formatted.error()));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "format" && argc == 3) return format(argv[2]);
  if (command == "worker" && argc == 3) {
    const auto args = btd::WorkerArgs::parse(argv[2]);
    return args ? report(btd::run_worker(*args)) : report(std::unexpected(args.error()));
  }
  if (command == "notifier" && argc == 3) {
    const auto args = btd::NotifierArgs::parse(argv[2]);
    return args ? report(btd::run_notifier(*args)) : report(std::unexpected(args.error()));
  }
  if (command != "mount" || argc < 4) return 2;
  btd::MountOptions options;
  options.pool = argv[2];
  options.mountpoint = argv[3];
  options.version = "test";
  options.reload_log_level = [] { return std::string("debug"); };
  for (int i = 4; i < argc; ++i) set_option(options, argv[i]);
  return report(btd::run_supervisor(options));
}
