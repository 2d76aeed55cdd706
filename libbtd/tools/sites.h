// Sites: reads what BTD_TRACK recorded beside a heap (libbtd/track.h). Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "alloc/layout.h"
#include "alloc/result.h"
#include "libbtd/track.h"

namespace btd {

class Sites {
 public:
  // Empty where nothing was recorded. Errors: EUCLEAN the file is no table of ours; EIO.
  static Result<Sites> open(const std::string& heap_path);

  struct Module {
    std::string path;
    bool same = false;  // the file there is the one that ran
  };
  [[nodiscard]] bool recorded() const { return !entries_.empty(); }
  [[nodiscard]] const std::vector<Module>& modules() const { return modules_; }
  [[nodiscard]] std::uint64_t forgotten() const { return forgotten_; }
  // As TrackEntry::site; 0: not known.
  [[nodiscard]] std::uint64_t of(Offset block) const;
  // Its module, or null, and the address in that.
  [[nodiscard]] const Module* module_of(std::uint64_t site) const;
  [[nodiscard]] static std::uint64_t address_of(std::uint64_t site) {
    return site & ((std::uint64_t{1} << TrackEntry::kModuleShift) - 1);
  }

 private:
  std::vector<Module> modules_;
  std::vector<TrackEntry> entries_;
  std::uint64_t forgotten_ = 0;
};

}  // namespace btd
