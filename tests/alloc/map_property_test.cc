// The ordered map's structure: whatever happens, check() is clean, no block leaks, and a full heap
// still lets go of what it holds.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "alloc/embedded_store.h"
#include "alloc/memory_arenas.h"

namespace btd {
namespace {

constexpr unsigned kSlot = 1;
using Model = std::map<std::string, std::string>;

class MapProperty : public ::testing::Test {
 protected:
  void make(std::uint64_t arena_bytes, std::uint32_t arenas) {
    arenas_ = *MemoryArenas::create(arena_bytes, arenas);
    heap_ = *Heap::format(*arenas_, {.lanes = 2, .lane_bytes = 128 * 1024});
    store_ = *EmbeddedStore::create(*heap_, kSlot);
  }

  void reopen() {
    store_.reset();
    heap_.reset();
    heap_ = *Heap::open(*arenas_);
    store_ = *EmbeddedStore::open(*heap_, kSlot);
  }

  // The structure is sound, holds the model, and uses every block of the heap that is in use.
  OrderedMap::Report judge(const Model& model) {
    std::uint64_t bytes = 0;
    auto report = store_->check([&](Offset block, std::size_t) {
      const auto size = heap_->block_bytes(block);
      EXPECT_TRUE(size.has_value()) << "the map uses a block that is not allocated";
      if (size) bytes += *size;
    });
    for (const auto& sentence : report.damage) ADD_FAILURE() << sentence;
    EXPECT_EQ(bytes, heap_->stats().used_bytes) << "a block leaked";
    EXPECT_EQ(report.entries, model.size());
    auto it = model.begin();
    const Status scanned = store_->scan({}, {}, [&](std::string_view k, std::string_view v) {
      const bool same = it != model.end() && it->first == k && it->second == v;
      EXPECT_TRUE(same);
      if (same) ++it;
      return same;
    });
    EXPECT_TRUE(scanned.has_value());
    EXPECT_TRUE(it == model.end());
    return report;
  }

  Status put(const std::string& key, const std::string& value) {
    Batch b;
    b.put(key, value);
    return store_->commit(b);
  }
  Status erase(const std::string& key) {
    Batch b;
    b.erase(key);
    return store_->commit(b);
  }

