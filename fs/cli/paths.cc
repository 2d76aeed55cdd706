#include "fs/cli/paths.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "fs/pool/call_within.h"
#include "fs/pool/sentences.h"
#include "fs/pool/text_file.h"

namespace btd::cli {

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

Result<std::string> read_file_within(const std::string& path, std::chrono::milliseconds limit) {
  auto text = call_within(limit, [path] { return read_file(path); });
  if (text) return *std::move(text);
  return fail(
      ETIMEDOUT,
      fmt::format("{} gives no answer; `journalctl -t btd` may tell what its daemon does", path));
}

}  // namespace btd::cli
