#include "libbtd/track.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>

#include "alloc/unique_fd.h"

namespace btd {
namespace {

constexpr std::uint64_t kDefaultEntries = 1U << 20;
constexpr std::size_t kMaxSites = 65'536;  // kept in DRAM; further ones are looked up each time

std::unexpected<Error> cannot(int code) {
  return fail(code, std::string("BTD_TRACK: the file of call sites cannot be made (") +
                        strerrordesc_np(code) + "); free space, or unset BTD_TRACK.");
}

Result<std::uint64_t> wanted_entries(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return fail(EINVAL, "BTD_TRACK is neither 1 nor a number of entries; set it to 1.");
  }
  if (number <= 1) return number * kDefaultEntries;
  return std::bit_ceil(std::clamp<std::uint64_t>(number, 1024, kTrackMaxEntries));
}

bool fits(const TrackHeader& header, std::uint64_t entries) {
  return header.magic == kTrackMagic && header.version == kTrackVersion &&
         header.entries == entries && header.modules <= kTrackModules;
}

}  // namespace

Result<std::unique_ptr<Track>> Track::open_if_wanted(int dirfd, bool alone) {
  const char* const text = secure_getenv("BTD_TRACK");
  if (text == nullptr || *text == '\0') return nullptr;
  BTD_ASSIGN(const std::uint64_t entries, wanted_entries(text));
  if (entries == 0) return nullptr;
  const UniqueFd file(openat(dirfd, kTrackFile, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) return cannot(errno);
  TrackHeader header;
  const ssize_t got = pread(file.get(), &header, sizeof(header), 0);
  const std::uint64_t bytes = track_file_bytes(entries);
  // A table of another size or kind is no loss.
  const bool known = got == sizeof(header) && fits(header, entries);
  if (!known && !alone && got > 0) return nullptr;
  if (!known && ftruncate(file.get(), 0) != 0) return cannot(errno);
  // Whole, so that no store meets a full file system.
  const int code = posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
  if (code != 0) return cannot(code);
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (at == MAP_FAILED) return cannot(errno);
  std::unique_ptr<Track> track(new Track);
  track->mapped_ = bytes;
  track->header_ = static_cast<TrackHeader*>(at);
  track->modules_ = reinterpret_cast<TrackModule*>(track->header_ + 1);
  track->entries_ = reinterpret_cast<TrackEntry*>(track->modules_ + kTrackModules);
  if (!known) {
    track->header_->version = kTrackVersion;
    track->header_->entries = entries;
    track->header_->magic = kTrackMagic;
  }
  return track;
}

Track::~Track() {
  if (header_ != nullptr) munmap(header_, mapped_);
}

// The number of the module that holds the address, which is noted if it is new; 0: not known.
std::uint64_t Track::find_site(const void* return_address) {
  Dl_info info{};
  link_map* map = nullptr;
  if (dladdr1(return_address, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0 ||
      map == nullptr)
    return 0;
  TrackModule module;
  if (map->l_name == nullptr || *map->l_name == '\0') {
    const ssize_t len = readlink("/proc/self/exe", module.path, sizeof(module.path) - 1);
    if (len < 0) return 0;
  } else {
    // A path from elsewhere would mean nothing to who reads the table.
    std::array<char, PATH_MAX> path{};
    if (realpath(map->l_name, path.data()) == nullptr) return 0;
    if (std::strlen(path.data()) >= sizeof(module.path)) return 0;
    std::strcpy(module.path, path.data());
  }
  struct stat status{};
  if (stat(module.path, &status) != 0) return 0;
  module.bytes = static_cast<std::uint64_t>(status.st_size);
  module.changed = status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec;
  std::uint32_t index = 0;
  while (index < header_->modules &&
         (std::strcmp(modules_[index].path, module.path) != 0 ||
          modules_[index].bytes != module.bytes || modules_[index].changed != module.changed))
    ++index;
  if (index == kTrackModules) return 0;
  if (index == header_->modules) {
    modules_[index] = module;
    ++header_->modules;
  }
  // One less, so that it is inside the call and not behind it.
  const std::uint64_t inside = reinterpret_cast<std::uintptr_t>(return_address) - 1 - map->l_addr;
  return (std::uint64_t{index} + 1) << TrackEntry::kModuleShift | inside;
}

std::uint64_t Track::site_of(const void* return_address) {
  {
    const std::shared_lock lock(mutex_);
    const auto known = sites_.find(return_address);
    if (known != sites_.end()) return known->second;
  }
  const std::lock_guard lock(mutex_);
  const std::uint64_t site = find_site(return_address);
  if (sites_.size() < kMaxSites) sites_.emplace(return_address, site);
  return site;
}

void Track::note(Offset block, const void* return_address) {
  const std::uint64_t site = site_of(return_address);
  const std::uint64_t most = header_->entries;
  const std::uint64_t first = track_place(block, most);
  for (std::uint64_t i = 0; i < kTrackProbe; ++i) {
    TrackEntry& entry = entries_[(first + i) & (most - 1)];
    std::uint64_t there = __atomic_load_n(&entry.block, __ATOMIC_RELAXED);
    if (there == 0 && __atomic_compare_exchange_n(&entry.block, &there, block, false,
                                                  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      there = block;
    if (there != block) continue;
    __atomic_store_n(&entry.site, site, __ATOMIC_RELAXED);
    return;
  }
  TrackEntry& oldest = entries_[first];
  __atomic_fetch_add(&header_->forgotten, 1, __ATOMIC_RELAXED);
  __atomic_store_n(&oldest.site, site, __ATOMIC_RELAXED);
  __atomic_store_n(&oldest.block, block, __ATOMIC_RELAXED);
}

}  // namespace btd
