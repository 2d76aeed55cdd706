// Calls that may wait for a daemon that does not answer.
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

namespace btd {

// What the call gives; nullopt: nothing within `limit`, and its thread is left behind until it
// does.
template <class Call>
auto call_within(std::chrono::milliseconds limit, Call call) -> std::optional<decltype(call())> {
  auto promise = std::make_shared<std::promise<decltype(call())>>();
  auto answer = promise->get_future();
  std::thread([promise, call = std::move(call)] { promise->set_value(call()); }).detach();
  if (answer.wait_for(limit) != std::future_status::ready) return std::nullopt;
  return answer.get();
}

}  // namespace btd
