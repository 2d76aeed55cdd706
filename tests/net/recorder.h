// Recorder: writes down all that its endpoints tell.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "net/engine.h"

namespace btd::net {

class Recorder : public Handler {
 public:
  void on_completion(Endpoint& /*endpoint*/, const Completion& completion) override {
    completions.push_back(completion);
  }
  int on_message(Endpoint& /*endpoint*/, std::span<const std::byte> message) override {
    if (refusal == 0) messages.emplace_back(message.begin(), message.end());
    return refusal;
  }
  void on_up(Endpoint& endpoint) override {
    ++ups;
    if (std::ranges::find(endpoints, &endpoint) == endpoints.end()) endpoints.push_back(&endpoint);
  }
  void on_down(Endpoint& /*endpoint*/, const Error& why) override {
    ++downs;
    last = why;
  }
  void on_closed(Endpoint& endpoint, const Error& why) override {
    ++closes;
    last = why;
    std::erase(endpoints, &endpoint);
  }

  std::vector<Completion> completions;
  std::vector<std::vector<std::byte>> messages;
  std::vector<Endpoint*> endpoints;  // that are not closed
  int refusal = 0;                   // of the messages that come
  int ups = 0, downs = 0, closes = 0;
  Error last;
};

}  // namespace btd::net
