// The namespace on the etcd engine: random operations there and on the model, and two nodes on one
// tree at once.
#include <thread>

#include "fs/namespace/namespace.h"
#include "tests/etcd/server.h"
#include "tests/namespace/model.h"

namespace btd::net::testing {
namespace {

TEST(EtcdNamespace, AnswersAndTreesAgreeWithTheModel) {
  EtcdServer server;
  const auto store = open_store(server.options());
  const auto witness = open_store(server.options());
  ASSERT_TRUE(Namespace::format(*store, 0755));
  const auto ns = Namespace::open(*store);
  ASSERT_TRUE(ns);
  btd::testing::Model model;
  std::mt19937_64 random(7);
  for (int i = 0; i < 1500; ++i) {
    const btd::testing::Operation op = model.random(random);
    const auto id = (*ns)->allocate_id();
    ASSERT_TRUE(id);
    const int expected = model.apply(op, *id);
    ASSERT_EQ(btd::testing::apply(**ns, op, *id, {}), expected) << op.text();
    (*ns)->id_settled(*id);
    if (i % 64 == 0) {
      ASSERT_EQ(btd::testing::dump(**ns), model.dump()) << op.text();
    }
  }
  ASSERT_TRUE(eventually([&] { return dump(*witness) == dump(*store); }));
  const auto other = Namespace::open(*witness);
  ASSERT_TRUE(other);
  EXPECT_EQ(btd::testing::dump(**other), model.dump());
}

TEST(EtcdNamespace, ConcurrentNodesMakeAndRemoveNamesInOneDirectory) {
  EtcdServer server;
  const auto a = open_store(server.options());
  ASSERT_TRUE(Namespace::format(*a, 0755));
  const auto b = open_store(server.options());
  std::vector<std::thread> nodes;
  for (EtcdStore* store : {a.get(), b.get()})
    nodes.emplace_back([store, first = store == a.get()] {
      const auto ns = Namespace::open(*store);
      ASSERT_TRUE(ns);
      for (int i = 0; i < 100; ++i) {
        const std::string name = (first ? "a" : "b") + std::to_string(i);
        // Of ranges apart: two namespaces on one store reserve the same ids.
        const InodeId id = (first ? 1'000'000U : 2'000'000U) + static_cast<InodeId>(i);
        const auto made = (*ns)->create(kRootId, name, id, {.mode = S_IFREG | 0644}, {});
        ASSERT_TRUE(made) << made.error().message;
        if (i % 2 == 0) {
          const auto gone = (*ns)->unlink(kRootId, name, {});
          ASSERT_TRUE(gone) << name << " " << gone.error().code << gone.error().message;
          ASSERT_TRUE((*ns)->erase_orphan(id));
        }
      }
    });
  for (auto& node : nodes) node.join();
  const auto late = open_store(server.options());
  const auto ns = Namespace::open(*late);
  ASSERT_TRUE(ns);
  const auto entries = (*ns)->list(kRootId, 0, 1000);
  ASSERT_TRUE(entries);
  EXPECT_EQ(entries->size(), 100U);
}

}  // namespace
}  // namespace btd::net::testing
