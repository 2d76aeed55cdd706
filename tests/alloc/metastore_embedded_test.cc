// The conformance suite over the engine in NVRAM, and what only this engine promises.
#include "alloc/embedded_store.h"
#include "alloc/memory_arenas.h"
#include "tests/alloc/metastore_conformance.h"

namespace {

using namespace btd;

constexpr unsigned kSlot = 3;

class EmbeddedFixture {
 public:
  EmbeddedFixture() {
    arenas_ = *MemoryArenas::create(32 << 20, 4);
    heap_ = *Heap::format(*arenas_, {.lanes = 4, .lane_bytes = 256 * 1024});
    store_ = *EmbeddedStore::create(*heap_, kSlot);
  }
  ~EmbeddedFixture() {
    const auto report = store_->check();
    for (const auto& sentence : report.damage) ADD_FAILURE() << sentence;
    EXPECT_EQ(report.entries, store_->stats().entries);
  }
  EmbeddedFixture(const EmbeddedFixture&) = delete;
  EmbeddedFixture& operator=(const EmbeddedFixture&) = delete;

  MetaStore& store() { return *store_; }

 private:
  std::unique_ptr<MemoryArenas> arenas_;
  std::unique_ptr<Heap> heap_;
  std::unique_ptr<EmbeddedStore> store_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Embedded, MetaStoreConformance, EmbeddedFixture);

}  // namespace
