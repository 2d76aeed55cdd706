// RawPeer: a socket that says what a test likes, good or bad, and what came back.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "alloc/unique_fd.h"

namespace btd::net {

class RawPeer {
 public:
  explicit RawPeer(const std::string& address);

  // False: the other has closed.
  bool say(std::span<const std::byte> bytes);
  // What is there now; does not wait.
  std::vector<std::byte> hear();
  // The other has closed; what it said before is lost.
  bool is_closed();
  // Closes with a reset.
  void reset();

 private:
  UniqueFd socket_;
};

}  // namespace btd::net
