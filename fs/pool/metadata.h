// Metadata: the heap in POOL/meta and the store of the namespace in it.
// Owns the mapping of the arenas. Thread-safety: store() as MetaStore says; the rest by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/pool/pool.h"

namespace btd {

class Metadata {
 public:
  // How the arenas reach the media.
  struct Persistence {
    std::string nvram, method, survives;  // as PoolFacts says them
  };

  // Makes the heap, the store and the root directory in the empty directory `dir`; all of it is
  // durable on return.
  static Status format(const std::string& dir, std::uint64_t arena_bytes, std::uint32_t root_mode);
  // Replays the journal. Read-only: a private view, nothing on the pool changes.
  static Result<std::unique_ptr<Metadata>> open(const std::string& dir, std::uint64_t arena_bytes,
                                                bool read_only);

  Metadata() = default;
  Metadata(const Metadata&) = delete;
  Metadata& operator=(const Metadata&) = delete;
  virtual ~Metadata() = default;

  virtual MetaStore& store() = 0;
  [[nodiscard]] virtual const Persistence& persistence() const = 0;
  // As Pool says.
  virtual Result<Structures> check_structures(bool reclaim) = 0;
  virtual Status close() = 0;
};

}  // namespace btd
