#include "fs/remote/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "alloc/nvram.h"

namespace btd::remote {

bool Mapping::is_whole(const struct stat& facts) {
  constexpr off_t kBlock = 512;  // the unit of st_blocks
  return facts.st_size > 0 && facts.st_blocks >= (facts.st_size + kBlock - 1) / kBlock;
}

Mapping::Mapping(std::span<std::byte> memory, const struct stat& facts)
    : memory_(memory), device_(facts.st_dev), inode_(facts.st_ino) {}

Result<std::shared_ptr<Mapping>> Mapping::make(int fd, const struct stat& facts,
                                               std::shared_ptr<sem_t> told) {
  const auto size = static_cast<std::size_t>(facts.st_size);
  void* const place =
      ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED)
    return fail(errno, std::string("A file can't be mapped for peers: ") + strerrordesc_np(errno));
  std::shared_ptr<Mapping> made(new Mapping({static_cast<std::byte*>(place), size}, facts));
  BTD_ASSIGN(const Nvram nvram, map_nvram(fd, made->memory_.data(), size));
  made->persist_.emplace(nvram.domain);
  made->told_ = std::move(told);
  auto range = FaultGuard::watch(made->memory_, made->told_.get());
  if (!range) return fail(ENFILE, "Too many files are mapped for peers.");
  made->range_.emplace(std::move(*range));
  return made;
}

Mapping::~Mapping() {
  range_.reset();
  ::munmap(memory_.data(), memory_.size());
}

bool Mapping::is_of(const struct stat& facts) const {
  return facts.st_dev == device_ && facts.st_ino == inode_ &&
         static_cast<std::size_t>(facts.st_size) == memory_.size();
}

}  // namespace btd::remote
