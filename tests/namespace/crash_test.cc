// Random operations on a namespace in emulated NVRAM, crashed at every fence of them.
//
// After each crash: what was acknowledged is there, the operation in flight is there whole or not
// at all, and the result row says truthfully which, so that a request sent again is done once.
#include <gtest/gtest.h>

#include "alloc/crash_harness.h"
#include "alloc/embedded_store.h"
#include "alloc/heap.h"
#include "tests/namespace/model.h"

namespace btd::testing {
namespace {

constexpr unsigned kRoot = 0;
constexpr std::uint64_t kSession = 77;

// A namespace and all that it stands on.
struct Stack {
  std::unique_ptr<Heap> heap;
  std::unique_ptr<EmbeddedStore> store;
  std::unique_ptr<Namespace> ns;

  static Result<Stack> open(ArenaSource& source) {
    Stack stack;
    BTD_ASSIGN(stack.heap, Heap::open(source));
    BTD_ASSIGN(stack.store, EmbeddedStore::open(*stack.heap, kRoot));
    BTD_ASSIGN(stack.ns, Namespace::open(*stack.store));
    return stack;
  }
};

// Runs operations on both sides and tells the states that a crash right now may leave.
class Storm {
 public:
  Storm(std::uint64_t seed, int operations) : random_(seed), operations_(operations) {}

  static Status format(ArenaSource& source) {
    BTD_ASSIGN(auto heap, Heap::format(source, {.lanes = 2, .lane_bytes = 128 * 1024}));
    BTD_ASSIGN(auto store, EmbeddedStore::create(*heap, kRoot));
    BTD_TRY(Namespace::format(*store, 0755));
    return heap->close();
  }

  Status work(ArenaSource& source) {
    BTD_ASSIGN(auto stack, Stack::open(source));
    for (int i = 0; i < operations_; ++i) {
      BTD_ASSIGN(const InodeId id, stack.ns->allocate_id());
      op_ = before_.random(random_);
      after_ = before_;
      const int expected = after_.apply(op_, id);
      tag_ = {.session = kSession, .unique = static_cast<std::uint64_t>(2 * i + 2), .slot = 1};
      in_flight_ = true;
      const int got = apply(*stack.ns, op_, id, tag_);
      stack.ns->id_settled(id);
      if (got != expected)
        return fail(EIO, op_.text() + ": errno " + std::to_string(got) + " instead of " +
                             std::to_string(expected));
      before_ = after_;
      in_flight_ = false;
      succeeded_ += expected == 0;
    }
    return stack.heap->close();
  }

  Status judge(ArenaSource& source) {
    BTD_ASSIGN(auto stack, Stack::open(source));
    if (const auto report = stack.store->check(); !report.damage.empty())
      return fail(EIO, "the map is damaged: " + report.damage.front());
    const std::string found = dump(*stack.ns);
    const std::string before = before_.dump();
    if (!in_flight_)
      return found == before ? Status{} : fail(EIO, "an acknowledged change is lost\n" + found);
    const std::string after = after_.dump();
    if (found == before || found == after) return judge_row(*stack.ns, before, after, found);
    if (op_.kind == Operation::kEraseOrphan && found == without_xattrs()) return {};
    return fail(EIO, "half of " + op_.text() + "\n--- before\n" + before + "--- after\n" + after +
                         "--- found\n" + found);
  }

  [[nodiscard]] int succeeded() const { return succeeded_; }

 private:
  // The row must tell a committed request from one that is not, where the tree can tell them apart.
  Status judge_row(const Namespace& ns, const std::string& before, const std::string& after,
                   const std::string& found) const {
    if (before == after || op_.kind == Operation::kEraseOrphan) return {};
    const bool row = ns.committed(tag_).has_value();
    if (row == (found == after)) return {};
    return fail(EIO,
                op_.text() + (row ? ": a row without the change" : ": a change without a row"));
  }

  // An orphan's attributes go in a commit of their own.
  [[nodiscard]] std::string without_xattrs() const {
    Model model = before_;
    model.clear_xattrs(op_.a);
    return model.dump();
  }

  std::mt19937_64 random_;
  int operations_;
  Model before_, after_;
  Operation op_;
  RequestTag tag_;
  bool in_flight_ = false;
  int succeeded_ = 0;
};

CrashHarness::Report crash(Storm& run, CrashHarness::Options options) {
  options.arena_bytes = 2 << 20;
  return CrashHarness(options).run([](ArenaSource& s) { return Storm::format(s); },
                                   [&](ArenaSource& s) { return run.work(s); },
                                   [&](ArenaSource& s) { return run.judge(s); });
}

class NamespaceCrash : public ::testing::TestWithParam<std::uint64_t> {};

// 10 runs, each over 1,000 crash images: the emulated power goes at every fence.
TEST_P(NamespaceCrash, IsBeforeOrAfterAtEveryFence) {
  Storm run(GetParam(), 900);
  const auto report = crash(run, {.seeds = 3, .seed = GetParam(), .nested = false});
  EXPECT_TRUE(report.ok()) << report.summary();
  EXPECT_GE(report.crashes, 1000U) << report.summary();
  EXPECT_GT(run.succeeded(), 250);
}
INSTANTIATE_TEST_SUITE_P(Seeds, NamespaceCrash, ::testing::Range<std::uint64_t>(1, 11));

TEST(NamespaceCrashInRecovery, IsBeforeOrAfter) {
  Storm run(99, 60);
  const auto report = crash(run, {.seeds = 3, .seed = 99, .nested = true});
  EXPECT_TRUE(report.ok()) << report.summary();
  EXPECT_GT(report.nested, 200U) << report.summary();
}

// A program that forgets a fence must be caught, or the tests above prove nothing.
TEST(NamespaceCrashHarness, CatchesASkippedFence) {
  int caught = 0;
  for (std::uint64_t at = 3; at < 23; ++at) {
    Storm run(5, 40);
    const auto report = crash(run, {.seeds = 8,
                                    .seed = at,
                                    .nested = false,
                                    .mutation = {.kind = Mutation::Kind::kSkipFence, .at = at}});
    caught += !report.failures.empty();
  }
  EXPECT_GE(caught, 10) << "of 20 skipped fences";
}

}  // namespace
}  // namespace btd::testing
