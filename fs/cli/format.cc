// btd format: makes a pool.
#include <fmt/format.h>

#include "fs/cli/command.h"
#include "fs/cli/config.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/paths.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "fs/pool/pool.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd format /mnt/pmem0/pool                      the NVRAM of a file system mounted with -o dax
  btd format /var/lib/bartender -e ram -s 1G      1 GiB of RAM that plays NVRAM
  btd format /var/lib/bartender -e disk -s 20G    an image file, for a machine without NVRAM

--emulate says what plays the NVRAM:
  none  POOL is on the file system that is to be used (the default)
  ram   a tmpfs of exactly SIZE; survives a crash of any process, not a power loss
  disk  an image file of exactly SIZE; survives both, and is slower)";

class FormatCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("POOL", pool_, "Directory that becomes the pool; made if it is missing");
    take.option("-s,--size", size_, "Capacity, as 512M or 1G");
    take.option("-e,--emulate", emulate_, "What plays the NVRAM: none, ram or disk");
    take.flag("--force", force_, "Format over an existing pool; all it holds is lost");
    take.examples(kExamples);
  }

  Result<int> run(const Globals& globals) override {
    BTD_ASSIGN(const Config config, load_config(globals.config));
    FormatOptions options = config.format;
    options.force = force_;
    if (!size_.empty()) {
      BTD_ASSIGN(options.capacity, parse_size(size_));
    }
    if (!emulate_.empty()) {
      const auto emulation = parse_emulation(emulate_);
      if (!emulation) {
        return fail(EINVAL, fmt::format("--emulate takes none, ram or disk, not '{}'", emulate_));
      }
      options.emulate = *emulation;
    }
    BTD_ASSIGN(const std::string pool, absolute_path(pool_));
    BTD_TRY(Pool::format(pool, options));
    return report(pool);
  }

 private:
  // Opened as a mount would open it: what the pool survives is decided by how it is mapped.
  static Result<int> report(const std::string& path) {
    BTD_ASSIGN(PoolLock lock, PoolLock::acquire(path));
    BTD_ASSIGN(const std::unique_ptr<Pool> pool, Pool::open(path, std::move(lock)));
    const PoolFacts& facts = pool->facts();
    fmt::print("{} {}: {} of NVRAM ({}), which survives {}.\n",
               paint(stdout, Colour::kGreen, "Formatted"), path, format_size(facts.capacity),
               facts.nvram, facts.survives);
    BTD_TRY(pool->close());
    fmt::print("Mount it with: btd mount {} DIR\n", path);
    return kExitOk;
  }

  std::string pool_, size_, emulate_;
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_format_command() { return std::make_unique<FormatCommand>(); }

}  // namespace btd::cli
