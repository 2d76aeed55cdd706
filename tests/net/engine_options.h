// Options that every engine refuses, and some that it must take.
#pragma once

#include <vector>

#include "net/engine.h"

namespace btd::net {

inline std::vector<EngineOptions> options_that_cannot_work() {
  return {{.limits = {.window = 0}},  // the responder remembers a window
          {.limits = {.window = UINT32_MAX}},
          {.limits = {.queued = 0}},
          {.limits = {.queued = UINT32_MAX}},
          {.limits = {.message_bytes = 0}},
          {.limits = {.message_bytes = UINT32_MAX}},
          {.limits = {.transfer_bytes = 0}},
          {.limits = {.transfer_bytes = std::uint64_t{1} << 32}},
          {.limits = {.output_bytes = 0}},  // nothing would ever be sent
          {.patience = {.connect = Time{}}},
          {.patience = {.silence = Time{}}},
          {.patience = {.reconnect = Time{-1}}},
          {.patience = {.linger = Time{-1}}},
          {.max_endpoints = 0},
          {.spin = Time{-1}}};
}

inline std::vector<EngineOptions> unusual_options() {
  return {{},
          {.patience = {kNever, kNever, kNever, kNever}},
          {.patience = {.reconnect = Time{}, .linger = Time{}}}};
}

}  // namespace btd::net
