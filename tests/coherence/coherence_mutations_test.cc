// Each rule of the protocol is needed: without it, the checker finds what goes wrong.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/coherence/explore.h"

namespace btd::coherence::model {
namespace {

#ifdef NDEBUG
constexpr std::uint64_t kMaxStates = 10'000'000;
constexpr bool kAll = true;
#else
constexpr std::uint64_t kMaxStates = 3'000;  // a sanitizer is watching
constexpr bool kAll = false;
#endif

void expect_seen(const Scope& scope) {
  const Exploration found = explore(scope, kMaxStates);
  std::printf("%llu states; %s\n", static_cast<unsigned long long>(found.states),
              found.text().c_str());
  EXPECT_TRUE(!found.violation.empty() || !kAll);
}

void expect_deadlock(const Scope& scope) {
  const Exploration found = explore(scope, kMaxStates);
  std::printf("%llu states; %s\n", static_cast<unsigned long long>(found.states),
              found.text().c_str());
  // A deadlock is known once all states are.
  EXPECT_TRUE(found.violation == "deadlock" || (!kAll && !found.is_complete));
}

void expect_none(const Scope& scope) {
  const Exploration found = explore(scope, kMaxStates);
  EXPECT_EQ(found.violation, "") << found.text();
  EXPECT_TRUE(found.is_complete || !kAll);
}

// The notify waits for the folio of a READ, whose grant waits for our acknowledgement.
TEST(CoherenceMutations, AReadThatRacesARecallMustAcknowledgeIt) {
  expect_deadlock({.rules = {.read_proves_drop = false}});
}

TEST(CoherenceMutations, ARecallWhileAFillIsPendingMustNotReachTheKernel) {
  expect_deadlock({.rules = {.ack_while_fill_pending = false}});
}

// cachestat counts the locked folio of a new READ; mincore does not.
TEST(CoherenceMutations, CachestatRetriesForEver) {
  const Rules rules{.read_proves_drop = false};
  expect_none({.prompt_notify = true, .rules = rules});
  expect_deadlock({.ask_cachestat = true, .prompt_notify = true, .rules = rules});
}

// With all rules it may be asked, or what else counts a folio: the READ ends the wait.
TEST(CoherenceMutations, CachestatWillDoWhereAReadProvesTheDrop) {
  expect_none({.ask_cachestat = true, .prompt_notify = true});
  expect_none({.ask_cachestat = true});
}

TEST(CoherenceMutations, AnInvalidationMustBeVerified) {
  expect_seen({.busy = true, .rules = {.verify_drop = false}});
}

TEST(CoherenceMutations, AnOldNoticeProvesNothing) {
  expect_seen({.rules = {.match_notice = false}});
}

TEST(CoherenceMutations, TheFirstWriterMustDropWhatIsShared) {
  expect_seen({.opening = 2, .writeback = false, .rules = {.purge_at_first_writer = false}});
}

TEST(CoherenceMutations, AWriterMustNotTakeASharedGrant) {
  expect_seen({.opening = 2, .writeback = false, .rules = {.refuse_weak_grant = false}});
}

TEST(CoherenceMutations, ALaunderPrecedesTheAcknowledgement) {
  expect_seen({.rules = {.hold_launder = false}});
}

TEST(CoherenceMutations, AGrantWaitsForAcknowledgements) {
  expect_seen({.rules = {.await_acks = false}});
}

TEST(CoherenceMutations, NoSharerIsForgotten) {
  expect_seen({.nodes = 3, .readers = 2, .rules = {.remember_all_sharers = false}});
}

TEST(CoherenceMutations, ADirectWriteInvalidatesItsOwnNodeToo) {
  expect_seen({.direct_write = true, .rules = {.recall_direct_writer = false}});
}

TEST(CoherenceMutations, ADirectReadRecallsTheOwner) {
  expect_seen({.direct_read = true, .rules = {.recall_before_direct_read = false}});
}

TEST(CoherenceMutations, WhatIsLostIsReported) {
  expect_seen({.lose_node = true, .rules = {.report_lost = false}});
}

TEST(CoherenceMutations, ANodeIsReleasedOnlyOnceItIsFenced) {
  expect_seen({.lose_node = true, .fence_early = true});
}

TEST(CoherenceMutations, ATruncateWaitsForEveryKernel) {
  expect_seen({.pages = 2, .resize = true, .rules = {.await_size_acks = false}});
}

TEST(CoherenceMutations, AGrantIsNotOvertakenByItsRecall) {
  expect_seen({.unordered_to_client = true});
}

}  // namespace
}  // namespace btd::coherence::model
