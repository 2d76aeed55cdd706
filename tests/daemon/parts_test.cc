// The small parts of the daemon that need no mount: histograms, space, the worker's argument,
// who gets a backing file.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <span>
#include <string>

#include "alloc/unique_fd.h"
#include "fs/daemon/backing_grant.h"
#include "fs/daemon/companion.h"
#include "fs/daemon/daemon.h"
#include "fs/daemon/mappers.h"
#include "fs/daemon/metrics.h"
#include "fs/daemon/mounting.h"
#include "fs/daemon/space.h"
#include "fs/daemon/spin.h"

namespace btd {
namespace {

TEST(SpinPolicy, SpinsOnlyWhileRequestsFollowEachOtherClosely) {
  SpinPolicy policy(50);
  EXPECT_EQ(0U, policy.spin_ns());  // nothing is known yet
  policy.waited(120'000);           // a sleep and its wake-up
  EXPECT_EQ(50'000U, policy.spin_ns());
  policy.waited(1'000'000);  // one request a millisecond
  EXPECT_EQ(0U, policy.spin_ns());
  policy.waited(3'000);
  EXPECT_EQ(50'000U, policy.spin_ns());
}

TEST(SpinPolicy, NeverSpinsWhenSetToZero) {
  SpinPolicy policy(0);
  policy.waited(0);
  EXPECT_EQ(0U, policy.spin_ns());
}

using Advice = CompanionPolicy::Advice;

// So many requests of `thread`, one each microsecond from `now` on; what the last one advised.
Advice ask(CompanionPolicy& policy, pid_t thread, unsigned times, std::uint64_t& now) {
  Advice last{};
  for (unsigned i = 0; i < times; ++i) last = policy.request(thread, now += 1000, false);
  return last;
}

TEST(CompanionPolicy, GoesBesideAThreadThatAsksAlone) {
  CompanionPolicy policy;
  std::uint64_t now = 1'000'000'000;
  EXPECT_EQ(Advice::kApart, ask(policy, 7, CompanionPolicy::kStreak, now));
  EXPECT_EQ(Advice::kMove, ask(policy, 7, 1, now));
  EXPECT_EQ(Advice::kBeside, ask(policy, 7, 1, now));
  EXPECT_EQ(Advice::kMove, ask(policy, 7, CompanionPolicy::kLookAgain - 1, now));
}

TEST(CompanionPolicy, LooksAgainAfterAWait) {
  CompanionPolicy policy;
  std::uint64_t now = 1'000'000'000;
  ask(policy, 7, CompanionPolicy::kStreak + 2, now);
  EXPECT_EQ(Advice::kMove, policy.request(7, now += 1000, true));
}

TEST(CompanionPolicy, LeavesForAnotherThreadOrAPause) {
  CompanionPolicy policy;
  std::uint64_t now = 1'000'000'000;
  ask(policy, 7, CompanionPolicy::kStreak + 2, now);
  EXPECT_EQ(Advice::kApart, ask(policy, 8, 1, now));
  EXPECT_EQ(Advice::kApart, ask(policy, 7, 1, now));
  ask(policy, 7, CompanionPolicy::kStreak + 2, now);
  now += CompanionPolicy::kCloseNs;
  EXPECT_EQ(Advice::kApart, ask(policy, 7, 1, now));
}

TEST(CompanionPolicy, HeedsNoRequestThatNobodyWaitsFor) {
  CompanionPolicy policy;
  std::uint64_t now = 1'000'000'000;
  EXPECT_EQ(Advice::kApart, ask(policy, 0, 2 * CompanionPolicy::kStreak, now));
  ask(policy, 7, CompanionPolicy::kStreak + 2, now);
  EXPECT_EQ(Advice::kBeside, ask(policy, 0, 1, now));
  EXPECT_EQ(Advice::kBeside, ask(policy, 7, 1, now));
}

// Requests of `client`, until the calling thread counts as idle beside it. A slow machine may take
// longer from one to the next than the policy or the guard allows: then a new streak begins.
bool serve_until_beside(Companion& companion, pid_t client) {
  const std::uint64_t until = monotonic_ns() + 10'000'000'000;
  std::uint64_t now = monotonic_ns();
  do {
    companion.serve(client, now += 1000, false);
  } while (!(companion.beside() && sched_getscheduler(0) == SCHED_IDLE) && monotonic_ns() < until);
  return companion.beside();
}

// The leader counts as idle and does nothing more, as if it starved: the guard ends that.
TEST(Companion, TheGuardFreesALeaderThatDoesNotGetOnBesideItsClientThread) {
  Companion companion(true);
  if (!companion.possible()) GTEST_SKIP() << "one processor, or no way back from SCHED_IDLE";
  const pid_t client = gettid();
  std::atomic<pid_t> leader{0};
  std::atomic<bool> freed{false};
  std::thread thread([&] {
    EXPECT_TRUE(serve_until_beside(companion, client));
    leader = gettid();
    while (!freed) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    companion.serve(client, monotonic_ns(), false);
    EXPECT_FALSE(companion.beside());
    EXPECT_EQ(SCHED_OTHER, sched_getscheduler(0));
  });
  const std::uint64_t until = monotonic_ns() + 10'000'000'000;
  while (leader == 0) std::this_thread::yield();
  while (sched_getscheduler(leader) != SCHED_OTHER && monotonic_ns() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(SCHED_OTHER, sched_getscheduler(leader));
  freed = true;
  thread.join();
}

TEST(Companion, GivesBackPolicyAndProcessorsToAThreadThatLeaves) {
  Companion companion(true);
  if (!companion.possible()) GTEST_SKIP() << "one processor, or no way back from SCHED_IDLE";
  cpu_set_t before;
  cpu_set_t after;
  ASSERT_EQ(0, sched_getaffinity(0, sizeof before, &before));
  EXPECT_TRUE(serve_until_beside(companion, getpid()));
  companion.rest();
  EXPECT_EQ(SCHED_OTHER, sched_getscheduler(0));
  companion.leave();
  ASSERT_EQ(0, sched_getaffinity(0, sizeof after, &after));
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST(Histogram, BucketsAreNarrowAndInOrder) {
  unsigned last = 0;
  for (std::uint64_t ns = 1; ns < (std::uint64_t{1} << 36); ns += ns / 64 + 1) {
    const unsigned bucket = Histogram::bucket(ns);
    ASSERT_GE(bucket, last);
    ASSERT_LE(ns, Histogram::upper_bound(bucket));
    ASSERT_LE(static_cast<double>(Histogram::upper_bound(bucket)),
              static_cast<double>(ns) * 1.13 + 1);
    last = bucket;
  }
  EXPECT_EQ(Histogram::kBuckets - 1, Histogram::bucket(~std::uint64_t{0}));
}

TEST(Metrics, PercentilesAndTrace) {
  Metrics metrics;
  for (std::uint64_t i = 1; i <= 1000; ++i) {
    TraceRecord record;
    record.when_ns = i;
    record.opcode = proto::kLookup;
    record.latency_ns = i * 1000;
    record.result = i % 10 == 0 ? ENOENT : 0;
    metrics.mine().record(record);
  }
  const auto summaries = metrics.summaries();
  ASSERT_EQ(1U, summaries.size());
  EXPECT_EQ(1000U, summaries[0].count);
  EXPECT_EQ(100U, summaries[0].errors);
  EXPECT_EQ(1'000'000U, summaries[0].max);
  EXPECT_NEAR(500'000, static_cast<double>(summaries[0].p50), 70'000);
  EXPECT_NEAR(990'000, static_cast<double>(summaries[0].p99), 130'000);
  const auto trace = metrics.trace();
  ASSERT_EQ(ThreadMetrics::kTrace, trace.size());
  EXPECT_EQ(1000U, trace.back().when_ns);
}

TEST(WorkerArgs, TravelWhole) {
  WorkerArgs args;
  args.pool = "/a \"b\"\\\xff\x80/pool";
  args.mountpoint = "/mnt/\xc3\xa4";
  args.io_uring = true;
  args.spin_us = 7;
  args.share_processor = false;
  args.state_fd = 11;
  args.control_fd = 12;
  args.lock_fd = 13;
  const auto parsed = WorkerArgs::parse(args.to_argument());
  ASSERT_TRUE(parsed);
  EXPECT_EQ(args.pool, parsed->pool);
  EXPECT_EQ(args.mountpoint, parsed->mountpoint);
  EXPECT_TRUE(parsed->io_uring);
  EXPECT_EQ(7, parsed->spin_us);
  EXPECT_FALSE(parsed->share_processor);
  EXPECT_EQ(11, parsed->state_fd);
  EXPECT_FALSE(WorkerArgs::parse("nonsense"));
  EXPECT_FALSE(WorkerArgs::parse("{}"));
}

TEST(MountOptions, UnknownOnesAreNamed) {
  EXPECT_TRUE(check_mount_options({"noatime", "nosuid", "x-systemd.automount", "_netdev"}));
  const auto refused = check_mount_options({"noatime", "frobnicate"});
  ASSERT_FALSE(refused);
  EXPECT_NE(std::string::npos, refused.error().message.find("frobnicate"));
}

class SpaceTest : public testing::Test {
 protected:
  void SetUp() override { fd_.reset(memfd_create("space", MFD_CLOEXEC)); }
  struct stat stat() const {
    struct stat st{};
    EXPECT_EQ(0, fstat(fd_.get(), &st));
    return st;
  }
  UniqueFd fd_;
};

TEST_F(SpaceTest, GrowthReservesUnlessSparse) {
  ASSERT_TRUE(space::resize(fd_.get(), 1 << 20, false));
  EXPECT_EQ(1 << 20, stat().st_size);
  EXPECT_GE(stat().st_blocks * 512, 1 << 20);
  ASSERT_TRUE(space::resize(fd_.get(), 0, false));
  ASSERT_TRUE(space::resize(fd_.get(), 1 << 20, true));
  EXPECT_EQ(0, stat().st_blocks);
  ASSERT_TRUE(space::fill_holes(fd_.get()));
  EXPECT_GE(stat().st_blocks * 512, 1 << 20);
}

TEST_F(SpaceTest, ZeroRangeKeepsItsNeighbours) {
  const std::string bytes(64 * 1024, 'x');
  ASSERT_EQ(static_cast<ssize_t>(bytes.size()), pwrite(fd_.get(), bytes.data(), bytes.size(), 0));
  ASSERT_TRUE(space::allocate(fd_.get(), FALLOC_FL_ZERO_RANGE, 100, 9000));
  std::string back(bytes.size(), '?');
  ASSERT_EQ(static_cast<ssize_t>(back.size()), pread(fd_.get(), back.data(), back.size(), 0));
  std::string expected = bytes;
  expected.replace(100, 9000, 9000, '\0');
  EXPECT_EQ(expected, back);
  ASSERT_TRUE(space::allocate(fd_.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 65000, 9000));
  EXPECT_EQ(64 * 1024, stat().st_size);
  ASSERT_TRUE(space::allocate(fd_.get(), FALLOC_FL_ZERO_RANGE, 65000, 9000));
  EXPECT_EQ(74000, stat().st_size);
  const auto refused = space::allocate(fd_.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
  ASSERT_FALSE(refused);
  EXPECT_EQ(EOPNOTSUPP, refused.error().code);
}

TEST(BackingGrant, GivesTheAccessOfTheOpenAndNoMore) {
  const std::uint32_t plain = S_IFREG | 0600;
  for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
    const auto granted = backing_flags(handle_of_open(flags | O_APPEND | O_TRUNC | O_SYNC), plain);
    ASSERT_TRUE(granted);
    EXPECT_EQ(flags, *granted);
  }
  EXPECT_EQ(EBADF, backing_flags(handle_of_open(O_ACCMODE), plain).error().code);
  EXPECT_EQ(EBADF, backing_flags(0, plain).error().code);  // a handle from before there were any
  EXPECT_EQ(EBADF, backing_flags(~std::uint64_t{0}, plain).error().code);
}

TEST(BackingGrant, RefusesWhereTheViewsWouldDiffer) {
  const std::uint64_t both = handle_of_open(O_RDWR);
  for (const mode_t type :
       std::initializer_list<mode_t>{S_IFDIR, S_IFLNK, S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK})
    EXPECT_EQ(EINVAL, backing_flags(both, type | 0600).error().code);
  EXPECT_EQ(EPERM, backing_flags(both, S_IFREG | S_ISUID | 0755).error().code);
  EXPECT_EQ(EPERM, backing_flags(both, S_IFREG | S_ISGID | 0644).error().code);
  EXPECT_FALSE(backing_flags(both, S_IFREG | S_ISUID | 0755).error().message.empty());
  EXPECT_TRUE(backing_flags(both, S_IFREG | S_ISVTX | 0644));
}

TEST(BackingGrant, ReadsWholeMessagesOfItsVersionOnly) {
  backing::Ask ask{.ticket = {{3, 4}}};
  const auto bytes = [&] { return std::as_bytes(std::span(&ask, 1)); };
  ASSERT_TRUE(read_ask(bytes(), false));
  EXPECT_EQ(ask.ticket, *read_ask(bytes(), false));
  EXPECT_EQ(EPROTO, read_ask(bytes(), true).error().code);
  EXPECT_EQ(EPROTO, read_ask({}, false).error().code);
  EXPECT_EQ(EPROTO, read_ask(bytes().first(sizeof ask - 1), false).error().code);
  const backing::Ask two[2];
  EXPECT_EQ(EPROTO, read_ask(std::as_bytes(std::span(two)), false).error().code);
  ask.version = 2;
  EXPECT_EQ(EPROTONOSUPPORT, read_ask(bytes(), false).error().code);
  ask = {.magic = 0, .ticket = {}};
  EXPECT_EQ(EPROTO, read_ask(bytes(), false).error().code);
}

TEST(Tickets, AreGoodOnceAndNotForLong) {
  Tickets tickets;
  const backing::Ticket first{{1, 1}}, second{{2, 2}};
  tickets.add(first, Grant{7, kHandleReads}, 100);
  tickets.add(second, Grant{8, kHandleWrites}, 100);
  EXPECT_FALSE(tickets.take({{1, 2}}, 100));
  EXPECT_FALSE(tickets.take({}, 100));  // what an unused entry looks like
  const auto grant = tickets.take(first, 100 + Tickets::kLifeNs);
  ASSERT_TRUE(grant);
  EXPECT_EQ(7U, grant->id);
  EXPECT_EQ(kHandleReads, grant->handle);
  EXPECT_FALSE(tickets.take(first, 101));
  EXPECT_FALSE(tickets.take(second, 101 + Tickets::kLifeNs));
  EXPECT_FALSE(tickets.take(second, 101));
}

TEST(Tickets, KeepTheLatest) {
  Tickets tickets;
  for (std::uint64_t i = 1; i <= Tickets::kMost + 1; ++i)
    tickets.add({{i, i}}, Grant{i, kHandleReads}, 0);
  EXPECT_FALSE(tickets.take({{1, 1}}, 0));
  for (std::uint64_t i = 2; i <= Tickets::kMost + 1; ++i)
    EXPECT_EQ(i, tickets.take({{i, i}}, 0).value_or(Grant{}).id);
}

TEST(Mappers, FindsWhatIsMappedOfADevice) {
  const std::string maps =
      "00400000-00401000 r-xp 00000000 fe:00 17     /usr/bin/program\n"
      "7f0000000000-7f0000200000 rw-s 00001000 00:2a 4503599627370497    /mnt/a name (deleted)\n"
      "7f0000200000-7f0000201000 rw-s 00000000 01:2a 5 /dev/other\n"
      "7f0000300000-7f0000301000 rw-s 00000000 00:12a 6 /mnt/other\n"
      "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0    [stack]\n"
      "no line of maps\n";
  const auto ranges = ranges_of_device(maps, 0x2a);
  ASSERT_EQ(1U, ranges.size());
  EXPECT_EQ(0x7f0000000000U, ranges[0].begin);
  EXPECT_EQ(0x7f0000200000U, ranges[0].end);
  EXPECT_EQ(4503599627370497U, ranges[0].inode);
  EXPECT_EQ(1U, ranges_of_device(maps, 0x12a).size());
}

TEST(Mappers, KnowsAMountByItsDeviceAndItsPool) {
  const std::string table =
      "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
      "40 22 0:42 / /mnt/bartender rw,relatime shared:7 - fuse.bartender /srv/my\\040pool "
      "rw,user_id=0\n"
      "41 22 0:43 / /mnt/b rw - fuse.sshfs /srv/pool rw\n";
  EXPECT_TRUE(lists_mount(table, 42, "/srv/my pool"));
  EXPECT_FALSE(lists_mount(table, 4, "/srv/my pool"));
  EXPECT_FALSE(lists_mount(table, 42, "/srv/my"));
  EXPECT_FALSE(lists_mount(table, 43, "/srv/pool"));
}

TEST(Mappers, ANoteComesBackAndNothingElseIsOne) {
  const MountNote note{.boot = "b", .device = 42, .mount = std::uint64_t{1} << 40};
  const auto back = MountNote::from_row(note.to_row());
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ("b", back->boot);
  EXPECT_EQ(42U, back->device);
  EXPECT_EQ(note.mount, back->mount);
  for (const char* text : {"", "{}", "[1]", R"({"boot":"b","device":-1,"mount":1})",
                           R"({"boot":1,"device":1,"mount":1})"})
    EXPECT_FALSE(MountNote::from_row(text).has_value()) << text;
}

}  // namespace
}  // namespace btd
