#include "fs/cli/paths.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "alloc/unique_fd.h"

namespace btd::cli {

std::string error_text(int code) {
  const char* text = ::strerrordesc_np(code);
  return text == nullptr ? fmt::format("error {}", code) : text;
}

std::unexpected<Error> errno_of(const std::string& subject, int code) {
  return fail(code, fmt::format("{}: {}", subject, error_text(code)));
}
Result<std::string> absolute_path(const std::string& path) {
  std::error_code error;
  const std::filesystem::path full = std::filesystem::absolute(path, error);
  if (error || path.empty()) return fail(EINVAL, fmt::format("'{}' is no path", path));
  std::string text = full.lexically_normal().string();
  if (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

Result<std::string> resolved_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> full(::realpath(path.c_str(), nullptr),
                                                         &std::free);
  if (!full) return errno_of(path);
  return std::string(full.get());
}

Result<std::string> read_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return errno_of(path);
  std::string text;
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0) return errno_of(path);
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

Result<std::string> read_file_within(const std::string& path, std::chrono::milliseconds limit) {
  auto promise = std::make_shared<std::promise<Result<std::string>>>();
  std::future<Result<std::string>> answer = promise->get_future();
  std::thread([promise, path] { promise->set_value(read_file(path)); }).detach();
  if (answer.wait_for(limit) != std::future_status::ready) {
    return fail(
        ETIMEDOUT,
        fmt::format("{} gives no answer; `journalctl -t btd` may tell what its daemon does", path));
  }
  return answer.get();
}

}  // namespace btd::cli
