// Channel: what two processes of a test say to each other while their engines are tested: lines of
// words, each with bytes behind it, over a plain TCP connection of its own.
//   WORD WORD... SIZE\n followed by SIZE bytes
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "alloc/result.h"
#include "alloc/unique_fd.h"

namespace btd::net::remote {

// Longer than anything takes that still comes.
inline constexpr std::chrono::seconds kPatience{30};

struct Line {
  std::vector<std::string> words;
  std::vector<std::byte> bytes;

  [[nodiscard]] const std::string& word(std::size_t i) const;
  [[nodiscard]] std::uint64_t number(std::size_t i) const;
};

template <class... Words>
std::vector<std::string> words(const Words&... all) {
  const auto text = [](const auto& one) -> std::string {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(one)>>)
      return std::to_string(one);
    else
      return std::string(one);
  };
  return {text(all)...};
}

class Channel {
 public:
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}

  Status say(const std::vector<std::string>& words, std::span<const std::byte> bytes = {});
  // What came, if it is whole. Errors: ECONNRESET the other has gone; EPROTO.
  Result<std::optional<Line>> hear();
  // Waits for it. Errors: ETIMEDOUT too.
  Result<Line> await(std::chrono::nanoseconds patience = kPatience);
  // Returns when something came, or after that time.
  void sleep(std::chrono::nanoseconds patience) const;

 private:
  Status fill();
  Result<std::optional<Line>> parse();

  UniqueFd socket_;
  std::vector<std::byte> input_;
  std::size_t taken_ = 0;  // of input_
};

// Errors: those of the socket; ETIMEDOUT.
Result<Channel> connect_channel(std::string_view address, std::chrono::nanoseconds patience);

class ChannelListener {
 public:
  static Result<ChannelListener> listen(std::string_view address);
  [[nodiscard]] const std::string& address() const { return address_; }
  Result<Channel> accept();

 private:
  ChannelListener(UniqueFd socket, std::string address)
      : socket_(std::move(socket)), address_(std::move(address)) {}
  UniqueFd socket_;
  std::string address_;
};

}  // namespace btd::net::remote
