// SPDX-License-Identifier: BSD-3-Clause
// What the stress programs share: a seeded generator, command-line options, CRC, and an owner of
// descriptors. No threads: each program that needs several actors forks them.
#pragma once

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace btd::stress {

/// splitmix64: every run of a seed is the same run.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, n).
  uint64_t Below(uint64_t n) { return n == 0 ? 0 : Next() % n; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

/// "--name value" and "--flag" options after the positional arguments.
class Options {
 public:
  Options(int argc, char** argv, const char* usage) : usage_(usage) {
    for (int i = 1; i < argc; ++i) {
      const std::string arg = argv[i];
      if (arg.rfind("--", 0) != 0) {
        positional_.push_back(arg);
      } else if (i + 1 < argc && std::strncmp(argv[i + 1], "--", 2) != 0) {
        named_[arg.substr(2)] = argv[++i];
      } else {
        named_[arg.substr(2)] = "";
      }
    }
  }
  [[nodiscard]] std::string Positional(size_t i) const {
    if (i < positional_.size()) return positional_[i];
    std::fprintf(stderr, "usage: %s\n", usage_);
    std::exit(2);
  }
  [[nodiscard]] bool Has(const std::string& name) const { return named_.count(name) != 0; }
  [[nodiscard]] std::string Text(const std::string& name, const std::string& otherwise) const {
    const auto it = named_.find(name);
    return it == named_.end() ? otherwise : it->second;
  }
  [[nodiscard]] uint64_t Number(const std::string& name, uint64_t otherwise) const {
    const auto it = named_.find(name);
    return it == named_.end() ? otherwise : std::strtoull(it->second.c_str(), nullptr, 0);
  }

 private:
  const char* usage_;
  std::vector<std::string> positional_;
  std::map<std::string, std::string> named_;
};

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// CRC-32 (IEEE), enough to tell a torn or foreign record from a good one.
inline uint32_t Crc32(const void* data, size_t size) {
  static const std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? 0xedb88320U ^ (c >> 1) : c >> 1;
      table[i] = c;
    }
    return table;
  }();
  uint32_t crc = ~0U;
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < size; ++i) crc = kTable[(crc ^ bytes[i]) & 0xff] ^ (crc >> 8);
  return ~crc;
}

}  // namespace btd::stress
