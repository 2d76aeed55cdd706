// The superblock of a pool, and the heap of its metadata with a namespace in it.
#include <sys/stat.h>

#include <cstring>
#include <memory>
#include <optional>

#include "alloc/embedded_store.h"
#include "alloc/memory_arenas.h"
#include "fs/check/findings.h"
#include "fs/check/names.h"
#include "fs/namespace/namespace.h"
#include "fs/pool/superblock.h"
#include "tests/fuzz/damage.h"
#include "tests/fuzz/target.h"

namespace btd::fuzz {

namespace {

// The first byte of an input. Nobody guesses a checksum, and most of a superblock is zeros.
enum Flag : std::uint8_t {
  kAsItIs = 1,  // the checksum is the input's
  kCut = 2,     // there is no more of it than the input has
};

void run_superblock(Input input) {
  if (input.empty()) return;
  const Input bytes = input.subspan(1);
  const std::uint8_t flags = input[0];
  media::Superblock superblock{};
  std::memcpy(&superblock, bytes.data(), std::min(bytes.size(), sizeof(superblock)));
  if ((flags & kAsItIs) == 0) superblock.crc32c = superblock_checksum(superblock);
  const std::size_t size = (flags & kCut) != 0 ? bytes.size() : sizeof(superblock);
  const Status judged = judge_superblock(superblock, size, "/pool");
  if (!judged) return check(!judged.error().message.empty());
  check(superblock.arena_bytes % kSegmentBytes == 0 && superblock.flags == 0);
  check(uuid_text(superblock).size() == 36);
}

// A pool's metadata as a crash left it: the journal holds records that the next open replays.
class Image {
 public:
  static Image& the_one() {
    static Image image;
    return image;
  }
  [[nodiscard]] const std::vector<std::size_t>& lines() const { return lines_; }

  ArenaSource& damaged(Input input) {
    std::memcpy(arenas_->base(), good_.data(), good_.size());
    for_each_change(input, lines_, [this](std::size_t at, Input bytes) {
      std::memcpy(arenas_->base() + at, bytes.data(), bytes.size());
    });
    return *arenas_;
  }

 private:
  static constexpr std::uint64_t kArenaBytes = 1 << 20;

  Image() {
    auto heap = *Heap::format(*arenas_, {.lanes = 2, .lane_bytes = 64 << 10});
    {
      auto store = *EmbeddedStore::create(*heap, 0);
      check(Namespace::format(*store, 0755).has_value());
      auto names = *Namespace::open(*store);
      for (int i = 0; i < 60; ++i) make(*names, kRootId, "file " + std::to_string(i), S_IFREG);
      const InodeId dir = make(*names, kRootId, "dir", S_IFDIR);
      make(*names, dir, "inner", S_IFDIR);
      check(names->set_xattr(dir, "user.large", std::string(3000, 'x'), 0, {}).has_value());
      check(names->unlink(kRootId, "file 3", {}).has_value());
    }
    heap.reset();
    good_.assign(reinterpret_cast<const char*>(arenas_->base()), kArenaBytes);
    lines_ = used_lines(good_);
  }
  static InodeId make(Namespace& names, InodeId dir, const std::string& name, std::uint32_t type) {
    const InodeId id = *names.allocate_id();
    const RequestTag tag{.session = 1, .unique = id};
    check(names.create(dir, name, id, {.mode = type | 0644}, tag).has_value());
    return id;
  }

  std::unique_ptr<MemoryArenas> arenas_ = *MemoryArenas::create(kArenaBytes, 1);
  std::string good_;
  std::vector<std::size_t> lines_;
};

// What a mount does first, and some requests.
void use(MetaStore& store) {
  const auto names = Namespace::open(store);
  if (!names) return;
  const auto entries = (*names)->list(kRootId, 0, 1000);
  if (entries) {
    for (const DirEntry& entry : *entries) static_cast<void>((*names)->get(entry.id));
  }
  static_cast<void>((*names)->orphans());
  for (int i = 0; i < 2; ++i) {
    const auto id = (*names)->allocate_id();
    if (!id) return;
    static_cast<void>(
        (*names)->create(kRootId, "new " + std::to_string(i), *id, {.mode = S_IFREG}, {}));
    static_cast<void>((*names)->unlink(kRootId, "file " + std::to_string(i), {}));
    static_cast<void>((*names)->rename(kRootId, "dir", kRootId, "moved", 0, {}));
    static_cast<void>((*names)->list_xattrs(*id));
  }
}

void run_store(Input input) {
  auto heap = Heap::open(Image::the_one().damaged(input));
  if (!heap) return check(!heap.error().message.empty());
  auto store = EmbeddedStore::open(**heap, 0);
  if (!store) return check(!store.error().message.empty());
  const auto report = (*store)->check();
  check(report.damage.size() <= OrderedMap::kMaxDamage);
  use(**store);
  CheckReport found;
  const CheckOptions options{.repair = true, .progress = {}};
  Findings findings(found, options);
  for (int round = 0; round < 2; ++round) {
    findings.begin_round();
    if (!NamePass(**store, findings).run()) break;
  }
  use(**store);
  static_cast<void>((*heap)->close());
}

}  // namespace

Target superblock_target() {
  constexpr std::size_t kFieldBytes = offsetof(media::Superblock, unused);
  std::vector<std::string> seeds;
  for (const auto kind : {media::EmulationKind::kNone, media::EmulationKind::kDisk}) {
    const std::string bytes = raw_of(*make_superblock(kind, std::uint64_t{1} << 30));
    seeds.push_back(std::string(1, '\0') + bytes.substr(0, kFieldBytes));
    seeds.push_back(static_cast<char>(kAsItIs | kCut) + bytes);
  }
  return {.run = run_superblock,
          .seeds = std::move(seeds),
          .words = {std::string(media::kPoolMagic, sizeof(media::kPoolMagic))},
          .most_bytes = sizeof(media::Superblock) + 2};
}

Target store_target() {
  return {.run = run_store, .seeds = changes_of(Image::the_one().lines()), .most_bytes = 256};
}

}  // namespace btd::fuzz
