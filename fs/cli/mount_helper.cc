// mount.bartender: what mount(8) runs for `mount -t bartender POOL DIR` and for fstab.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "fs/cli/command.h"
#include "fs/cli/config.h"
#include "fs/cli/mount_args.h"
#include "fs/cli/mount_run.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

// The exit codes of mount(8).
constexpr int kMounted = 0;
constexpr int kWrongUsage = 1;
constexpr int kMountFailed = 32;

struct HelperArgs {
  std::vector<std::string> paths;
  std::vector<std::string> options;
  Unknown unknown = Unknown::kRefuse;
  bool fake = false;
  bool verbose = false;
};

Result<HelperArgs> parse_helper_args(int argc, char** argv) {
  HelperArgs args;
  // mount(8) puts the paths first and the flags after them; getopt permutes both ways.
  ::opterr = 0;
  for (int flag = 0;
       (flag = ::getopt(argc, argv, "sfnvo:t:N:")) != -1;) {  // NOLINT(concurrency-mt-unsafe)
    switch (flag) {
      case 's':
        args.unknown = Unknown::kIgnore;
        break;
      case 'f':
        args.fake = true;
        break;
      case 'v':
        args.verbose = true;
        break;
      case 'o':
        args.options.emplace_back(::optarg);
        break;
      case 'n':  // no mtab: there is none to write
      case 't':  // the type it was called for
      case 'N':  // mount(8) has entered the namespace already
        break;
      default:
        return fail(EINVAL, fmt::format("-{} is no flag that mount(8) passes", char(::optopt)));
    }
  }
  args.paths.assign(argv + ::optind, argv + argc);
  if (args.paths.size() != 2) {
    return fail(EINVAL, "name the pool and the directory: mount -t bartender POOL DIR");
  }
  return args;
}

// The first error is one of usage, what follows is one of the mount itself.
Result<int> mount_as_helper(const HelperArgs& args, MountOptions options) {
  options.pool = args.paths[0];
  options.mountpoint = args.paths[1];
  if (args.verbose) fmt::print("mount.bartender: {} on {}\n", options.pool, options.mountpoint);
  if (args.fake) return kMounted;
  return mount_pool(std::move(options), std::nullopt);
}

Result<MountOptions> helper_options(const HelperArgs& args) {
  BTD_ASSIGN(Config config, load_config(std::nullopt));
  for (const std::string& list : args.options) {
    BTD_TRY(apply_mount_options(list, args.unknown, config.mount));
  }
  return std::move(config.mount);
}

}  // namespace

int run_mount_helper(int argc, char** argv) {
  const auto complain = [](const Error& error, int code) {
    print_error("mount.bartender", error.message);
    return code;
  };
  const Result<HelperArgs> args = parse_helper_args(argc, argv);
  if (!args) return complain(args.error(), kWrongUsage);
  Result<MountOptions> options = helper_options(*args);
  if (!options) return complain(options.error(), kWrongUsage);
  const Result<int> mounted = mount_as_helper(*args, *std::move(options));
  if (!mounted) return complain(mounted.error(), kMountFailed);
  return *mounted == 0 ? kMounted : kMountFailed;
}

}  // namespace btd::cli
