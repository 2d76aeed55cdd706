// SPDX-License-Identifier: BSD-3-Clause
// What a load of power_load is: operations that follow from their number, and a model of what they
// leave. After a power cut the model tells which operations are there: a load that matches it after
// no number of operations has one that is half done, or lost one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "alloc/result.h"

namespace btd::vm {

class Load {
 public:
  Load() = default;
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  virtual ~Load() = default;

  // How many operations are there, exactly: at least `acknowledged`, and at most `ahead` more.
  // Afterwards step() goes on from there. EUCLEAN where no such number explains what is there.
  virtual Result<std::uint64_t> verify(std::uint64_t acknowledged, std::uint64_t ahead) = 0;
  // Does the next operation; it is durable when this returns.
  virtual Status step() = 0;
};

// Names, links, attributes and contents of files in `directory`.
Result<std::unique_ptr<Load>> open_file_load(const std::string& directory);
// Blocks of contracts P and T in a heap of libbtd in `directory`.
Result<std::unique_ptr<Load>> open_heap_load(const std::string& directory);

}  // namespace btd::vm
