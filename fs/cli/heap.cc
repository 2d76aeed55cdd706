// btd heap: the table of its commands, and what they share.
#include "fs/cli/heap.h"

#include <fmt/format.h>

#include <vector>

#include "fs/cli/command_group.h"
#include "fs/cli/paths.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "libbtd/placement.h"
#include "libbtd/tools/heap_check.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd heap ls                      the heaps of this user
  btd heap stat default --map      how full each size class is, and where
  btd heap check /srv/heaps/index  verify a heap that no program has open
  btd heap leaks default           what no root reaches, by size and by call site
  btd heap dump default --root index

HEAP is the path of a heap's directory, or the name of one where programs with single_node = 1
have theirs: $BTD_POOL, else a mount at /mnt/bartender, else /dev/shm/bartender-UID.
`btd heap COMMAND --help` explains each; btd-heap.1 explains the rest.)";

constexpr const char* kGcExamples = R"(Examples:
  btd heap gc default
  btd heap gc /srv/heaps/index

Frees the objects of contract R that no root and no block of contract P or T reaches, and closes
the heap cleanly. No program may have it open. What is reachable only from memory of a process is
lost, as it is when that process ends.)";

class HeapGcCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("HEAP", heap_, kHeapArgument);
    take.examples(kGcExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::string path, heap_path(heap_));
    BTD_ASSIGN(const std::uint64_t bytes, reclaim_heap(path));
    fmt::print("{}: {} {}\n", path, format_size(bytes),
               bytes == 0 ? "to reclaim" : paint(stdout, Colour::kGreen, "reclaimed"));
    return kExitOk;
  }

 private:
  std::string heap_;
};

}  // namespace

Result<std::string> default_heap_directory() {
  btd_config config{};
  config.single_node = 1;
  BTD_ASSIGN(const Settings settings, read_config(config));
  return settings.directory;
}

Result<std::string> heap_path(const std::string& heap) {
  if (heap.find('/') != std::string::npos) return absolute_path(heap);
  if (heap.empty()) return fail(EINVAL, "HEAP is empty; name a heap, or its directory");
  BTD_ASSIGN(const std::string directory, default_heap_directory());
  return absolute_path(directory + "/" + heap);
}

Result<std::unique_ptr<HeapImage>> open_idle(const std::string& heap) {
  BTD_ASSIGN(const std::string path, heap_path(heap));
  BTD_ASSIGN(std::unique_ptr<HeapImage> image, HeapImage::open(path));
  BTD_TRY(image->replay());
  return image;
}

std::string state_of(const HeapImage& image) {
  if (image.in_use()) {
    return image.user() > 0 ? fmt::format("open by process {}", image.user()) : "open";
  }
  if (!image.state()) return "damaged";
  return image.state()->clean ? "clean" : "not closed";
}

std::string class_name(const SegmentWord& word) {
  const char contract = word.contract == Contract::kRecoverable ? 'R' : 'T';
  if (word.kind == SegmentKind::kLarge) return fmt::format("{} large", contract);
  return fmt::format("{} {} B", contract, kSizeClasses.at(word.size_class).bytes);
}

std::string hex_address(std::uint64_t address) { return fmt::format("{:#x}", address); }

std::unique_ptr<Command> make_heap_gc_command() { return std::make_unique<HeapGcCommand>(); }
std::unique_ptr<Command> make_heap_command() {
  return std::make_unique<CommandGroup>(
      std::vector<CommandGroup::Entry>{
          {"ls", "List the heaps of a directory", make_heap_ls_command},
          {"stat", "How a heap's memory is used, as numbers and as a picture",
           make_heap_stat_command},
          {"check", "Verify a heap, and recover it", make_heap_check_command},
          {"leaks", "What no root reaches, by size and by call site", make_heap_leaks_command},
          {"gc", "Reclaim now what no root reaches", make_heap_gc_command},
          {"dump", "List reachable objects with their first bytes", make_heap_dump_command}},
      kExamples);
}

}  // namespace btd::cli
