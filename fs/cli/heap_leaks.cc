// btd heap leaks: what no root reaches, by size and, where it was recorded, by call site.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "fs/cli/heap.h"
#include "fs/cli/size.h"
#include "fs/cli/symbols.h"
#include "fs/cli/terminal.h"
#include "libbtd/tools/reach.h"
#include "libbtd/tools/sites.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd heap leaks default
  BTD_TRACK=1 ./program; btd heap leaks default
  btd heap leaks default --json | jq '.sites[0]'

unreached  objects of contract R that nothing reaches; the next reclaiming takes them
lost       blocks of contract P or T that no root reaches; nothing reclaims them but the program
held       objects of contract R that only lost blocks reach; they stay as long as those
With BTD_TRACK=1 in a program's environment each allocation is recorded with the place it was
called from, and leaks are shown by those places.)";

struct Sum {
  std::uint64_t blocks = 0, bytes = 0;
  void add(std::uint64_t size) {
    ++blocks;
    bytes += size;
  }
};

constexpr const char* kind_name(Leak kind) {
  switch (kind) {
    case Leak::kRecoverable:
      return "unreached";
    case Leak::kTransactional:
      return "lost";
    case Leak::kHeld:
      return "held";
  }
  return "";
}

struct Site {
  std::uint64_t site = 0;
  Sum sum;
  std::string where;
};

class HeapLeaksCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("HEAP", heap_, kHeapArgument);
    take.option("--max", max_, "Show so many call sites at most; 20", 1, kMaxAddresses);
    take.flag("--json", json_, "As JSON, in bytes");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::unique_ptr<HeapImage> image, open_idle(heap_));
    BTD_ASSIGN(sites_, Sites::open(image->path()));
    exact_ = image->state() && image->state()->clean;
    machine_stopped_ = !image->bits_hold();
    BTD_TRY(for_each_leak(*image, [this](const Slot& slot, Leak kind) { add(slot, kind); }));
    rank();
    json_ ? show_json() : show(image->path());
    return kExitOk;
  }

 private:
  void add(const Slot& slot, Leak kind) {
    kinds_[kind].add(slot.bytes());
    // Large extents are one class, whatever their size.
    const SegmentWord& word = slot.segment->word;
    classes_[{kind, slot.segment->large() ? 0 : slot.bytes()}].sum.add(slot.bytes());
    classes_[{kind, slot.segment->large() ? 0 : slot.bytes()}].name = class_name(word);
    if (sites_.recorded()) by_site_[sites_.of(slot.offset())].add(slot.bytes());
  }

  // The sites with most bytes, and words for them.
  void rank() {
    for (const auto& [site, sum] : by_site_)
      ranked_.push_back({.site = site, .sum = sum, .where = {}});
    std::sort(ranked_.begin(), ranked_.end(),
              [](const Site& a, const Site& b) { return a.sum.bytes > b.sum.bytes; });
    if (ranked_.size() > max_) ranked_.resize(static_cast<std::size_t>(max_));
    std::map<const Sites::Module*, std::vector<Site*>> by_module;
    for (Site& site : ranked_) by_module[sites_.module_of(site.site)].push_back(&site);
    for (const auto& [module, all] : by_module) describe(module, all);
  }

  static void describe(const Sites::Module* module, const std::vector<Site*>& sites) {
    std::vector<std::uint64_t> addresses;
    for (const Site* site : sites) addresses.push_back(Sites::address_of(site->site));
    std::vector<std::string> words(sites.size());
    // Of a file that changed since, the lines would be wrong.
    if (module != nullptr && module->same) words = symbolise(module->path, addresses);
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (module == nullptr) {
        sites[i]->where = "not recorded";
      } else {
        const std::string place = fmt::format("{}+{:#x}", module->path, addresses[i]);
        sites[i]->where = words[i].empty() ? place + (module->same ? "" : " (changed since)")
                                           : fmt::format("{} ({})", words[i], place);
      }
    }
  }

  void show_json() const {
    nlohmann::ordered_json out;
    out["exact"] = exact_;
    for (const Leak kind : {Leak::kRecoverable, Leak::kTransactional, Leak::kHeld}) {
      const auto found = kinds_.find(kind);
      const Sum sum = found == kinds_.end() ? Sum{} : found->second;
      out[kind_name(kind)] = {{"blocks", sum.blocks}, {"bytes", sum.bytes}};
    }
    out["classes"] = nlohmann::ordered_json::array();
    for (const auto& [key, row] : classes_) {
      out["classes"].push_back({{"kind", kind_name(key.first)},
                                {"class", row.name},
                                {"blocks", row.sum.blocks},
                                {"bytes", row.sum.bytes}});
    }
    out["recorded"] = sites_.recorded();
    out["forgotten"] = sites_.forgotten();
    out["sites"] = nlohmann::ordered_json::array();
    for (const Site& site : ranked_) {
      const Sites::Module* module = sites_.module_of(site.site);
      out["sites"].push_back({{"blocks", site.sum.blocks},
                              {"bytes", site.sum.bytes},
                              {"where", site.where},
                              {"module", module == nullptr ? nlohmann::ordered_json()
                                                           : nlohmann::ordered_json(module->path)},
                              {"address", hex_address(Sites::address_of(site.site))}});
    }
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  void show(const std::string& path) const {
    if (machine_stopped_) {
      fmt::print(
          "note: The machine stopped before the heap was closed; freed objects may be "
          "among these.\n");
    } else if (!exact_) {
      fmt::print(
          "note: The heap was not closed: a program died, and what its threads kept ready, at most "
          "127 objects of a class each, is among these.\n");
    }
    if (kinds_.empty()) {
      fmt::print("{}: {}\n", path, paint(stdout, Colour::kGreen, "no leaks"));
      return;
    }
    std::vector<std::vector<std::string>> rows;
    for (const auto& [key, row] : classes_) {
      rows.push_back({kind_name(key.first), row.name, fmt::format("{}", row.sum.blocks),
                      format_size(row.sum.bytes)});
    }
    fmt::print("{}", format_table({{"KIND"}, {"CLASS"}, {"BLOCKS", true}, {"BYTES", true}}, rows));
    show_sites();
    fmt::print("\n");
    for (const auto& [kind, sum] : kinds_) {
      fmt::print("{}: {} in {} blocks\n", kind_name(kind), format_size(sum.bytes), sum.blocks);
    }
  }

  void show_sites() const {
    if (!sites_.recorded()) {
      fmt::print("\nCall sites were not recorded; set BTD_TRACK=1 for the program.\n");
      return;
    }
    std::vector<std::vector<std::string>> rows;
    for (const Site& site : ranked_) {
      rows.push_back({fmt::format("{}", site.sum.blocks), format_size(site.sum.bytes), site.where});
    }
    fmt::print("\n{}", format_table({{"BLOCKS", true}, {"BYTES", true}, {"CALLED FROM"}}, rows));
    if (by_site_.size() > ranked_.size())
      fmt::print("and {} more call sites; --max shows more\n", by_site_.size() - ranked_.size());
    if (sites_.forgotten() != 0) {
      fmt::print("{} entries were forgotten, as the table was full; BTD_TRACK=N makes one of N\n",
                 sites_.forgotten());
    }
  }

  struct ClassRow {
    Sum sum;
    std::string name;
  };
  std::string heap_;
  std::uint64_t max_ = 20;
  bool json_ = false, exact_ = true, machine_stopped_ = false;
  Sites sites_;
  std::map<Leak, Sum> kinds_;
  std::map<std::pair<Leak, std::uint64_t>, ClassRow> classes_;
  std::map<std::uint64_t, Sum> by_site_;
  std::vector<Site> ranked_;
};

}  // namespace

std::unique_ptr<Command> make_heap_leaks_command() { return std::make_unique<HeapLeaksCommand>(); }

}  // namespace btd::cli
