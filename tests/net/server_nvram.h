// Emulated NVRAM that a server of a test lends, and what a crash leaves of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "net/engine.h"

namespace btd::net {

// Emulated NVRAM of the server's that its client may write and swap.
class ServerNvram {
 public:
  virtual ~ServerNvram() = default;
  [[nodiscard]] virtual const RegionDescriptor& region() const = 0;
  // What the server's machine would find there after a crash here and now.
  virtual Result<std::vector<std::byte>> after_crash(std::uint64_t seed) = 0;
};

// The same for an engine of this process, which must outlive it. Errors: EINVAL not a multiple of
// 64 KiB; those of register_region().
Result<std::unique_ptr<ServerNvram>> make_nvram(Engine& engine, std::size_t bytes);

}  // namespace btd::net
