// What home and client do by themselves: times, units of grants, sizes, refusals.
#include <gtest/gtest.h>

#include <cerrno>

#include "fs/coherence/client.h"
#include "fs/coherence/home.h"

namespace btd::coherence {
namespace {

using namespace std::chrono_literals;

template <class Message>
std::vector<std::pair<NodeSlot, Message>> sent(const HomeOutput& output) {
  std::vector<std::pair<NodeSlot, Message>> found;
  for (const HomeAction& action : output.actions)
    if (const auto* send = std::get_if<home_action::Send>(&action))
      if (const auto* message = std::get_if<Message>(&send->message))
        found.emplace_back(send->node, *message);
  return found;
}

template <class Action, class Output>
std::vector<Action> actions(const Output& output) {
  std::vector<Action> found;
  for (const auto& action : output.actions)
    if (const auto* at = std::get_if<Action>(&action)) found.push_back(*at);
  return found;
}

class HomeTest : public testing::Test {
 protected:
  HomeTest() {
    for (const NodeSlot node : std::initializer_list<NodeSlot>{0, 1, 2})
      home_.on(home_event::Attached{node}, 0s);
  }
  HomeOutput arrives(NodeSlot node, ToHome message, Time now) {
    return home_.on(home_event::Arrived{node, message}, now);
  }
  HomeOutput owns(NodeSlot node, Page page, Time now) {
    return arrives(node, Acquire{.page = page, .rights = Rights::kOwned}, now);
  }

