// Check of a heap that no program has open, like fsck(8): identity, state, segment headers and
// bitmaps, journal, names, and what no root reaches.
//
// Works on a private copy, so that nothing changes; with repair the heap is then opened as a
// program would open it, recovered, closed, and looked at again. Damage is never guessed away: what
// a header said is in no other place.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "alloc/findings.h"
#include "alloc/result.h"

namespace btd {

// `repaired` counts findings.
struct HeapReport : CheckCounts {
  std::uint64_t arenas = 0;
  std::uint64_t segments = 0;
  std::uint64_t roots = 0;
  std::uint64_t types = 0;
  std::uint64_t recoverable_blocks = 0;
  std::uint64_t recoverable_bytes = 0;
  std::uint64_t transactional_blocks = 0;  // of contracts P and T, without the library's own
  std::uint64_t transactional_bytes = 0;
  std::uint64_t unreached_blocks = 0;  // R; the next reclaiming takes them
  std::uint64_t unreached_bytes = 0;
  std::uint64_t lost_blocks = 0;  // P and T that no root reaches, and R that only those reach
  std::uint64_t lost_bytes = 0;
};

struct HeapCheckOptions {
  bool repair = false;
  std::function<void(std::string_view phase)> progress;  // may be empty
};

// Errors are operational: no heap is there, a program has it open, it is of another version, it
// cannot be read. Damage is no error but a finding.
Result<HeapReport> check_heap(const std::string& path, const HeapCheckOptions& options);

// Reclaims what no root reaches, as a program would by btd_gc(), and closes the heap; returns the
// bytes. Errors: EBUSY; EUCLEAN; ENOENT; EADDRINUSE.
Result<std::uint64_t> reclaim_heap(const std::string& path);

}  // namespace btd
