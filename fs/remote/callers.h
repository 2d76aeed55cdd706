// Callers: a Caller for each thread, made when it first calls and gone with the thread.
//
// An engine belongs to the thread that uses it, so it can't be handed to another: it ends where it
// was used, in the thread's last moments. Those of threads that live on end with this object, when
// none of them calls any more.
// Thread-safety: any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "fs/remote/caller.h"

namespace btd::remote {

class Callers {
 public:
  // Threads that call at the same time; one more is EMFILE.
  static constexpr std::size_t kMost = 1024;

  Callers(EngineFactory engines, Locate locate);
  Callers(const Callers&) = delete;
  Callers& operator=(const Callers&) = delete;
  ~Callers();

  // Of the calling thread. Errors: those of the factory; EMFILE.
  Result<Caller*> mine();
  void set_epoch(net::Epoch epoch);
  // Of all threads, just now.
  [[nodiscard]] std::vector<Caller::Wait> waits() const;

  struct Shared;

 private:
  Result<Caller*> make();

  const EngineFactory engines_;
  const Locate locate_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace btd::remote
