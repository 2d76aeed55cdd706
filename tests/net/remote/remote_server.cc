#include "tests/net/remote/remote_server.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

namespace btd::net::remote {

namespace {

Error error_of(const Line& line, std::size_t code) {
  return {static_cast<int>(line.number(code)),
          {reinterpret_cast<const char*>(line.bytes.data()), line.bytes.size()}};
}

std::unexpected<Error> not_here() {
  return fail(ENOTSUP, "A server in another process cannot do that for a test.");
}

}  // namespace

// What stands for an endpoint that the peer accepted.
class RemoteServer::RemoteEndpoint final : public Endpoint {
 public:
  RemoteEndpoint(RemoteServer& server, std::uint64_t number, std::string name)
      : server_(server), number_(number), name_(std::move(name)) {}

  Status post(const Operation& operation) override {
    if (operation.verb != Verb::kSend) return not_here();
    std::vector<std::byte> message;
    for (const iovec& part : operation.local) {
      const auto* bytes = static_cast<const std::byte*>(part.iov_base);
      message.insert(message.end(), bytes, bytes + part.iov_len);
    }
    const Time patience = operation.deadline - server_.now();
    BTD_TRY(server_.call(words("send", number_, operation.token, patience.count()), message));
    return {};
  }
  void close() override { static_cast<void>(server_.call(words("close", number_))); }
  [[nodiscard]] bool is_up() const override { return is_up_; }
  [[nodiscard]] NodeId peer() const override { return 0; }
  [[nodiscard]] std::uint32_t capabilities() const override { return 0; }
  [[nodiscard]] std::string peer_name() const override { return name_; }

  void set_up(bool is_up) { is_up_ = is_up; }
  void set_handler(Handler* handler) { handler_ = handler; }
  [[nodiscard]] Handler& handler() { return *handler_; }

 private:
  RemoteServer& server_;
  const std::uint64_t number_;
  const std::string name_;
  Handler* handler_ = nullptr;
  bool is_up_ = false;
};

RemoteServer::RemoteServer(Channel channel, Engine& client)
    : channel_(std::move(channel)), client_(client) {}
RemoteServer::~RemoteServer() = default;

Result<Line> RemoteServer::call(const std::vector<std::string>& words,
                                std::span<const std::byte> bytes) {
  BTD_TRY(channel_.say(words, bytes));
  while (true) {
    BTD_ASSIGN(Line line, channel_.await());
    if (line.word(0) == "ok") return line;
    if (line.word(0) == "error") return std::unexpected(error_of(line, 1));
    BTD_TRY(take(line));
  }
}

Result<RegionDescriptor> RemoteServer::register_region(std::span<std::byte> memory,
                                                       std::uint32_t access, Persist* persist) {
  if (persist != nullptr) return not_here();
  const bool is_zero =
      std::ranges::all_of(memory, [](std::byte byte) { return byte == std::byte{}; });
  const std::span<const std::byte> contents = is_zero ? memory.first(0) : memory;
  BTD_ASSIGN(const Line line, call(words("register", memory.size(), access), contents));
  RegionDescriptor made;
  if (line.bytes.size() != sizeof(made)) return fail(EPROTO, "That is no region.");
  std::memcpy(&made, line.bytes.data(), sizeof(made));
  regions_.emplace(made.key, memory);
  return made;
}

Status RemoteServer::deregister_region(std::uint64_t key) {
  BTD_TRY(call(words("deregister", key)));
  regions_.erase(key);
  return {};
}

Result<std::string> RemoteServer::listen(std::string_view mode, Acceptor acceptor) {
  acceptor_ = std::move(acceptor);
  BTD_ASSIGN(const Line line, call(words("listen", mode)));
  return line.word(1);
}

Result<Endpoint*> RemoteServer::connect(std::string_view /*address*/, Handler& /*handler*/) {
  return not_here();
}

void RemoteServer::set_epoch(Epoch epoch) {
  const auto done = call(words("epoch", epoch));
  EXPECT_TRUE(done.has_value()) << done.error().message;
  epoch_ = epoch;
}

TimerId RemoteServer::at(Time when, std::function<void()> task) {
  return client_.at(when, std::move(task));
}
bool RemoteServer::cancel(TimerId id) { return client_.cancel(id); }
Status RemoteServer::submit(std::function<void()> task) { return client_.submit(std::move(task)); }

Result<std::size_t> RemoteServer::poll() {
  std::size_t count = 0;
  while (true) {
    BTD_ASSIGN(const auto line, channel_.hear());
    if (!line) return count;
    ++count;
    BTD_TRY(take(*line));
  }
}

Result<std::size_t> RemoteServer::wait(Time deadline) {
  sleep(deadline - now());
  return poll();
}

Status RemoteServer::refresh() {
  for (const auto& [key, memory] : regions_) {
    BTD_ASSIGN(const Line line, call(words("changed", key)));
    struct Page {
      std::uint64_t at, size;
    } page{};
    for (std::size_t taken = 0; taken < line.bytes.size(); taken += sizeof(page) + page.size) {
      std::memcpy(&page, line.bytes.data() + taken, sizeof(page));
      if (page.at + page.size > memory.size()) return fail(EPROTO, "That is no page.");
      std::memcpy(memory.data() + page.at, line.bytes.data() + taken + sizeof(page), page.size);
    }
  }
  return {};
}

void RemoteServer::accepted(const Line& line) {
  auto made = std::make_unique<RemoteEndpoint>(*this, line.number(1), line.word(2));
  made->set_handler(acceptor_(*made));
  // The peer has accepted it: a test that refuses peers is none for this.
  ASSERT_NE(&made->handler(), nullptr);
  endpoints_.emplace(line.number(1), std::move(made));
}

Status RemoteServer::heard_message(RemoteEndpoint& endpoint, const Line& line) {
  return channel_.say(words("answer", endpoint.handler().on_message(endpoint, line.bytes)));
}

Status RemoteServer::take(const Line& line) {
  const std::string& what = line.word(0);
  if (what == "accept") {
    accepted(line);
    return {};
  }
  const auto found = endpoints_.find(line.number(1));
  if (found == endpoints_.end()) return fail(EPROTO, "The peer told of an unknown endpoint.");
  RemoteEndpoint& endpoint = *found->second;
  if (what == "message") return heard_message(endpoint, line);
  if (what == "up" || what == "down") endpoint.set_up(what == "up");
  if (what == "up") endpoint.handler().on_up(endpoint);
  if (what == "down") endpoint.handler().on_down(endpoint, error_of(line, 2));
  if (what == "completed")
    endpoint.handler().on_completion(endpoint, {.token = line.number(2),
                                                .error = static_cast<int>(line.number(3)),
                                                .value = line.number(4)});
  if (what == "closed") {
    endpoint.handler().on_closed(endpoint, error_of(line, 2));
    endpoints_.erase(found);
  }
  return {};
}

}  // namespace btd::net::remote
