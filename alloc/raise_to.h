// raise_to: an atomic that only grows.
#pragma once

#include <atomic>

namespace btd {

template <class T>
void raise_to(std::atomic<T>& at, T value) {
  T known = at.load(std::memory_order_relaxed);
  while (known < value && !at.compare_exchange_weak(known, value)) {
  }
}

}  // namespace btd
