#include "fs/pool/metadata.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <unordered_set>

#include "alloc/embedded_store.h"
#include "alloc/file_arenas.h"
#include "alloc/heap.h"
#include "alloc/ordered_map.h"
#include "fs/namespace/namespace.h"
#include "fs/pool/sentences.h"

namespace btd {

namespace {

constexpr std::uint32_t kMaxArenas = 4096;  // address space is reserved for as many
constexpr unsigned kNamespaceSlot = 0;      // of the heap's roots
constexpr std::uint64_t kLaneBytes = 256 * 1024;

// As many lanes as threads can use, in at most half of the first arena.
Heap::Options heap_options(std::uint64_t arena_bytes) {
  const std::uint64_t fit = arena_bytes / 2 / kLaneBytes;
  return {.lanes = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(fit, 1, 16)),
          .lane_bytes = kLaneBytes};
}

Result<UniqueFd> open_meta(const std::string& dir) {
  UniqueFd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return cannot("open the directory " + dir, errno);
  return fd;
}

// The truth in the words of PoolFacts.
Metadata::Persistence told(const Nvram& nvram) {
  Metadata::Persistence facts;
  facts.nvram = nvram.kind == "dax"     ? "DAX"
                : nvram.kind == "tmpfs" ? "emulated in RAM"
                : nvram.kind == "file"  ? "disk"
                                        : std::string(nvram.kind);
  facts.method = nvram.domain == Domain::kMsync ? "msync" : "cache-line flush";
  facts.survives = nvram.kind == "dax" || nvram.kind == "file" ? "process crash and power loss"
                   : nvram.kind == "tmpfs"                     ? "process crash"
                                                               : std::string(nvram.survives);
  return facts;
}

// The heap does not know which directory it lies in.
std::unexpected<Error> damaged(const std::string& dir, const Error& error) {
  const int code = error.code == EINVAL || error.code == ENOENT ? EUCLEAN : error.code;
  std::string why = error.message;
  if (why.ends_with('.')) why.pop_back();  // the sentence goes on
  return fail(code,
              "the metadata in " + dir + " cannot be used: " + why + "; run btd check on the pool");
}

class HeapMetadata final : public Metadata {
 public:
  HeapMetadata(std::unique_ptr<FileArenas> arenas, std::unique_ptr<Heap> heap,
               std::unique_ptr<EmbeddedStore> store)
      : arenas_(std::move(arenas)),
        heap_(std::move(heap)),
        store_(std::move(store)),
        persistence_(told(arenas_->nvram())) {}

  MetaStore& store() override { return *store_; }
  [[nodiscard]] const Persistence& persistence() const override { return persistence_; }
  Result<Structures> check_structures(bool reclaim) override;
  Status close() override { return heap_->close(); }

 private:
  Status find_leaks(const std::unordered_set<Offset>& used, bool reclaim, Structures& found);

  // Each uses the one before it.
  std::unique_ptr<FileArenas> arenas_;
  std::unique_ptr<Heap> heap_;
  std::unique_ptr<EmbeddedStore> store_;
  Persistence persistence_;
};

Result<Structures> HeapMetadata::check_structures(bool reclaim) {
  Structures found;
  std::unordered_set<Offset> used;
  OrderedMap::Report report = store_->check([&](Offset block, std::size_t) {
    used.insert(block);
    if (const auto bytes = heap_->block_bytes(block)) {
      found.bytes += *bytes;
    } else {
      found.damage.push_back("the map uses a block that is not allocated: " +
                             bytes.error().message);
    }
  });
  found.blocks = used.size();
  std::ranges::move(report.damage, std::back_inserter(found.damage));
  // What lies below a damaged page was not visited; it must not be taken for leaked.
  if (!found.damage.empty() || heap_->stats().used_bytes == found.bytes) return found;
  BTD_TRY(find_leaks(used, reclaim, found));
  return found;
}

// Nothing but the map lives in this heap, so a block that it does not use is leaked. The heap has
// no list of its blocks, but knows for every place whether one starts there; this is asked only
// where the sums say that there is something to find.
Status HeapMetadata::find_leaks(const std::unordered_set<Offset>& used, bool reclaim,
                                Structures& found) {
  constexpr Offset kStep = 16;  // every size class and every segment is a multiple
  const Offset end = std::uint64_t{arenas_->count()} * arenas_->arena_bytes();
  for (Offset at = 0; at < end; at += kStep) {
    const auto bytes = heap_->block_bytes(at);
    if (!bytes || used.contains(at)) continue;
    ++found.leaked_blocks;
    found.leaked_bytes += *bytes;
    if (!reclaim) continue;
    Tx tx = heap_->begin();
    BTD_TRY(tx.free(at));
    BTD_TRY(tx.commit());
    found.reclaimed = true;
  }
  return {};
}

}  // namespace

Status Metadata::format(const std::string& dir, std::uint64_t arena_bytes,
                        std::uint32_t root_mode) {
  BTD_ASSIGN(const UniqueFd fd, open_meta(dir));
  BTD_ASSIGN(const auto arenas, FileArenas::create(fd.get(), arena_bytes, kMaxArenas));
  BTD_ASSIGN(const auto heap, Heap::format(*arenas, heap_options(arena_bytes)));
  BTD_ASSIGN(const auto store, EmbeddedStore::create(*heap, kNamespaceSlot));
  BTD_TRY(Namespace::format(*store, root_mode));
  return heap->close();
}

Result<std::unique_ptr<Metadata>> Metadata::open(const std::string& dir, std::uint64_t arena_bytes,
                                                 bool read_only) {
  BTD_ASSIGN(const UniqueFd fd, open_meta(dir));
  auto arenas = FileArenas::open(
      fd.get(), kMaxArenas, read_only ? FileArenas::Mode::kPrivate : FileArenas::Mode::kShared);
  if (!arenas) return damaged(dir, arenas.error());
  if ((*arenas)->arena_bytes() != arena_bytes)
    return fail(EUCLEAN, "the arenas in " + dir + " have " +
                             std::to_string((*arenas)->arena_bytes()) +
                             " bytes and the superblock says " + std::to_string(arena_bytes) +
                             "; they were truncated or replaced: restore them");
  auto heap = Heap::open(**arenas);
  if (!heap) return damaged(dir, heap.error());
  auto store = EmbeddedStore::open(**heap, kNamespaceSlot);
  if (!store) return damaged(dir, store.error());
  return std::make_unique<HeapMetadata>(*std::move(arenas), *std::move(heap), *std::move(store));
}

}  // namespace btd
