// What a peer may say that a home must not believe.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/remote/world.h"

namespace btd::remote {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr InodeId kFile = id_of(100);
constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

// A peer that says what it wants.
class Peer final : public net::Handler {
 public:
  explicit Peer(const std::string& address) {
    engine_ = *net::make_tcp_engine({.engine = {.node = kClient}});
    rpc_.emplace(*engine_, *this);
    endpoint_ = *engine_->connect(address, *rpc_);
  }
  ~Peer() override { rpc_.reset(); }

  // The errno it is answered with; 0.
  template <class Request, class Response>
  int say(const net::Method<Request, Response>& method, const Request& request,
          std::span<const std::byte> tail = {}) {
    std::optional<int> error;
    const Status posted = rpc_->call<Request, Response>(
        *endpoint_, method, request, tail, engine_->now() + seconds(20),
        [&](const Result<Response>& response, net::Rpc::Bytes rest) {
          error = response ? 0 : response.error().code;
          last_tail = rest.size();
        });
    EXPECT_TRUE(posted) << posted.error().message;
    while (posted && !error) EXPECT_TRUE(engine_->wait(net::kNever));
    return error.value_or(-1);
  }
  void on_completion(net::Endpoint&, const net::Completion&) override {}

  std::size_t last_tail = 0;

 private:
  std::unique_ptr<net::Engine> engine_;
  std::optional<net::Rpc> rpc_;
  net::Endpoint* endpoint_ = nullptr;
};

class RemoteHostile : public testing::Test {
 protected:
  RemoteHostile() : peer(world.home().address()) { world.files().make(kFile, 10'000, 'a'); }
  void TearDown() override {  // the file is as it was
    EXPECT_EQ(std::filesystem::file_size(world.files().path(kFile)), 10'000U);
    EXPECT_EQ(peer.say(wire::kAttributes, {.id = kFile}), 0);
  }
  World world;
  Peer peer;
};

TEST_F(RemoteHostile, ForeignIdsAreRefused) {
  for (const InodeId id : {InodeId{0}, InodeId{1}, first_id_of(kHome + 1), first_id_of(kHome) - 1,
                           kFirstVirtualId, InodeId{kMost}}) {
    EXPECT_EQ(peer.say(wire::kAttach, {.id = id, .client = 1}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kAttributes, {.id = id}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kChange, {.id = id}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kFlush, {.id = id}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kAllocate, {.id = id}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kWrite, {.id = id}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kRead, {.id = id}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kSeek, {.id = id}), EXDEV) << id;
    EXPECT_EQ(peer.say(wire::kDetach, {.id = id, .client = 1}), 0) << id;  // it holds nothing
  }
  EXPECT_EQ(peer.say(wire::kAttach, {.id = id_of(7), .client = 1}), ESTALE);
  EXPECT_EQ(world.home().service().counters().holds, 0U);
}

TEST_F(RemoteHostile, OffsetsAndLengthsThatOverflowAreRefused) {
  const auto bytes = random_bytes(100, 1);
  for (const std::uint64_t offset : {kMost, kMost / 2, kMost / 2 - 50, kMost - 50}) {
    EXPECT_EQ(peer.say(wire::kWrite, {.id = kFile, .offset = offset}, bytes), EINVAL) << offset;
    EXPECT_EQ(peer.say(wire::kRead, {.id = kFile, .offset = offset, .length = 100}), EINVAL)
        << offset;
    EXPECT_EQ(peer.say(wire::kAllocate, {.id = kFile, .offset = offset, .length = 100}), EINVAL);
    EXPECT_EQ(peer.say(wire::kSeek, {.id = kFile, .offset = offset, .whence = SEEK_DATA}), ENXIO);
  }
  for (const std::uint64_t length : {kMost, kMost / 2 + 1, kMost / 2 - 99})
    EXPECT_EQ(peer.say(wire::kAllocate, {.id = kFile, .offset = 100, .length = length}), EINVAL);
  EXPECT_EQ(peer.say(wire::kAllocate, {.id = kFile, .offset = 100, .length = kMost / 2 - 100}),
            EFBIG);
  EXPECT_EQ(peer.say(wire::kChange, {.id = kFile, .size = kMost, .set = wire::kSetSize}), EFBIG);
  EXPECT_EQ(peer.say(wire::kChange, {.id = kFile, .size = kMost / 2, .set = wire::kSetSize}),
            EFBIG);
}

TEST_F(RemoteHostile, WhatACallMayNotHaveIsRefused) {
  const std::vector<std::byte> much(wire::kMostCallBytes + 1);
  EXPECT_EQ(peer.say(wire::kWrite, {.id = kFile}, much), EINVAL);
  EXPECT_EQ(peer.say(wire::kRead, {.id = kFile, .length = 10}, std::span{much}.first(1)), EINVAL);
  EXPECT_EQ(peer.say(wire::kRead, {.id = kFile, .length = UINT32_MAX}), 0);
  EXPECT_EQ(peer.last_tail, 10'000U);
  EXPECT_EQ(peer.say(wire::kAllocate, {.id = kFile, .length = 0}), EINVAL);
  EXPECT_EQ(peer.say(wire::kAllocate, {.id = kFile, .length = 1, .mode = 1U << 31}), EINVAL);
  EXPECT_EQ(peer.say(wire::kAllocate, {.id = kFile, .length = 1, .mode = 1U << 20}), EOPNOTSUPP);
  for (const std::uint32_t whence : {0U, 1U, 2U, 5U, UINT32_MAX})
    EXPECT_EQ(peer.say(wire::kSeek, {.id = kFile, .whence = whence}), EINVAL);
  // Times of any value, and bits that nobody knows.
  for (const std::int64_t ns :
       {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()})
    EXPECT_EQ(peer.say(wire::kChange, {.id = kFile,
                                       .atime_ns = ns,
                                       .mtime_ns = ns,
                                       .set = ~static_cast<std::uint32_t>(wire::kSetSize)}),
              0);
}

TEST_F(RemoteHostile, OneConnectionIsOneClients) {
  EXPECT_EQ(peer.say(wire::kAttach, {.id = kFile, .client = 1, .generation = 2}), 0);
  EXPECT_EQ(peer.say(wire::kAttach, {.id = kFile, .client = 2, .generation = 2}), EINVAL);
  EXPECT_EQ(peer.say(wire::kGreet, {.client = 2}), EINVAL);
  EXPECT_EQ(world.files().holds(kFile), 1);
  // Another's hold, and one that is newer than what is ended.
  EXPECT_EQ(peer.say(wire::kDetach, {.id = kFile, .client = 2, .generation = 9}), 0);
  EXPECT_EQ(peer.say(wire::kDetach, {.id = kFile, .client = 1, .generation = 1}), 0);
  EXPECT_EQ(world.files().holds(kFile), 1);
  EXPECT_EQ(peer.say(wire::kDetach, {.id = kFile, .client = 1, .generation = 2}), 0);
  EXPECT_EQ(peer.say(wire::kDetach, {.id = kFile, .client = 1, .generation = 2}), 0);
  EXPECT_EQ(world.files().holds(kFile), 0);
}

}  // namespace
}  // namespace btd::remote
