// SPDX-License-Identifier: BSD-3-Clause
// A record: the contents of a block, which all follow from its sequence, so that whoever knows that
// can check every byte. A sequence is never given out twice.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "tests/soak/several/shared.h"
#include "tests/stress/stress_util.h"

namespace btd::soak {

struct RecordHead {
  std::uint64_t sequence;
  std::uint64_t bytes;  // of all of the record
  std::uint64_t owner;  // the lane that allocated it
  std::uint64_t checksum;
};

// A sequence: a number of the lane's own, the lane, and which of 256 sizes.
constexpr unsigned kLaneShift = 8;
constexpr unsigned kNumberShift = 16;
constexpr State sequence_of(std::uint64_t number, unsigned lane, unsigned size) {
  return number << kNumberShift | lane << kLaneShift | size;
}
constexpr unsigned owner_of(State sequence) { return sequence >> kLaneShift & 0xff; }

// Mostly small, some of several pages, a few that no small class holds.
constexpr unsigned kSmallSizes = 200;
constexpr unsigned kMiddleSizes = 240;
constexpr unsigned kLargeSizes = 252;
constexpr std::size_t bytes_of(State sequence) {
  const std::size_t size = sequence & 0xff;
  if (size < kSmallSizes) return sizeof(RecordHead) + 5 * size;
  if (size < kMiddleSizes) return 2000 + 300 * (size - kSmallSizes);
  if (size < kLargeSizes) return 16'000 + 6000 * (size - kMiddleSizes);
  return 100'000 * (size - kLargeSizes + 1);
}

// The record of a sequence, in ordinary memory.
inline const std::vector<unsigned char>& record_of(State sequence) {
  static thread_local std::vector<unsigned char> bytes;
  bytes.resize(bytes_of(sequence));
  stress::Random random(sequence);
  for (std::size_t at = sizeof(RecordHead); at < bytes.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random.Next();
    std::memcpy(&bytes[at], &word, std::min(sizeof word, bytes.size() - at));
  }
  RecordHead head{
      .sequence = sequence, .bytes = bytes.size(), .owner = owner_of(sequence), .checksum = 0};
  head.checksum = stress::Crc32(bytes.data() + sizeof head, bytes.size() - sizeof head);
  std::memcpy(bytes.data(), &head, sizeof head);
  return bytes;
}

inline bool is_record(const void* block, State sequence) {
  RecordHead head{};
  std::memcpy(&head, block, sizeof head);
  if (head.sequence != sequence) return false;  // says most, and soonest
  const auto& expected = record_of(sequence);
  return std::memcmp(block, expected.data(), expected.size()) == 0;
}

// What stands in a block, for a sentence.
inline std::string described(const void* block) {
  RecordHead head{};
  std::memcpy(&head, block, sizeof head);
  return "sequence " + std::to_string(head.sequence) + ", " + std::to_string(head.bytes) +
         " bytes, owner " + std::to_string(head.owner);
}

}  // namespace btd::soak
