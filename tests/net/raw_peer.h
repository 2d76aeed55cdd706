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
  // Of a `receive_bytes`, the kernel keeps about as many for it that it has not heard; 0: as usual.
  explicit RawPeer(const std::string& address, int receive_bytes = 0);

  // False: the other has closed.
  bool say(std::span<const std::byte> bytes);
  // As much as leaves at once: how much that was.
  std::size_t say_some(std::span<const std::byte> bytes);
  // Bytes that were said, and that the other's kernel has no room for.
  [[nodiscard]] int unsent() const;
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
