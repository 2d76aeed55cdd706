// A user of the journal dies in the middle of a commit, at every stage of it; another buries it.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "alloc/crc.h"
#include "alloc/emulator.h"
#include "alloc/journal.h"

namespace btd {
namespace {

constexpr Offset kWhere = kPageBytes;
constexpr Journal::Geometry kGeometry{.lanes = 2, .lane_bytes = 1024};
constexpr Offset kData = kWhere + sizeof(JournalHeader) + 2 * 1024;
constexpr unsigned kDead = 7;
constexpr std::size_t kWords = 12;

// Number 0 is we; whoever died is in the set.
class FewUsers : public Users {
 public:
  bool alive(unsigned user) override { return !dead.contains(user); }
  std::set<unsigned> dead;
};

class Burial : public testing::Test {
 protected:
  void SetUp() override {
    auto made = EmulatedNvram::create(64 * 1024, 1);
    ASSERT_TRUE(made);
    source_ = *std::move(made);
    Journal::format(source_->persist(), source_->base() + kWhere, kGeometry);
    ASSERT_TRUE(source_->persist().drain());
    auto opened = Journal::open(source_->persist(), source_->base(), kWhere,
                                reinterpret_cast<ArenaHeader*>(source_->base())->heap, context_);
    ASSERT_TRUE(opened);
    journal_ = *std::move(opened);
    ASSERT_TRUE(journal_->recover(source_->arena_bytes()));
  }

  LaneShared& lane(unsigned i) {
    return reinterpret_cast<JournalHeader*>(source_->base() + kWhere)->shared[i];
  }
  std::uint64_t word(std::size_t i) const {
    std::uint64_t value = 0;
    std::memcpy(&value, source_->base() + kData + i * 8, sizeof value);
    return value;
  }
  void fill(Record& record, std::uint64_t value) {
    record.clear();
    for (std::size_t i = 0; i < kWords; ++i) record.set64(kData + i * 8, value);
  }
  Status commit(std::uint64_t value) {
    Record record;
    fill(record, value);
    const auto seq = journal_->commit(record);
    return seq ? Status{} : std::unexpected(seq.error());
  }

  // What a user leaves that died in a commit of lane 0: so many bytes of the record were written,
  // so many of its words were applied, and it ended before or after it moved the tail.
  void die_in_commit(std::uint64_t value, std::size_t written, std::size_t applied, bool tail) {
    ASSERT_TRUE(SharedLock::try_lock(lane(0).lock, kDead));
    auto& shared = reinterpret_cast<ArenaHeader*>(source_->base())->heap;
    const std::uint64_t seq = shared.next_seq.shared().fetch_add(1);
    lane(0).in_flight = seq;
    Record record;
    fill(record, value);
    const auto sealed = record.seal(seq);
    std::memcpy(source_->base() + kWhere + sizeof(JournalHeader) + lane(0).tail, sealed.data(),
                std::min(written, sealed.size()));
    for (std::size_t i = 0; i < applied; ++i)
      std::memcpy(source_->base() + kData + i * 8, &value, sizeof value);
    if (tail) lane(0).tail = lane(0).tail + sealed.size();
    users_.dead.insert(kDead);
  }
  // The words are all `value`, and so after a power cut.
  void expect_all(std::uint64_t value) {
    for (std::size_t i = 0; i < kWords; ++i) EXPECT_EQ(word(i), value) << i;
  }
  void bury(unsigned user) {
    journal_->bury(user, [this](Offset word, std::uint64_t bits) { freed_[word] |= bits; });
  }
  void expect_free() {
    EXPECT_EQ(SharedLock::holder(lane(0).lock), Users::kMax);
    EXPECT_EQ(lane(0).in_flight.load(), 0U);
  }