  std::unique_ptr<MemoryArenas> arenas_;
  std::unique_ptr<Heap> heap_;
  std::unique_ptr<EmbeddedStore> store_;
};

std::string number(std::uint64_t n) {
  std::string s(8, '\0');
  for (int i = 7; i >= 0; --i, n >>= 8) s[static_cast<std::size_t>(i)] = static_cast<char>(n);
  return s;
}

struct Shape {
  const char* name;
  unsigned key_min, key_max, value_max, alphabet, operations;
};

class MapShapes : public MapProperty, public ::testing::WithParamInterface<Shape> {};

// Grows and shrinks the map in waves, so that every kind of split and merge happens.
TEST_P(MapShapes, SoundThroughGrowthAndShrinking) {
  const Shape& shape = GetParam();
  make(16 << 20, 16);
  std::mt19937_64 rng(shape.key_max * 31 + shape.value_max);
  Model model;
  auto random_key = [&] {
    std::string key(shape.key_min + rng() % (shape.key_max - shape.key_min + 1), '\0');
    // A long common beginning, so that prefixes are long and change.
    const std::size_t same = rng() % 2 == 0 ? 0 : rng() % key.size();
    for (std::size_t i = 0; i < key.size(); ++i)
      key[i] = static_cast<char>(i < same ? 'p' : 'a' + rng() % shape.alphabet);
    return key;
  };
  for (unsigned op = 0; op < shape.operations; ++op) {
    const bool shrink = op / (shape.operations / 6) % 2 == 1;
    Batch b;
    for (unsigned i = 1 + static_cast<unsigned>(rng() % 4); i > 0; --i) {
      std::string key = random_key();
      if (rng() % 2 == 0 && !model.empty()) {
        auto it = model.lower_bound(key);
        key = it == model.end() ? model.begin()->first : it->first;
      }
      if (rng() % 8 < (shrink ? 6U : 1U)) {
        b.erase(key);
        model.erase(key);
      } else {
        const std::string value(rng() % (shape.value_max + 1), static_cast<char>(rng()));
        b.put(key, value);
        model[key] = value;
      }
    }
    const Status s = store_->commit(b);
    ASSERT_TRUE(s.has_value()) << s.error().message;
    if (op % (shape.operations / 40) == 0) judge(model);
    if (HasFailure()) FAIL() << "at operation " << op;
  }
  reopen();
  judge(model);
  while (!model.empty()) {
    const std::string key = model.begin()->first;
    ASSERT_TRUE(erase(key).has_value());
    model.erase(key);
  }
  const auto report = judge(model);
  EXPECT_EQ(report.leaves + report.inners, 0U);
}

INSTANTIATE_TEST_SUITE_P(Map, MapShapes,
                         ::testing::Values(Shape{"OneByteKeys", 1, 2, 3, 26, 6000},
                                           Shape{"ShortKeys", 1, 24, 60, 26, 8000},
                                           Shape{"TwoLetterKeys", 1, 14, 0, 2, 8000},
                                           Shape{"LongKeys", 400, 512, 20, 3, 3000},
                                           Shape{"LongKeysAndValues", 300, 512, 1024, 3, 2500},
                                           Shape{"MixedValues", 8, 40, 2200, 26, 4000},
                                           Shape{"LargeValues", 4, 9, 65600, 26, 1200}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST_F(MapProperty, AscendingKeysFillTheirPages) {
  make(16 << 20, 8);
  Model model;
  for (std::uint64_t i = 0; i < 60; ++i) model["r" + number(i)] = std::string(16, 'r');
  for (const auto& [k, v] : model) ASSERT_TRUE(put(k, v).has_value());
  for (std::uint64_t i = 0; i < 40000; ++i) {
    const auto [it, fresh] = model.emplace("i" + number(i), std::string(80, 'v'));
    ASSERT_TRUE(put(it->first, it->second).has_value());
  }
  const auto report = judge(model);
  const auto room = static_cast<double>((report.leaves + report.inners) * kMapRoom);
  const double fill = static_cast<double>(report.used_bytes) / room;
  RecordProperty("fill", std::to_string(fill));
  EXPECT_GT(fill, 0.95);
}

TEST_F(MapProperty, RandomKeysFillTwoThirds) {
  make(16 << 20, 8);
  Model model;
  std::mt19937_64 rng(5);
  while (model.size() < 40000) {
    const auto [it, fresh] = model.emplace("d" + number(7) + number(rng()), std::string(9, 'v'));
    ASSERT_TRUE(put(it->first, it->second).has_value());
  }
  const auto report = judge(model);
  const auto room = static_cast<double>((report.leaves + report.inners) * kMapRoom);
  const double fill = static_cast<double>(report.used_bytes) / room;
  RecordProperty("fill", std::to_string(fill));
  EXPECT_GT(fill, 0.62);
}

TEST_F(MapProperty, AnEmptiedPageGoesAwayAndUnderfullOnesMerge) {
  make(16 << 20, 8);
  Model model;
  for (std::uint64_t i = 0; i < 20000; ++i) model["k" + number(i)] = std::string(60, 'v');
  for (const auto& [k, v] : model) ASSERT_TRUE(put(k, v).has_value());
  const auto full = judge(model);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    if (i % 10 == 0) continue;
    ASSERT_TRUE(erase("k" + number(i)).has_value());
    model.erase("k" + number(i));
  }
  const auto thin = judge(model);
  EXPECT_LT(thin.leaves, full.leaves / 3);
}

// ENOSPC changes nothing; a full heap can be emptied, also by batches that write a little.
TEST_F(MapProperty, AFullHeapCanBeEmptied) {
  make(2 << 20, 1);
  Model model;
  std::mt19937_64 rng(11);
  unsigned refused = 0;
  while (refused < 200) {
    const std::string key = "k" + number(rng());
    const std::string value(rng() % (refused == 0 ? 3000 : 200), 'v');
    const Status s = put(key, value);
    if (s) {
      model[key] = value;
      continue;
    }
    ASSERT_EQ(s.error().code, ENOSPC) << s.error().message;
    if (refused++ % 50 == 0) judge(model);
  }
  judge(model);
  ASSERT_GT(model.size(), 500U);
  std::uint64_t row = 0;
  while (!model.empty()) {
    auto it = model.lower_bound("k" + number(rng()));
    if (it == model.end() || it->first[0] != 'k') it = model.begin();
    Batch b;
    b.erase(it->first);
    if (row % 2 == 0 && it->first[0] == 'k') {
      b.put("r" + number(row % 32), number(row));
      model["r" + number(row % 32)] = number(row);
    }
    const Status s = store_->commit(b);
    ASSERT_TRUE(s.has_value()) << s.error().message << " with " << model.size() << " left";
    model.erase(it);
    if (++row % 300 == 0) judge(model);
  }
  judge(model);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    model[number(i)] = std::string(100, 'x');
    ASSERT_TRUE(put(number(i), model[number(i)]).has_value());
  }
  judge(model);
}

TEST_F(MapProperty, OpenRefusesWhatIsNoMap) {
  make(2 << 20, 1);
  EXPECT_EQ(EmbeddedStore::open(*heap_, kSlot + 1).error().code, ENOENT);
  EXPECT_EQ(EmbeddedStore::create(*heap_, kSlot).error().code, EEXIST);
  auto poke = [&](std::size_t at, std::uint64_t value) {
    std::memcpy(arenas_->base() + heap_->root(kSlot) + at, &value, sizeof value);
  };
  poke(offsetof(MapHeader, version), 99);
  EXPECT_EQ(EmbeddedStore::open(*heap_, kSlot).error().code, EPROTO);
  poke(offsetof(MapHeader, magic), 99);
  EXPECT_EQ(EmbeddedStore::open(*heap_, kSlot).error().code, EIO);
}

// The promises on cost: one fence a commit, few lines.
TEST_F(MapProperty, ACommitIsOneFence) {
  make(16 << 20, 1);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    Batch b;
    b.put("i" + number(i), std::string(80, 'v'));
    b.put("d" + number(i * 7919 % 2003), "name");
    ASSERT_TRUE(store_->commit(b).has_value());
  }
  const auto before = store_->stats();
  for (std::uint64_t i = 0; i < 100; ++i) {
    Batch b;
    b.put("i" + number(i), std::string(80, 'w'));
    b.put("d" + number(i * 7919 % 2003), "NAME");
    b.erase("d" + number((i + 1000) * 7919 % 2003));
    ASSERT_TRUE(store_->commit(b).has_value());
  }
  const auto after = store_->stats();
  EXPECT_LE(after.fences - before.fences, 102U);
  EXPECT_LE(after.lines - before.lines, 100U * 12);
}

}  // namespace
}  // namespace btd
