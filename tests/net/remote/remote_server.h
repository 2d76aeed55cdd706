// RemoteServer: an Engine whose work is done by a net_peer. It can do what servers of tests do:
// lend memory, listen, change its epoch, send messages by the endpoints it accepted.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "net/engine.h"
#include "tests/net/conformance.h"
#include "tests/net/remote/channel.h"

namespace btd::net::remote {

class RemoteServer final : public Engine {
 public:
  // `client` is the engine of this side, whose clock is used.
  RemoteServer(Channel channel, Engine& client);
  ~RemoteServer() override;

  // `persist` must be null: see World::make_server_nvram().
  Result<RegionDescriptor> register_region(std::span<std::byte> memory, std::uint32_t access,
                                           Persist* persist) override;
  Status deregister_region(std::uint64_t key) override;
  Result<std::string> listen(std::string_view mode, Acceptor acceptor) override;
  Result<Endpoint*> connect(std::string_view address, Handler& handler) override;
  void set_epoch(Epoch epoch) override;
  [[nodiscard]] Epoch epoch() const override { return epoch_; }
  [[nodiscard]] Time now() const override { return client_.now(); }
  TimerId at(Time when, std::function<void()> task) override;
  bool cancel(TimerId id) override;
  Result<std::size_t> poll() override;  // takes what the peer told
  Result<std::size_t> wait(Time deadline) override;
  void wake() override {}
  Status submit(std::function<void()> task) override;

  // One call of the peer (peer.h), answered.
  Result<Line> call(const std::vector<std::string>& words, std::span<const std::byte> bytes = {});
  // Brings the copies of all regions up to date.
  Status refresh();
  void sleep(Time patience) const { channel_.sleep(patience); }

 private:
  class RemoteEndpoint;

  Status take(const Line& line);
  void accepted(const Line& line);
  Status heard_message(RemoteEndpoint& endpoint, const Line& line);

  Channel channel_;
  Engine& client_;
  Epoch epoch_ = 0;
  Acceptor acceptor_;
  std::map<std::uint64_t, std::span<std::byte>> regions_;
  std::map<std::uint64_t, std::unique_ptr<RemoteEndpoint>> endpoints_;
};

}  // namespace btd::net::remote
