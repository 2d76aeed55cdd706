// The conformance suite over the engine in etcd, on a real server.
#include "tests/alloc/metastore_conformance.h"
#include "tests/etcd/server.h"

namespace {

class EtcdFixture {
 public:
  btd::MetaStore& store() { return *store_; }

 private:
  btd::net::testing::EtcdServer server_;
  std::unique_ptr<btd::net::EtcdStore> store_ = btd::net::testing::open_store(server_.options());
};

INSTANTIATE_TYPED_TEST_SUITE_P(Etcd, MetaStoreConformance, EtcdFixture);

}  // namespace
