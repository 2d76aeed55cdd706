// kv: a key-value store that speaks the Redis protocol, and whose every change is durable before
// its reply. There is no log to replay and no snapshot to load: the table is used where it lies.
//
//   kv [--heap DIRECTORY/NAME] [--port NUMBER] [--bind ADDRESS]
#include <getopt.h>

#include <bartender.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "server.h"
#include "table.h"

namespace {

constexpr const char* kUsage =
    "usage: kv [--heap DIRECTORY/NAME] [--port NUMBER] [--bind ADDRESS]\n"
    "  --heap   where the store lies; made if absent (the user's default heap)\n"
    "  --port   0 takes a free one (6379)\n"
    "  --bind   an IPv4 address to listen on (127.0.0.1); there is no password\n";

struct Options {
  std::string heap;
  std::string address = "127.0.0.1";
  std::uint16_t port = 6379;
};

// False where the command line is wrong.
bool read_options(int argc, char** argv, Options& options) {
  static const option known[] = {{"heap", required_argument, nullptr, 'h'},
                                 {"port", required_argument, nullptr, 'p'},
                                 {"bind", required_argument, nullptr, 'b'},
                                 {nullptr, 0, nullptr, 0}};
  for (int each = 0; (each = getopt_long(argc, argv, "", known, nullptr)) != -1;) {
    char* end = nullptr;
    switch (each) {
      case 'h':
        options.heap = optarg;
        break;
      case 'b':
        options.address = optarg;
        break;
      case 'p': {
        const unsigned long port = std::strtoul(optarg, &end, 10);
        if (end == optarg || *end != '\0' || port > 65535) return false;
        options.port = static_cast<std::uint16_t>(port);
        break;
      }
      default:
        return false;
    }
  }
  return optind == argc;
}

btd::cluster open_heap(const std::string& path) {
  if (path.empty()) return {};
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  return btd::cluster(directory.c_str(), path.substr(slash + 1).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!read_options(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  try {
    btd::cluster heap = open_heap(options.heap);
    kv::Table table(heap, "kv");
    kv::Server server(table, options.address, options.port);
    std::printf("kv: %llu keys, listening on %s:%u\n",
                static_cast<unsigned long long>(table.size()), options.address.c_str(),
                server.port());
    std::fflush(stdout);
    server.run();
    heap.close();
  } catch (const std::exception& failed) {
    std::fprintf(stderr, "kv: %s\n", failed.what());
    return 1;
  }
}
