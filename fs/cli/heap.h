// What the commands of `btd heap` share: which heap is meant, and words for what it is.
#pragma once

#include <memory>
#include <string>

#include "fs/cli/command.h"
#include "libbtd/tools/census.h"
#include "libbtd/tools/heap_image.h"

namespace btd::cli {

std::unique_ptr<Command> make_heap_ls_command();
std::unique_ptr<Command> make_heap_stat_command();
std::unique_ptr<Command> make_heap_check_command();
std::unique_ptr<Command> make_heap_leaks_command();
std::unique_ptr<Command> make_heap_gc_command();
std::unique_ptr<Command> make_heap_dump_command();

// Where a program with single_node = 1 has its heaps.
[[nodiscard]] Result<std::string> default_heap_directory();

// HEAP: the path of its directory if there is a '/' in it, else a name in the default directory.
[[nodiscard]] Result<std::string> heap_path(const std::string& heap);

// Opened and replayed. Errors: as HeapImage; EBUSY a program has it open.
[[nodiscard]] Result<std::unique_ptr<HeapImage>> open_idle(const std::string& heap);

// "clean", "not closed", "open by process 7", "damaged".
[[nodiscard]] std::string state_of(const HeapImage& image);

// "R 112 B", "T large": what a block of it is counted under.
[[nodiscard]] std::string class_name(const SegmentWord& word);

// "0x200000300000".
[[nodiscard]] std::string hex_address(std::uint64_t address);

inline constexpr const char* kHeapArgument =
    "A heap's directory, or the name of one in the default directory";

}  // namespace btd::cli
