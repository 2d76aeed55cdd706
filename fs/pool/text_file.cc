#include "fs/pool/text_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "alloc/unique_fd.h"
#include "fs/pool/sentences.h"

namespace btd {

Result<std::string> read_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return errno_of(path);
  std::string text;
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_of(path);
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

Result<std::string> boot_id() {
  BTD_ASSIGN(std::string text, read_file("/proc/sys/kernel/random/boot_id"));
  text.erase(text.find_last_not_of('\n') + 1);
  return text;
}

}  // namespace btd