  HomeLimits limits_;
  Rules rules_;
  Home home_{limits_, rules_, 1024 * kPageBytes};
};

TEST_F(HomeTest, APageStaysForItsResidency) {
  owns(0, 7, 0us);
  const HomeOutput early = owns(1, 7, 50us);
  EXPECT_TRUE(sent<Recall>(early).empty());
  ASSERT_EQ(actions<home_action::SetTimer>(early).size(), 1U);
  EXPECT_EQ(actions<home_action::SetTimer>(early)[0].at, Time{200us});
  EXPECT_TRUE(sent<Recall>(home_.on(home_event::Timer{}, 199us)).empty());
  EXPECT_EQ(sent<Recall>(home_.on(home_event::Timer{}, 200us)).size(), 1U);
}

TEST_F(HomeTest, AnOwnerOfARunGetsItAsAUnitAndLosesItByPages) {
  for (Page page = 0; page < 8; ++page)
    EXPECT_EQ(sent<Grant>(owns(0, page, 0s)).at(0).second.count, 1U);
  const Grant unit = sent<Grant>(owns(0, 8, 0s)).at(0).second;
  EXPECT_EQ(unit.first, 0U);
  EXPECT_EQ(unit.count, 16U);
  for (Page page = 16; page < 256; page += 16)
    for (Page at = page; at < page + 9; ++at) owns(0, at, 0s);
  const Grant larger = sent<Grant>(owns(0, 256, 0s)).at(0).second;
  EXPECT_EQ(larger.count, 1U) << "of its 64 KiB the node has nothing yet";

  const auto recalls = sent<Recall>(owns(1, 3, 1s));
  ASSERT_EQ(recalls.size(), 1U);
  EXPECT_EQ(recalls[0].second.page, 3U);
  const HomeOutput after =
      arrives(0, RecallAck{.page = 3, .version = recalls[0].second.version}, 1s);
  EXPECT_EQ(sent<Grant>(after).at(0).second.count, 1U);
}

TEST_F(HomeTest, AContendedUnitIsGrantedByPagesForAWhile) {
  for (Page page = 0; page < 9; ++page) owns(0, page, 0s);
  const auto recall = sent<Recall>(owns(1, 3, 1s)).at(0).second;
  arrives(0, RecallAck{.page = 3, .version = recall.version}, 1s);
  const auto back = sent<Recall>(owns(0, 3, 1s + 50ms)).at(0).second;
  const HomeOutput soon = arrives(1, RecallAck{.page = 3, .version = back.version}, 1s + 50ms);
  EXPECT_EQ(sent<Grant>(soon).at(0).second.count, 1U);
  EXPECT_EQ(sent<Grant>(owns(0, 3, 1s + 100ms)).at(0).second.count, 1U);
  EXPECT_EQ(sent<Grant>(owns(0, 3, 1s + 151ms)).at(0).second.count, 16U);
}

TEST_F(HomeTest, WhoCanWriteProtectKeepsTheRightToRead) {
  owns(0, 7, 0s);
  const HomeOutput out = arrives(1, Acquire{.page = 7, .rights = Rights::kShared}, 1s);
  const Recall recall = sent<Recall>(out).at(0).second;
  EXPECT_EQ(recall.to, Rights::kShared);
  arrives(0, RecallAck{.page = 7, .version = recall.version, .kept = Rights::kShared}, 1s);
  EXPECT_EQ(home_.state().pages.at(7).sharers, NodeSet::of(0).with(1));
}

TEST_F(HomeTest, AWriteBackOfWhoIsNotTheOwnerIsRefusedAndReported) {
  owns(0, 7, 0s);
  const HomeOutput out = arrives(1, WriteBack{.first = 7, .bytes = kPageBytes, .request = 5}, 0s);
  EXPECT_TRUE(actions<home_action::StoreBack>(out).empty());
  EXPECT_EQ(sent<Done>(out).at(0).second.error, EPERM);
  EXPECT_EQ(actions<home_action::Report>(out).at(0).what,
            home_action::Report::What::kForeignWriteBack);
}

TEST_F(HomeTest, WhatAFencedNodeOwnedIsAnErrorUntilTheLossIsAccepted) {
  owns(0, 7, 0s);
  const HomeOutput fenced = home_.on(home_event::Fenced{0}, 1s);
  EXPECT_EQ(actions<home_action::Report>(fenced).at(0).page, 7U);
  EXPECT_EQ(sent<Grant>(owns(1, 7, 1s)).at(0).second.error, EIO);
  EXPECT_EQ(sent<Done>(arrives(1, DirectRead{.first = 7}, 1s)).at(0).second.error, EIO);
  home_.on(home_event::LossAccepted{7}, 1s);
  EXPECT_EQ(sent<Grant>(owns(1, 7, 1s)).at(0).second.rights, Rights::kOwned);
}

TEST_F(HomeTest, WhoWaitsForAFencedNodeGetsWhatIsHereIfTheLossIsAccepted) {
  owns(0, 7, 0s);
  EXPECT_TRUE(sent<Grant>(owns(1, 7, 1s)).empty());
  const HomeOutput fenced = home_.on(home_event::Fenced{.node = 0, .is_loss_accepted = true}, 2s);
  EXPECT_EQ(actions<home_action::Report>(fenced).at(0).page, 7U);
  EXPECT_EQ(sent<Grant>(fenced).at(0).second.error, 0);
  EXPECT_EQ(sent<Grant>(fenced).at(0).second.rights, Rights::kOwned);
}

TEST_F(HomeTest, MoreTransactionsThanTheLimitAreRefused) {
  limits_.transactions = 1;
  owns(0, 7, 0s);
  owns(1, 7, 0s);
  EXPECT_EQ(sent<Grant>(owns(2, 7, 0s)).at(0).second.error, EBUSY);
}

TEST_F(HomeTest, ADirectWriteBeyondTheEndGrowsEveryKernelFirst) {
  const HomeOutput out = arrives(
      0, DirectWrite{.first = 1024, .count = 1, .end = 1025 * kPageBytes, .request = 3}, 0s);
  ASSERT_EQ(actions<home_action::Apply>(out).size(), 1U);
  const HomeOutput stored = home_.on(home_event::Applied{0, 3}, 0s);
  const auto changes = sent<SizeChange>(stored);
  ASSERT_EQ(changes.size(), 3U);
  EXPECT_TRUE(sent<Done>(stored).empty());
  for (const NodeSlot node : std::initializer_list<NodeSlot>{0, 1})
    arrives(node, SizeAck{.version = changes[0].second.version}, 0s);
  EXPECT_EQ(sent<Done>(arrives(2, SizeAck{.version = changes[0].second.version}, 0s)).size(), 1U);
}

class ClientTest : public testing::Test {
 protected:
  Rules rules_;
  Client client_{rules_, 4 * kPageBytes + 100};
};

TEST_F(ClientTest, AFillOfManyPagesIsAskedForAgainByPages) {
  const auto out = client_.on(client_event::FillRead{1, {0, 2}});
  EXPECT_EQ(actions<client_action::Answer>(out).at(0).error, EAGAIN);
}

TEST_F(ClientTest, AFillBeyondTheEndFails) {
  const auto out = client_.on(client_event::FillRead{1, {5, 1}});
  EXPECT_EQ(actions<client_action::Answer>(out).at(0).error, EIO);
}

TEST_F(ClientTest, AWriteBackIsClippedToTheSize) {
  const auto out = client_.on(client_event::PageWrite{1, 4, kPageBytes});
  const auto send = actions<client_action::Send>(out).at(0);
  EXPECT_EQ(std::get<WriteBack>(send.message).bytes, 100U);
  const auto beyond = client_.on(client_event::PageWrite{2, 5, kPageBytes});
  EXPECT_TRUE(actions<client_action::Send>(beyond).empty());
  EXPECT_EQ(actions<client_action::Answer>(beyond).at(0).error, 0);
}

TEST_F(ClientTest, ALaunderIsHeldUntilHomeHasIt) {
  client_.on(client_event::PageWrite{1, 0, kPageBytes});
  const auto busy = client_.on(client_event::Arrived{Done{.request = 1, .error = EAGAIN}});
  EXPECT_TRUE(actions<client_action::Answer>(busy).empty());
  EXPECT_EQ(actions<client_action::RetryWrite>(busy).size(), 1U);
  EXPECT_EQ(actions<client_action::Send>(client_.on(client_event::RetryWrite{1})).size(), 1U);
  const auto done = client_.on(client_event::Arrived{Done{.request = 1}});
  EXPECT_EQ(actions<client_action::Answer>(done).at(0).error, 0);
}

TEST_F(ClientTest, AFencedNodeDropsWhatItHasAndFailsWhatWaits) {
  client_.on(client_event::FillRead{1, {0, 1}});
  client_.on(client_event::Arrived{Grant{.page = 0, .rights = Rights::kShared}});
  client_.on(client_event::FillRead{2, {1, 1}});
  const auto out = client_.on(client_event::Fenced{});
  EXPECT_EQ(actions<client_action::Notify>(out).at(0).page, 0U);
  EXPECT_EQ(actions<client_action::Answer>(out).at(0).request, 2U);
  const auto late = client_.on(client_event::PageWrite{3, 0, kPageBytes});
  EXPECT_EQ(actions<client_action::Answer>(late).at(0).error, EIO);
}

}  // namespace
}  // namespace btd::coherence