  std::map<Offset, std::uint64_t> freed_;  // by burials
  std::unique_ptr<EmulatedNvram> source_;
  FewUsers users_;
  std::unique_ptr<Journal> journal_;
  const SharedLock::Context context_{users_, [this](unsigned user) { bury(user); }};
};

constexpr std::size_t kWhole = ~std::size_t{0};

TEST_F(Burial, FinishesARecordThatIsWhole) {
  for (std::size_t applied = 0; applied <= kWords; ++applied) {
    users_.dead.clear();
    die_in_commit(100 + applied, kWhole, applied, false);
    bury(kDead);
    expect_all(100 + applied);
    expect_free();
    std::vector<Slot> ripe;
    ASSERT_TRUE(journal_->checkpoint(ripe));
  }
}

TEST_F(Burial, DropsARecordThatIsNot) {
  ASSERT_TRUE(commit(1));
  for (std::size_t written = 0; written < 24 + kWords * 16; written += 8) {
    users_.dead.clear();
    die_in_commit(200, written, 0, false);
    bury(kDead);
    expect_all(1);
    expect_free();
  }
  // What lies torn in the lane is in nobody's way.
  ASSERT_TRUE(commit(2));
  expect_all(2);
}

// What the record frees is claimed from then on, until the owner takes it back.
TEST_F(Burial, TellsWhatTheRecordFreed) {
  ASSERT_TRUE(SharedLock::try_lock(lane(0).lock, kDead));
  auto& shared = reinterpret_cast<ArenaHeader*>(source_->base())->heap;
  const std::uint64_t seq = shared.next_seq.shared().fetch_add(1);
  lane(0).in_flight = seq;
  Record record;
  record.or64(kData, 0xF0);
  record.and64(kData + 16, ~std::uint64_t{5});
  const auto sealed = record.seal(seq);
  std::memcpy(source_->base() + kWhere + sizeof(JournalHeader), sealed.data(), sealed.size());
  users_.dead.insert(kDead);
  bury(kDead);
  EXPECT_EQ(freed_, (std::map<Offset, std::uint64_t>{{kData + 16, 5}}));
}

// It died between the watermark and the emptying of the lanes: a record that comes to lie behind
// those that are void would be taken for damage.
TEST_F(Burial, FinishesACheckpointThatRaisedTheWatermark) {
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_TRUE(commit(i));
  auto& shared = reinterpret_cast<ArenaHeader*>(source_->base())->heap;
  auto* const header = reinterpret_cast<JournalHeader*>(source_->base() + kWhere);
  for (unsigned i = 0; i < 2; ++i) ASSERT_TRUE(SharedLock::try_lock(lane(i).lock, kDead));
  source_->persist().store(header->watermark, checked_word(shared.next_seq.load() - 1));
  users_.dead.insert(kDead);
  bury(kDead);
  for (unsigned i = 0; i < 2; ++i) EXPECT_EQ(lane(i).tail.load(), 0U);
  ASSERT_TRUE(commit(5));
  auto again = Journal::open(source_->persist(), source_->base(), kWhere, shared, context_);
  ASSERT_TRUE(again);
  const auto recovered = (*again)->recover(source_->arena_bytes());
  ASSERT_TRUE(recovered) << recovered.error().message;
  EXPECT_EQ(recovered->records, 1U);
  expect_all(5);
}

TEST_F(Burial, DoesNothingTwice) {
  die_in_commit(5, kWhole, kWords, true);
  bury(kDead);
  expect_all(5);
  expect_free();
  const std::uint64_t tail = lane(0).tail;
  bury(kDead);
  EXPECT_EQ(tail, lane(0).tail.load());
}

TEST_F(Burial, WhoWaitsForTheDeadBuriesThem) {
  die_in_commit(9, kWhole, 3, false);
  std::vector<Slot> ripe;
  ASSERT_TRUE(journal_->checkpoint(ripe));  // needs all lanes
  expect_all(9);
  expect_free();
}

TEST_F(Burial, AHolderThatLivesAndStandsStillIsAnErrorThatNamesTheJournal) {
  ASSERT_TRUE(SharedLock::try_lock(lane(1).lock, kDead));
  std::vector<Slot> ripe;
  const Status waited = journal_->checkpoint(ripe);
  ASSERT_FALSE(waited);
  EXPECT_EQ(waited.error().code, ETIMEDOUT);
  EXPECT_NE(waited.error().message.find("holds the journal"), std::string::npos);
}

TEST(SharedLockWait, ADeadHolderThatCannotBeBuriedIsAnErrorThatSaysWhatToDo) {
  FewUsers users;
  users.dead.insert(kDead);
  int burials = 0;
  const SharedLock::Context context{users, [&](unsigned user) { burials += user == kDead; }};
  transient<std::uint32_t> word{};
  ASSERT_TRUE(SharedLock::try_lock(word, kDead));
  const Status waited = SharedLock::lock(word, context, "the roots");
  ASSERT_FALSE(waited);
  EXPECT_EQ(waited.error().code, ETIMEDOUT);
  EXPECT_NE(waited.error().message.find("died holding the roots"), std::string::npos);
  EXPECT_GT(burials, 1);
  SharedLock::release_of(word, kDead);
  EXPECT_TRUE(SharedLock::lock(word, context, "the roots"));
}

// The test itself: without the burial's work the record is half done, and that is seen.
TEST_F(Burial, ForgettingTheDeadLeavesHalf) {
  ASSERT_TRUE(commit(1));
  journal_->inject(Journal::Fault::kForgetDead);
  die_in_commit(2, kWhole, 3, false);
  bury(kDead);
  EXPECT_EQ(word(0), 2U);
  EXPECT_EQ(word(kWords - 1), 1U);
}

}  // namespace
}  // namespace btd
