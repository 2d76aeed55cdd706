// Track: which call allocated which block, in a file beside the heap, when BTD_TRACK is set.
//
// One entry for each address that was handed out: the return address of the last allocation there,
// as a place in a module. Nothing is taken away by a free: who reads the table asks only for blocks
// that are allocated. The table is bounded (a million entries, or as many as BTD_TRACK says); full,
// it forgets the entry in the way and counts that. It is transient: nothing is flushed, and a heap
// without it is whole. Thread-safety: note() from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "alloc/layout.h"
#include "alloc/result.h"

namespace btd {

inline constexpr std::uint64_t kTrackMagic = 0x4B4341522D445442;  // "BTD-RACK"
inline constexpr std::uint32_t kTrackVersion = 1;
inline constexpr const char* kTrackFile = "track";
inline constexpr std::uint32_t kTrackModules = 256;
inline constexpr std::uint64_t kTrackMaxEntries = 1U << 26;
inline constexpr std::uint64_t kTrackProbe = 16;  // places an entry may be in

struct TrackHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::uint32_t modules = 0;
  std::uint64_t entries = 0;    // a power of two
  std::uint64_t forgotten = 0;  // entries that gave way to others
  std::uint8_t pad[4064] = {};
};
static_assert(sizeof(TrackHeader) == 4096);

// A program or library, and which build of it.
struct TrackModule {
  std::uint64_t bytes = 0;
  std::int64_t changed = 0;  // nanoseconds
  char path[496] = {};
};
static_assert(sizeof(TrackModule) == 512);

struct TrackEntry {
  std::uint64_t block = 0;  // offset; 0: free
  std::uint64_t site = 0;   // module in the upper 16 bits, address in it below

  static constexpr unsigned kModuleShift = 48;
};
static_assert(sizeof(TrackEntry) == 16);

[[nodiscard]] constexpr std::uint64_t track_file_bytes(std::uint64_t entries) {
  return sizeof(TrackHeader) + kTrackModules * sizeof(TrackModule) + entries * sizeof(TrackEntry);
}
// Where the search for a block's entry begins.
[[nodiscard]] constexpr std::uint64_t track_place(Offset block, std::uint64_t entries) {
  return (block / 16 * 0x9E3779B97F4A7C15) >> 20 & (entries - 1);
}

class Track {
 public:
  // Null where BTD_TRACK is not set, and where not `alone` and others record in a table of another
  // size. Errors: EINVAL it is no number; what the file met.
  static Result<std::unique_ptr<Track>> open_if_wanted(int dirfd, bool alone);
  ~Track();
  Track(const Track&) = delete;
  Track& operator=(const Track&) = delete;

  void note(Offset block, const void* return_address);

 private:
  Track() = default;
  std::uint64_t site_of(const void* return_address);
  std::uint64_t find_site(const void* return_address);

  TrackHeader* header_ = nullptr;  // the mapped file
  TrackModule* modules_ = nullptr;
  TrackEntry* entries_ = nullptr;
  std::uint64_t mapped_ = 0;
  std::shared_mutex mutex_;  // sites_, modules
  std::unordered_map<const void*, std::uint64_t> sites_;
};

}  // namespace btd
