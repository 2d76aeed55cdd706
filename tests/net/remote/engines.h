// The engines that are tested between two processes, by name: both sides make the same one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/net/conformance.h"
#include "tests/net/remote/channel.h"

namespace btd::net::remote {

inline constexpr std::string_view kTcp = "tcp";                  // without any security
inline constexpr std::string_view kAcknowledge = "acknowledge";  // verbs: the peer flushes
inline constexpr std::string_view kReadBehind = "read-behind";   // verbs: without its processor

// Errors: EINVAL no such kind; those of making it.
Result<std::unique_ptr<Engine>> make_engine(std::string_view kind, const WorldOptions& options);
// Breaks the connections of an engine of that kind which connected to `address`.
void cut(std::string_view kind, Engine& engine, const std::string& address);

// The options as words of a line, and back from the words behind the first `skip`.
std::vector<std::string> to_words(const WorldOptions& options);
WorldOptions from_words(const Line& line, std::size_t skip);

}  // namespace btd::net::remote
