// The notifier and its client: that no word waits for one that is blocked, and that each is
// answered once, whatever dies meanwhile. Without a mount: the kernel is a function, or a socket.
#include "fs/daemon/notifier.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <thread>

#include "fs/daemon/control.h"
#include "fs/daemon/kernel_word.h"
#include "fs/daemon/notifier_client.h"
#include "fs/daemon/protocol.h"

namespace btd {
namespace {

using Kind = KernelWord::Kind;
constexpr auto kLong = std::chrono::seconds(10);

template <class Condition>
bool eventually(Condition condition) {
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

std::array<UniqueFd, 2> pipe_ends() {
  std::array<int, 2> fds{};
  EXPECT_EQ(0, pipe2(fds.data(), O_CLOEXEC));
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// A notifier in a thread of this process.
class Served {
 public:
  explicit Served(std::function<int(const KernelWord&)> say) {
    auto pair = control_pair();
    EXPECT_TRUE(pair);
    socket_ = std::move(pair->first);
    lifeline_ = pipe_ends();
    notifier_ = std::make_unique<Notifier>(std::move(pair->second), std::move(say));
    end_ = std::async(std::launch::async, [this] { return notifier_->serve(lifeline_[0].get()); });
  }
  NotifierLink link() { return {.socket = std::move(socket_), .pid = getpid()}; }
  void end_supervisor() { lifeline_[1].reset(); }
  std::future<Notifier::End>& end() { return end_; }

 private:
  std::array<UniqueFd, 2> lifeline_;
  UniqueFd socket_;
  std::unique_ptr<Notifier> notifier_;
  std::future<Notifier::End> end_;
};

// Words of inode 1 are blocked until release().
class Kernel {
 public:
  std::function<int(const KernelWord&)> say() {
    return [this](const KernelWord& word) {
      said_.fetch_add(1);
      if (word.inode == 1) opened_.get_future_shared().wait();
      return word.inode == 2 ? ENOENT : 0;
    };
  }
  void release() { opened_.open(); }
  [[nodiscard]] unsigned said() const { return said_.load(); }

 private:
  class Gate {
   public:
    std::shared_future<void> get_future_shared() { return future_; }
    void open() { promise_.set_value(); }

   private:
    std::promise<void> promise_;
    std::shared_future<void> future_ = promise_.get_future().share();
  };
  Gate opened_;
  std::atomic<unsigned> said_{0};
};

TEST(KernelWord, TravelsWhole) {
  const KernelWord word{.kind = Kind::kForgetName,
                        .number = 5,
                        .inode = 6,
                        .offset = 7,
                        .length = 8,
                        .pause_us = 9,
                        .name = std::string(KernelWord::kMaxName, 'n')};
  const auto got = KernelWord::decode(word.encoded());
  ASSERT_TRUE(got);
  EXPECT_EQ(word.kind, got->kind);
  EXPECT_EQ(word.number, got->number);
  EXPECT_EQ(word.inode, got->inode);
  EXPECT_EQ(word.offset, got->offset);
  EXPECT_EQ(word.length, got->length);
  EXPECT_EQ(word.pause_us, got->pause_us);
  EXPECT_EQ(word.name, got->name);
  auto bytes = word.encoded();
  EXPECT_FALSE(KernelWord::decode(std::span(bytes).first(40)));
  bytes[32] = std::byte{99};
  EXPECT_FALSE(KernelWord::decode(bytes));
}

// The bytes of one notification.
std::string said_to_kernel(const KernelWord& word) {
  auto pair = control_pair();
  EXPECT_TRUE(pair);
  EXPECT_EQ(0, say(word, pair->first.get(), "/nowhere"));
  std::string text;
  std::array<char, 512> part{};
  for (ssize_t n = 0; (n = recv(pair->second.get(), part.data(), part.size(), MSG_DONTWAIT)) > 0;)
    text.append(part.data(), static_cast<std::size_t>(n));
  return text;
}

TEST(KernelWord, IsSaidAsTheKernelReadsIt) {
  const std::string dropped = said_to_kernel(
      {.kind = Kind::kDropAndLook, .number = 77, .inode = 3, .offset = 8192, .length = 4096});
  proto::OutHeader header{};
  proto::InvalInodeOut drop{};
  proto::RetrieveOut look{};
  ASSERT_EQ(2 * sizeof header + sizeof drop + sizeof look, dropped.size());
  std::memcpy(&header, dropped.data(), sizeof header);
  std::memcpy(&drop, dropped.data() + sizeof header, sizeof drop);
  EXPECT_EQ(proto::kNotifyInvalInode, header.error);
  EXPECT_EQ(sizeof header + sizeof drop, header.len);
  EXPECT_EQ(0U, header.unique);
  EXPECT_EQ(3U, drop.nodeid);
  EXPECT_EQ(8192, drop.offset);
  EXPECT_EQ(4096, drop.length);
  std::memcpy(&header, dropped.data() + sizeof header + sizeof drop, sizeof header);
  std::memcpy(&look, dropped.data() + 2 * sizeof header + sizeof drop, sizeof look);
  EXPECT_EQ(proto::kNotifyRetrieve, header.error);
  EXPECT_EQ(77U, look.unique);
  EXPECT_EQ(3U, look.nodeid);
  EXPECT_EQ(8192U, look.offset);
  EXPECT_EQ(4096U, look.size);

  const std::string forgot =
      said_to_kernel({.kind = Kind::kForgetName, .inode = 4, .name = "name"});
  proto::InvalEntryOut entry{};
  ASSERT_EQ(sizeof header + sizeof entry + 5, forgot.size());
  std::memcpy(&header, forgot.data(), sizeof header);
  std::memcpy(&entry, forgot.data() + sizeof header, sizeof entry);
  EXPECT_EQ(proto::kNotifyInvalEntry, header.error);
  EXPECT_EQ(forgot.size(), header.len);
  EXPECT_EQ(4U, entry.parent);
  EXPECT_EQ(4U, entry.name_bytes);
  EXPECT_STREQ("name", forgot.c_str() + sizeof header + sizeof entry);
}

TEST(NotifierThreads, NoWordWaitsForThoseThatAreBlocked) {
  Kernel kernel;
  Served served(kernel.say());
  NotifierClient client(-1, "", 0);
  client.start(served.link());
  std::atomic<unsigned> blocked{0}, others{0};
  for (unsigned i = 0; i < 30; ++i)
    client.post({.inode = 1}, [&](int, std::size_t) { blocked.fetch_add(1); });
  for (unsigned i = 0; i < 100; ++i)
    client.post({.inode = 2}, [&](int error, std::size_t) { others += error == ENOENT ? 1 : 0; });
  EXPECT_TRUE(eventually([&] { return others.load() == 100; })) << others.load();
  EXPECT_EQ(0U, blocked.load());
  EXPECT_EQ(30U, client.counts().waiting);
  EXPECT_GT(client.counts().oldest.count(), 0);
  EXPECT_TRUE(eventually([&] { return client.counts().threads > 30; }));
  kernel.release();
  EXPECT_TRUE(eventually([&] { return blocked.load() == 30; }));
  EXPECT_EQ(0U, client.counts().waiting);
  EXPECT_TRUE(eventually([&] { return client.counts().threads <= Notifier::kIdle; }));
  client.stop();
  ASSERT_EQ(std::future_status::ready, served.end().wait_for(kLong));
  EXPECT_EQ(Notifier::End::kDone, served.end().get());
}

// More than a socket takes at once.
TEST(NotifierThreads, ManyWordsAreAllAnswered) {
  Kernel kernel;
  Served served(kernel.say());
  NotifierClient client(-1, "", 0);
  client.start(served.link());
  std::atomic<unsigned> answered{0};
  for (unsigned i = 0; i < 5000; ++i)
    client.post({.kind = Kind::kForgetName, .inode = 3, .name = std::string(200, 'x')},
                [&](int error, std::size_t) { answered += error == 0 ? 1 : 0; });
  EXPECT_TRUE(eventually([&] { return answered.load() == 5000; })) << answered.load();
  client.stop();
  EXPECT_EQ(Notifier::End::kDone, served.end().get());
}

TEST(NotifierThreads, TheKernelAnswersWhatItWasAsked) {
  Kernel kernel;
  Served served(kernel.say());
  constexpr std::uint32_t kLife = 3;
  NotifierClient client(-1, "", kLife);
  client.start(served.link());
  std::promise<std::size_t> cached;
  client.post({.kind = Kind::kDropAndLook, .inode = 3},
              [&](int, std::size_t bytes) { cached.set_value(bytes); });
  auto got = cached.get_future();
  EXPECT_TRUE(eventually([&] { return kernel.said() == 1; }));
  EXPECT_EQ(std::future_status::timeout, got.wait_for(std::chrono::milliseconds(20)));
  const auto number = [](std::uint64_t life) { return (life << 40) + 1; };
  client.retrieved(number(kLife - 1), 1);  // an earlier worker's
  EXPECT_EQ(std::future_status::timeout, got.wait_for(std::chrono::milliseconds(1)));
  client.retrieved(number(kLife), 4096);
  ASSERT_EQ(std::future_status::ready, got.wait_for(kLong));
  EXPECT_EQ(4096U, got.get());
  client.stop();
  served.end().wait();
}

TEST(NotifierThreads, TheNextOneIsToldWhatTheLastDidNotAnswer) {
  Kernel first, second;
  auto before = std::make_unique<Served>(first.say());
  Served after(second.say());
  NotifierClient client(-1, "", 0);
  auto link = before->link();
  const int theirs = dup(link.socket.get());
  client.start(std::move(link));
  std::atomic<unsigned> answered{0};
  for (unsigned i = 0; i < 3; ++i)
    client.post({.inode = 1}, [&](int, std::size_t) { answered.fetch_add(1); });
  EXPECT_TRUE(eventually([&] { return first.said() == 3; }));
  shutdown(theirs, SHUT_RDWR);  // as its death
  close(theirs);
  client.post({.inode = 2}, [&](int, std::size_t) { answered.fetch_add(1); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(0U, answered.load());
  client.use(after.link());
  second.release();
  EXPECT_TRUE(eventually([&] { return answered.load() == 4; }));
  EXPECT_EQ(4U, second.said());
  EXPECT_EQ(1U, client.counts().replaced);
  first.release();
  client.stop();
  EXPECT_EQ(4U, answered.load());
  EXPECT_EQ(Notifier::End::kDone, before->end().get());
}

TEST(NotifierThreads, WithoutOneTheWorkerSaysItItself) {
  auto kernel = control_pair();
  ASSERT_TRUE(kernel);
  NotifierClient client(kernel->first.get(), "", 0);
  client.start({});
  std::promise<int> answer;
  client.post({.inode = 9}, [&](int error, std::size_t) { answer.set_value(error); });
  auto got = answer.get_future();
  ASSERT_EQ(std::future_status::ready, got.wait_for(kLong));
  EXPECT_EQ(0, got.get());
  pollfd said{kernel->second.get(), POLLIN, 0};
  EXPECT_EQ(1, poll(&said, 1, 0));
  EXPECT_EQ(0, client.counts().pid);
  client.stop();
}

// The supervisor is gone, then the notifier: nobody will start another one.
TEST(NotifierThreads, AfterTheLastOneTheWorkerSaysItItself) {
  auto kernel = control_pair();
  ASSERT_TRUE(kernel);
  Kernel blocked;
  Served served(blocked.say());
  NotifierClient client(kernel->first.get(), "", 0);
  auto link = served.link();
  const UniqueFd theirs(dup(link.socket.get()));
  client.start(std::move(link));
  client.last_one();
  std::atomic<unsigned> answered{0};
  client.post({.inode = 1}, [&](int, std::size_t) { answered.fetch_add(1); });
  EXPECT_TRUE(eventually([&] { return blocked.said() == 1; }));
  EXPECT_EQ(0U, answered.load());
  shutdown(theirs.get(), SHUT_RDWR);
  EXPECT_TRUE(eventually([&] { return answered.load() == 1; }));
  blocked.release();
  client.stop();
}

TEST(NotifierThreads, AnEndWaitsForWhatIsBlockedWhileThereIsASupervisor) {
  Kernel kernel;
  Served served(kernel.say());
  NotifierClient client(-1, "", 0);
  client.start(served.link());
  client.post({.inode = 1}, {});
  EXPECT_TRUE(eventually([&] { return kernel.said() == 1; }));
  client.stop();  // the worker dies
  EXPECT_EQ(std::future_status::timeout, served.end().wait_for(std::chrono::milliseconds(50)));
  served.end_supervisor();
  ASSERT_EQ(std::future_status::ready, served.end().wait_for(kLong));
  EXPECT_EQ(Notifier::End::kAbandoned, served.end().get());
  kernel.release();
}

TEST(NotifierThreads, TheEndOfTheSupervisorAloneChangesNothing) {
  Kernel kernel;
  Served served(kernel.say());
  served.end_supervisor();
  NotifierClient client(-1, "", 0);
  client.start(served.link());
  std::promise<int> answer;
  client.post({.inode = 2}, [&](int error, std::size_t) { answer.set_value(error); });
  EXPECT_EQ(ENOENT, answer.get_future().get());
  client.stop();
  served.end().wait();
}

TEST(NotifierArgs, TravelWhole) {
  const NotifierArgs args{
      .fuse_fd = 3, .socket = 4, .lifeline = 5, .connection = 61, .mountpoint = "/a b\xff"};
  const auto got = NotifierArgs::parse(args.to_argument());
  ASSERT_TRUE(got);
  EXPECT_EQ(args.fuse_fd, got->fuse_fd);
  EXPECT_EQ(args.socket, got->socket);
  EXPECT_EQ(args.lifeline, got->lifeline);
  EXPECT_EQ(args.connection, got->connection);
  EXPECT_EQ(args.mountpoint, got->mountpoint);
  for (const char* wrong : {"", "3", "3 4 5", "3 4 5 x /m", "3 4 5 6"})
    EXPECT_FALSE(NotifierArgs::parse(wrong)) << wrong;
}

}  // namespace
}  // namespace btd
