// btd heap ls: the heaps of a directory, those in use too.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "fs/cli/heap.h"
#include "fs/cli/paths.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd heap ls
  btd heap ls /srv/heaps
  btd heap ls --json | jq -r '.[] | select(.state == "not closed").name'

SIZE is what the arenas may hold, SPACE what they take on the file system, USED what blocks take,
WINDOW the address at which every process has the heap. STATE is clean, not closed (the next open
recovers it), open by a process, or damaged (`btd heap check` says how). The numbers of a heap in
use are those of a moment.)";

struct Row {
  std::string name, state;
  bool read = false;  // the rest is known
  std::int64_t pid = 0;
  std::uint64_t size = 0, space = 0, used = 0, arenas = 0, window = 0, generation = 0;
};

Row look(const std::string& path, const std::string& name) {
  Row row{.name = name, .state = "damaged"};
  const Result<std::unique_ptr<HeapImage>> opened = HeapImage::open(path);
  if (!opened) {
    if (opened.error().code == EACCES) row.state = "no permission";
    if (opened.error().code == EINVAL) row.state = "of another version";
    return row;
  }
  const HeapImage& image = **opened;
  row.read = true;
  row.state = image.in_use() ? "open" : state_of(image);
  row.pid = image.in_use() ? image.user() : 0;
  row.arenas = image.arenas();
  row.size = image.arenas() * image.arena_bytes();
  row.space = image.disk_bytes();
  row.window = image.address();
  row.generation = image.state() ? image.state()->generation : 0;
  const Census census = take_census(image);
  row.used = census.used_bytes;
  if (census.damaged != 0 && !image.in_use()) row.state = "damaged";
  return row;
}

class HeapLsCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("DIR", directory_, "Where the heaps lie; default: where single_node has them");
    take.flag("--json", json_, "As JSON, in bytes");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    if (directory_.empty()) {
      BTD_ASSIGN(directory_, default_heap_directory());
    }
    BTD_TRY(collect());
    json_ ? show_json() : show();
    return kExitOk;
  }

 private:
  Status collect() {
    std::error_code error;
    std::vector<std::string> names;
    for (std::filesystem::directory_iterator entry(directory_, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::string name = entry->path().filename();
      std::error_code unreadable;
      // A name with a dot is a heap that is being made.
      if (name.front() != '.' && std::filesystem::exists(entry->path() / "arena.0", unreadable))
        names.push_back(name);
    }
    if (error) {
      return fail(error.value(), fmt::format("{}: {}", directory_, error.message()));
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) rows_.push_back(look(directory_ + "/" + name, name));
    return {};
  }

  void show_json() const {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const Row& row : rows_) {
      nlohmann::ordered_json one = {{"name", row.name}, {"state", row.state}};
      if (row.pid > 0) one["pid"] = row.pid;
      if (row.read) {
        one["size"] = row.size;
        one["space"] = row.space;
        one["used"] = row.used;
        one["arenas"] = row.arenas;
        one["generation"] = row.generation;
        one["window"] = hex_address(row.window);
      }
      out.push_back(std::move(one));
    }
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  void show() const {
    std::vector<std::vector<std::string>> rows;
    for (const Row& row : rows_) {
      const auto known = [&](std::string text) { return row.read ? std::move(text) : "-"; };
      rows.push_back({row.name, known(format_size(row.size)), known(format_size(row.space)),
                      known(format_size(row.used)), known(fmt::format("{}", row.arenas)),
                      known(hex_address(row.window)),
                      row.pid > 0 ? fmt::format("open by process {}", row.pid) : row.state});
    }
    fmt::print("{}", format_table({{"NAME"},
                                   {"SIZE", true},
                                   {"SPACE", true},
                                   {"USED", true},
                                   {"ARENAS", true},
                                   {"WINDOW"},
                                   {"STATE"}},
                                  rows));
  }

  std::string directory_;
  bool json_ = false;
  std::vector<Row> rows_;
};

}  // namespace

std::unique_ptr<Command> make_heap_ls_command() { return std::make_unique<HeapLsCommand>(); }

}  // namespace btd::cli
