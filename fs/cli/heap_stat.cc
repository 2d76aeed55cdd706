// btd heap stat: how the memory of a heap is used, as numbers and as pictures.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "alloc/journal.h"
#include "fs/cli/heap.h"
#include "fs/cli/heap_map.h"
#include "fs/cli/paths.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd heap stat default
  btd heap stat default --map
  btd heap stat default --svg heap.svg
  btd heap stat /srv/heaps/index --json | jq '.classes[] | select(.used < .slots / 2)'

R is memory of btd_malloc and its kin; T that of contracts P and T, the library's own included.
FRAGMENTED is what is free inside segments that are in use. A heap that a program has open is
counted as it lies there at the moment; roots, types and the journal are then not read.)";

// What only a heap that no program has open tells.
struct Inside {
  std::uint64_t roots = 0, types = 0, replay = 0;
};

nlohmann::ordered_json row_of(char contract, const Census::Use& use, std::uint64_t bytes) {
  return {{"contract", std::string(1, contract)},
          {"bytes", bytes},
          {"segments", use.segments},
          {"slots", use.slots},
          {"used", use.used}};
}

std::string percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? "-" : fmt::format("{}%", (part * 100 + whole / 2) / whole);
}

class HeapStatCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("HEAP", heap_, kHeapArgument);
    take.flag("--map", map_, "Draw the segments, a character each");
    take.option("--svg", svg_, "Draw them into this file, as SVG");
    take.flag("--json", json_, "As JSON, in bytes");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::string path, heap_path(heap_));
    BTD_ASSIGN(image_, HeapImage::open(path));
    if (!image_->in_use()) BTD_TRY(look_inside());
    census_ = take_census(*image_);
    if (!svg_.empty()) BTD_TRY(write_svg());
    json_ ? show_json() : show();
    if (map_ && !json_) fmt::print("\n{}", text_map(*image_, has_colours(stdout)));
    return kExitOk;
  }

 private:
  Status look_inside() {
    BTD_TRY(image_->replay());
    Inside inside;
    BTD_ASSIGN(const auto roots, image_->names().roots());
    BTD_ASSIGN(const auto types, image_->names().layouts());
    inside.roots = roots.size();
    for (const auto& type : types) inside.types += type == nullptr ? 0 : 1;
    inside.replay = image_->heap().stats().recovery.records;
    inside_ = inside;
    return {};
  }

  Status write_svg() const {
    std::ofstream file(svg_, std::ios::binary | std::ios::trunc);
    file << svg_map(*image_);
    file.close();
    if (file) return {};
    return fail(EIO, fmt::format("{} cannot be written; name a file that can", svg_));
  }

  void show_json() const {
    const ArenaIdentity& identity = image_->identity();
    nlohmann::ordered_json out = {
        {"name", image_->name()},
        {"path", image_->path()},
        {"state", image_->in_use() ? "open" : state_of(*image_)},
        {"pid",
         image_->user() > 0 && image_->in_use() ? nlohmann::ordered_json(image_->user()) : nullptr},
        {"version", std::uint32_t{identity.version}},
        {"generation", image_->state() ? image_->state()->generation : 0},
        {"window", hex_address(image_->address())},
        {"arenas", image_->arenas()},
        {"arena_bytes", image_->arena_bytes()},
        {"space", image_->disk_bytes()},
        {"segments", census_.total_segments},
        {"free_segments", census_.free_segments},
        {"free_runs", census_.free_runs},
        {"longest_free_run", census_.longest_run},
        {"damaged_segments", census_.damaged},
        {"used", census_.used_bytes},
        {"in_segments", census_.segment_bytes()},
        {"free_inside_segments", census_.inside_bytes()}};
    out["journal"] = {{"lanes", std::uint32_t{identity.lanes}},
                      {"lane_bytes", std::uint64_t{identity.lane_bytes}},
                      {"to_replay", inside_ ? nlohmann::ordered_json(inside_->replay) : nullptr}};
    out["roots"] = inside_ ? nlohmann::ordered_json(inside_->roots) : nullptr;
    out["types"] = inside_ ? nlohmann::ordered_json(inside_->types) : nullptr;
    out["classes"] = nlohmann::ordered_json::array();
    for_each_class([&](char contract, std::size_t size_class, const Census::Use& use) {
      out["classes"].push_back(row_of(contract, use, kSizeClasses.at(size_class).bytes));
    });
    out["large"] = {{"recoverable", census_.large[1].used},
                    {"transactional", census_.large[0].used},
                    {"bytes", census_.large_bytes}};
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  template <class Visit>
  void for_each_class(Visit&& visit) const {
    for (const std::size_t contract : {1U, 0U}) {
      for (std::size_t i = 0; i < kClasses; ++i) {
        const Census::Use& use = census_.classes.at(contract).at(i);
        if (use.segments != 0) visit(contract == 1 ? 'R' : 'T', i, use);
      }
    }
  }

  void show() const {
    const std::uint64_t total = census_.total_segments * kSegmentBytes;
    fmt::print("{}: {}\n", image_->path(), state_of(*image_));
    fmt::print("{} arenas of {} at {}, {} on the file system; opened {} times\n", image_->arenas(),
               format_size(image_->arena_bytes()), hex_address(image_->address()),
               format_size(image_->disk_bytes()),
               image_->state() ? image_->state()->generation : 0);
    fmt::print("{} in blocks, {} in segments of {}\n", format_size(census_.used_bytes),
               format_size(census_.segment_bytes()), format_size(total));
    fmt::print("fragmented: {} ({} of segments in use); free runs: {}, the longest {}\n",
               format_size(census_.inside_bytes()),
               percent(census_.inside_bytes(), census_.segment_bytes()), census_.free_runs,
               format_size(census_.longest_run * kSegmentBytes));
    if (census_.damaged != 0) {
      fmt::print("{} segments are damaged; `btd heap check` says how\n",
                 paint(stdout, Colour::kRed, fmt::format("{}", census_.damaged)));
    }
    fmt::print("journal: {} lanes of {}", std::uint32_t{image_->identity().lanes},
               format_size(image_->identity().lane_bytes));
    if (inside_) {
      fmt::print(", {} records to replay; {} roots, {} types", inside_->replay, inside_->roots,
                 inside_->types);
    }
    fmt::print("\n");
    show_classes();
  }

  void show_classes() const {
    std::vector<std::vector<std::string>> rows;
    for_each_class([&](char contract, std::size_t size_class, const Census::Use& use) {
      const std::uint64_t bytes = kSizeClasses.at(size_class).bytes;
      rows.push_back({std::string(1, contract), format_size(bytes), fmt::format("{}", use.segments),
                      fmt::format("{}", use.used), fmt::format("{}", use.slots),
                      percent(use.used, use.slots), format_size(use.used * bytes)});
    });
    for (const std::size_t contract : {1U, 0U}) {
      const Census::Use& use = census_.large.at(contract);
      if (use.segments == 0) continue;
      rows.push_back({contract == 1 ? "R" : "T", "large", fmt::format("{}", use.segments),
                      fmt::format("{}", use.used), fmt::format("{}", use.slots),
                      percent(use.used, use.slots), format_size(use.segments * kSegmentBytes)});
    }
    if (rows.empty()) return;
    fmt::print("\n{}", format_table({{"CONTRACT"},
                                     {"CLASS", true},
                                     {"SEGMENTS", true},
                                     {"USED", true},
                                     {"SLOTS", true},
                                     {"FULL", true},
                                     {"BYTES", true}},
                                    rows));
  }

  std::string heap_, svg_;
  bool map_ = false, json_ = false;
  std::unique_ptr<HeapImage> image_;
  std::optional<Inside> inside_;
  Census census_;
};

}  // namespace

std::unique_ptr<Command> make_heap_stat_command() { return std::make_unique<HeapStatCommand>(); }

}  // namespace btd::cli
