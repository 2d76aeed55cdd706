// Which options of an engine can work.
#include <cerrno>
#include <string>

#include "net/engine.h"

namespace btd::net {

namespace {

// A responder remembers an answer for each place of a window, for each peer.
constexpr std::uint64_t kMostWindow = 1 << 16;
// Each has a place in memory while it is posted.
constexpr std::uint64_t kMostQueued = 1 << 20;
// A message is kept until it is whole, at a length that the peer says.
constexpr std::uint64_t kMostMessageBytes = 64 << 20;
// A frame's length has 32 bits.
constexpr std::uint64_t kMostTransferBytes = UINT32_MAX;

Status between(const char* name, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
  if (value >= least && value <= most) return {};
  return fail(EINVAL, std::string("The engine's option ") + name + " is " + std::to_string(value) +
                          "; it may be " + std::to_string(least) + " to " + std::to_string(most) +
                          ".");
}

Status at_least(const char* name, Time value, Time least) {
  if (value >= least) return {};
  return fail(EINVAL, std::string("The engine's option ") + name + " is " +
                          std::to_string(value.count()) + " ns; it must be " +
                          (least > Time{} ? "more than 0." : "0 or more."));
}

}  // namespace

Status judge(const EngineOptions& options) {
  const Limits& limits = options.limits;
  BTD_TRY(between("limits.window", limits.window, 1, kMostWindow));
  BTD_TRY(between("limits.queued", limits.queued, 1, kMostQueued));
  BTD_TRY(between("limits.message_bytes", limits.message_bytes, 1, kMostMessageBytes));
  BTD_TRY(between("limits.transfer_bytes", limits.transfer_bytes, 1, kMostTransferBytes));
  BTD_TRY(between("limits.output_bytes", limits.output_bytes, 1, UINT64_MAX));
  BTD_TRY(between("max_endpoints", options.max_endpoints, 1, UINT32_MAX));
  const Patience& patience = options.patience;
  BTD_TRY(at_least("patience.connect", patience.connect, Time{1}));
  BTD_TRY(at_least("patience.silence", patience.silence, Time{1}));
  BTD_TRY(at_least("patience.reconnect", patience.reconnect, Time{}));
  BTD_TRY(at_least("patience.linger", patience.linger, Time{}));
  BTD_TRY(at_least("late", options.late, Time{}));
  return at_least("spin", options.spin, Time{});
}

}  // namespace btd::net
