// Damaged pages: every call answers with a value or an error, never with a crash or an endless
// loop. Build with address and undefined-behaviour sanitizers to see reads outside a page as well.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "alloc/embedded_store.h"
#include "alloc/memory_arenas.h"

namespace btd {
namespace {

constexpr unsigned kSlot = 0;

class MapDamage : public ::testing::Test {
 protected:
  struct Block {
    Offset at;
    std::size_t bytes;
  };

  MapDamage() {
    arenas_ = *MemoryArenas::create(8 << 20, 1);
    heap_ = *Heap::format(*arenas_, {.lanes = 2, .lane_bytes = 128 * 1024});
    {
      auto store = *EmbeddedStore::create(*heap_, kSlot);
      for (unsigned i = 0; i < 6000; ++i) {
        Batch b;
        b.put(key(i), std::string(i % 500 == 0 ? 3000 + i : i % 90 * 4, 'v'));
        EXPECT_TRUE(store->commit(b).has_value());
      }
      const auto report =
          store->check([&](Offset at, std::size_t bytes) { blocks_.push_back({at, bytes}); });
      EXPECT_TRUE(report.damage.empty());
      EXPECT_GT(report.inners, 1U) << "the tree should have more than two levels";
    }
    map_.emplace(*OrderedMap::open(*heap_, kSlot));
  }

  static std::string key(unsigned i) {
    const unsigned n = i * 2654435761U;
    std::string k = "prefix/" + std::to_string(n % 5) + "/" + std::to_string(n);
    if (i % 40 == 0) k.append(200, 'k');
    return k;
  }

  std::byte* bytes(Offset at) { return arenas_->base() + at; }

  // All kinds of calls; the changes are not committed.
  // Returns whether check() noticed.
  bool use(std::mt19937_64& rng) {
    const auto report = map_->check();
    EXPECT_LE(report.damage.size(), OrderedMap::kMaxDamage);
    for (int i = 0; i < 20; ++i)
      static_cast<void>(map_->find(key(static_cast<unsigned>(rng() % 7000))));
    std::size_t seen = 0;
    static_cast<void>(map_->scan(key(static_cast<unsigned>(rng() % 7000)), {},
                                 [&](auto, auto) { return ++seen < 20000; }));
    EXPECT_LT(seen, 20000U) << "the scan does not end";
    Tx tx = heap_->begin();
    OrderedMap::Change change(*map_, tx, true);
    for (int i = 0; i < 60; ++i) {
      const std::string k = key(static_cast<unsigned>(rng() % 7000));
      const std::string v(rng() % 10 == 0 ? rng() % 3000 : rng() % 100, 'w');
      const bool ok = rng() % 2 == 0 ? change.put(k, v).has_value() : change.erase(k).has_value();
      if (!ok) break;
    }
    return !report.damage.empty();
  }

  std::unique_ptr<MemoryArenas> arenas_;
  std::unique_ptr<Heap> heap_;
  std::optional<OrderedMap> map_;
  std::vector<Block> blocks_;
};

TEST_F(MapDamage, RandomBytesNeverCrash) {
  std::mt19937_64 rng(99);
  unsigned noticed = 0;
  constexpr int kRounds = 400;
  for (int round = 0; round < kRounds; ++round) {
    // The header and inner pages as often as leaves, headers and slots as often as cells.
    const Block& block = blocks_[rng() % 3 == 0 ? rng() % 3 : rng() % blocks_.size()];
    const std::size_t size = std::min(block.bytes, kMapPageBytes);
    std::vector<std::byte> saved(bytes(block.at), bytes(block.at) + size);
    for (unsigned n = 1 + static_cast<unsigned>(rng() % 8); n > 0; --n) {
      const std::size_t reach = rng() % 2 == 0 ? std::min<std::size_t>(size, 128) : size;
      bytes(block.at)[rng() % reach] = static_cast<std::byte>(rng());
    }
    noticed += use(rng) ? 1 : 0;
    std::memcpy(bytes(block.at), saved.data(), size);
  }
  EXPECT_TRUE(map_->check().damage.empty()) << "the test did not restore the map";
  EXPECT_GT(noticed, kRounds / 3);  // the other bytes are free, or of keys and values
}

TEST_F(MapDamage, RandomWordsWithPlausibleOffsetsNeverCrash) {
  std::mt19937_64 rng(7);
  for (int round = 0; round < 200; ++round) {
    const Block& block = blocks_[rng() % blocks_.size()];
    const std::size_t size = std::min(block.bytes, kMapPageBytes);
    std::vector<std::byte> saved(bytes(block.at), bytes(block.at) + size);
    // A child or a value that is another block of the map: cycles, shared pages, wrong levels.
    const MapPageView page(bytes(block.at));
    const Offset other = blocks_[rng() % blocks_.size()].at;
    MapPageView::Entry e;
    if (block.bytes == kMapPageBytes && (page.sound(1) || page.sound(2)) &&
        page.entry(static_cast<unsigned>(rng() % page.count()), e)) {
      std::memcpy(bytes(block.at) + e.offset + sizeof(MapCellHeader) + e.suffix.size(), &other,
                  sizeof other);
      EXPECT_TRUE(other == page.child(0) || !map_->check().damage.empty());
    } else {
      std::memcpy(bytes(block.at) + rng() % (size / 8) * 8, &other, sizeof other);
    }
    use(rng);
    std::memcpy(bytes(block.at), saved.data(), size);
  }
  EXPECT_TRUE(map_->check().damage.empty());
}

// Every byte of what a page's header says is checked.
TEST_F(MapDamage, CheckSeesEveryFlippedBitOfAHeader) {
  std::mt19937_64 rng(3);
  for (int round = 0; round < 40; ++round) {
    const Block& block = blocks_[rng() % blocks_.size()];
    const MapPageView page(bytes(block.at));
    if (block.bytes != kMapPageBytes || !(page.sound(0) || page.sound(1))) continue;
    for (std::size_t at = 0; at < 16; ++at) {
      if (at == offsetof(MapPageHeader, reserved)) continue;
      const auto bit = static_cast<std::byte>(1U << (rng() % 8));
      bytes(block.at)[at] ^= bit;
      EXPECT_FALSE(map_->check().damage.empty()) << "byte " << at;
      bytes(block.at)[at] ^= bit;
    }
  }
}

TEST_F(MapDamage, CheckSeesAChangedValueInABlockOfItsOwn) {
  for (const Block& block : blocks_) {
    if (block.bytes <= kMapPageBytes || block.at == 0) continue;
    bytes(block.at)[block.bytes - 1] ^= std::byte{1};
    const auto report = map_->check();
    ASSERT_FALSE(report.damage.empty());
    EXPECT_NE(report.damage.front().find("checksum"), std::string::npos) << report.damage.front();
    bytes(block.at)[block.bytes - 1] ^= std::byte{1};
    return;
  }
  FAIL() << "the map has no value in a block of its own";
}

}  // namespace
}  // namespace btd
