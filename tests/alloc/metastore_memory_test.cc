// The conformance suite over the engine in DRAM.
#include "alloc/memory_store.h"
#include "tests/alloc/metastore_conformance.h"

namespace {

class MemoryFixture {
 public:
  btd::MetaStore& store() { return store_; }

 private:
  btd::MemoryStore store_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Memory, MetaStoreConformance, MemoryFixture);

}  // namespace
