// Metadata in DRAM, for tests of everything in a pool but its heap. Lives as long as the process,
// one store for each directory, and marks the directory with a file so that a new format begins
// anew.
#include <fcntl.h>

#include <map>
#include <mutex>

#include "alloc/memory_store.h"
#include "alloc/unique_fd.h"
#include "fs/namespace/namespace.h"
#include "fs/pool/metadata.h"

namespace btd {
namespace {

std::mutex mutex;
std::map<std::string, std::shared_ptr<MemoryStore>> stores;

class MemoryMetadata final : public Metadata {
 public:
  explicit MemoryMetadata(std::shared_ptr<MemoryStore> store) : store_(std::move(store)) {}
  MetaStore& store() override { return *store_; }
  const Persistence& persistence() const override { return persistence_; }
  Result<Structures> check_structures(bool) override { return Structures{}; }
  Status close() override { return {}; }

 private:
  std::shared_ptr<MemoryStore> store_;
  Persistence persistence_{"none", "none", "nothing"};
};

}  // namespace

Status Metadata::format(const std::string& dir, std::uint64_t, std::uint32_t root_mode) {
  const UniqueFd mark(::open((dir + "/arena.0").c_str(), O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!mark) return fail(errno, "no mark");
  auto store = std::make_shared<MemoryStore>();
  BTD_TRY(Namespace::format(*store, root_mode));
  const std::lock_guard lock(mutex);
  stores[dir] = std::move(store);
  return {};
}

Result<std::unique_ptr<Metadata>> Metadata::open(const std::string& dir, std::uint64_t, bool) {
  const std::lock_guard lock(mutex);
  const auto found = stores.find(dir);
  if (found == stores.end()) return fail(EUCLEAN, "not formatted by this process");
  return std::make_unique<MemoryMetadata>(found->second);
}

}  // namespace btd
