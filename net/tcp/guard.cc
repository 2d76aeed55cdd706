#include "net/tcp/guard.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "alloc/unique_fd.h"

namespace btd::net {

namespace {

void append(std::span<const std::byte> bytes, Bytes& to) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

// Everybody may speak.
class PlainGuard final : public Guard {
 public:
  Status begin(Bytes&) override { return {}; }
  Status take(std::span<const std::byte> bytes, Bytes& plain, Bytes&) override {
    append(bytes, plain);
    return {};
  }
  [[nodiscard]] bool is_open() const override { return true; }
  [[nodiscard]] bool is_transparent() const override { return true; }
  Status protect(std::span<const iovec> plain, Bytes& out) override {
    for (const iovec& part : plain)
      append({static_cast<const std::byte*>(part.iov_base), part.iov_len}, out);
    return {};
  }
};

}  // namespace

Result<Bytes> read_secret(const std::string& path, std::size_t most) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!file)
    return fail(errno, "The file " + path + " can't be read: " + std::strerror(errno) + ".");
  struct stat info{};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
    return fail(EINVAL, path + " is no regular file.");
  if ((info.st_mode & 0077U) != 0)
    return fail(EACCES, "Others than its owner may use the file " + path +
                            ", which holds a secret: run chmod 600 on it.");
  Bytes bytes(most + 1);
  std::size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + size, bytes.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(errno, "The file " + path + " can't be read.");
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  bytes.resize(size);
  return bytes;
}

Result<GuardMaker> make_guards(const Security& security) {
  if (const auto* key = std::get_if<KeySecurity>(&security)) return make_key_guards(*key);
  if (const auto* tls = std::get_if<TlsSecurity>(&security)) return make_tls_guards(*tls);
  return GuardMaker(
      [](Side) -> Result<std::unique_ptr<Guard>> { return std::make_unique<PlainGuard>(); });
}

}  // namespace btd::net
