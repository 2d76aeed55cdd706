#include "libbtd/tools/sites.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "alloc/unique_fd.h"

namespace btd {
namespace {

bool read_at(int fd, void* into, std::size_t len, std::uint64_t from) {
  auto* at = static_cast<std::byte*>(into);
  while (len > 0) {
    const ssize_t got = pread(fd, at, len, static_cast<off_t>(from));
    if (got <= 0) return false;
    at += got;
    from += static_cast<std::uint64_t>(got);
    len -= static_cast<std::size_t>(got);
  }
  return true;
}

Sites::Module read_module(const TrackModule& stored) {
  Sites::Module module{.path = std::string(stored.path, strnlen(stored.path, sizeof stored.path))};
  struct stat info{};
  if (stat(module.path.c_str(), &info) != 0) return module;
  module.same = static_cast<std::uint64_t>(info.st_size) == stored.bytes &&
                info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec == stored.changed;
  return module;
}

}  // namespace

Result<Sites> Sites::open(const std::string& heap_path) {
  Sites sites;
  const std::string path = heap_path + "/" + kTrackFile;
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file && errno == ENOENT) return sites;
  const auto unreadable = [&](int code) {
    return fail(code, path + " is no table of call sites; remove it, and record again.");
  };
  TrackHeader header;
  struct stat info{};
  if (!file || fstat(file.get(), &info) != 0) return unreadable(EIO);
  if (!read_at(file.get(), &header, sizeof(header), 0) || header.magic != kTrackMagic ||
      header.version != kTrackVersion || !std::has_single_bit(header.entries) ||
      header.modules > kTrackModules || header.entries > kTrackMaxEntries ||
      track_file_bytes(header.entries) != static_cast<std::uint64_t>(info.st_size))
    return unreadable(EUCLEAN);
  std::vector<TrackModule> modules(header.modules);
  sites.entries_.resize(header.entries);
  if (!read_at(file.get(), modules.data(), modules.size() * sizeof(TrackModule), sizeof(header)) ||
      !read_at(file.get(), sites.entries_.data(), header.entries * sizeof(TrackEntry),
               track_file_bytes(0)))
    return unreadable(EIO);
  for (const TrackModule& module : modules) sites.modules_.push_back(read_module(module));
  sites.forgotten_ = header.forgotten;
  return sites;
}

std::uint64_t Sites::of(Offset block) const {
  if (entries_.empty()) return 0;
  const std::uint64_t first = track_place(block, entries_.size());
  for (std::uint64_t i = 0; i < kTrackProbe; ++i) {
    const TrackEntry& entry = entries_[(first + i) & (entries_.size() - 1)];
    if (entry.block == block) return entry.site;
  }
  return 0;
}

const Sites::Module* Sites::module_of(std::uint64_t site) const {
  const std::uint64_t index = site >> TrackEntry::kModuleShift;
  return index == 0 || index > modules_.size() ? nullptr : &modules_[index - 1];
}

}  // namespace btd
