// The socket between the supervisor and its worker: whole messages, one with a descriptor.
#pragma once

#include <cstdint>
#include <string>

#include "alloc/result.h"
#include "alloc/unique_fd.h"

namespace btd {

enum class Word : std::uint32_t {
  // from the worker
  kPoolOpen = 1,  // the pool is good; send the connection
  kReady,         // serving
  kFailed,        // cannot serve: code and sentence
  kEnded,         // the connection is gone: somebody unmounted
  // from the supervisor
  kServe,     // with the /dev/fuse descriptor
  kStop,      // finish what is in hand, close the pool, exit
  kLogLevel,  // text: the level
  kNotifier,  // code: its pid; with the socket to it, or none if there is no notifier
};

struct ControlMessage {
  Word word{};
  int code = 0;
  std::string text;  // cut off at kMaxText bytes
  UniqueFd fd;       // kServe and kNotifier only
  static constexpr std::size_t kMaxText = 480;
};

// A connected pair, closed on exec.
Result<std::pair<UniqueFd, UniqueFd>> control_pair();
Status send_control(int socket, Word word, int code = 0, const std::string& text = {}, int fd = -1);
// Waits for a message. Errors: EPIPE the other side is gone; EAGAIN on a socket with nothing to
// read if `wait` is false.
Result<ControlMessage> receive_control(int socket, bool wait);

}  // namespace btd
