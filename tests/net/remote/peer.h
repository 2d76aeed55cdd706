// Peer: a server's engine that another process drives, through a Channel, as if it were its own
// (RemoteWorld there). Each line that comes is a call, and is answered:
//   make KIND OPTIONS...   an engine (engines.h), in place of an older one
//   listen plain|calls     says on which address; with `calls` it serves kCount
//   register BYTES ACCESS  memory, which begins with the bytes that come along
//   nvram BYTES            the same of emulated NVRAM
//   deregister KEY
//   changed KEY            the pages that are not as they were when this was last asked
//   crashed KEY SEED       the whole of emulated NVRAM, as a crash would leave it
//   epoch EPOCH
//   pause 0|1              whether the engine's work is left undone
//   send ENDPOINT TOKEN NANOSECONDS, close ENDPOINT
//   kill                   the engine ends without a word
//   unplug MILLISECONDS    the network device goes down for so long
//   runs                   of kCount
// What its handlers hear is told at once: accept, up, down, closed, completed, message. A message
// waits for its answer, what the handler there returned.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "net/rpc.h"
#include "tests/net/conformance.h"
#include "tests/net/remote/channel.h"

namespace btd::net::remote {

class Peer final : public Handler {
 public:
  // `host`: the address of this machine that engines listen on.
  Peer(Channel channel, std::string host) : channel_(std::move(channel)), host_(std::move(host)) {}
  ~Peer() override;
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // Until the other process goes.
  Status serve();

 private:
  struct Region {
    std::vector<std::byte> memory, known;
  };
  using Words = std::vector<std::string>;
  struct Answer {
    Words words;
    std::vector<std::byte> bytes;
  };
  using Call = Result<Answer> (Peer::*)(const Line&);

  void on_completion(Endpoint& endpoint, const Completion& completion) override;
  int on_message(Endpoint& endpoint, std::span<const std::byte> message) override;
  void on_up(Endpoint& endpoint) override;
  void on_down(Endpoint& endpoint, const Error& why) override;
  void on_closed(Endpoint& endpoint, const Error& why) override;

  Status take(const Line& line);
  Result<Answer> call(const Line& line);
  Result<Answer> make(const Line& line);
  Result<Answer> listen(const Line& line);
  Result<Answer> register_memory(const Line& line);
  Result<Answer> nvram(const Line& line);
  Result<Answer> deregister(const Line& line);
  Result<Answer> changed(const Line& line);
  Result<Answer> crashed(const Line& line);
  Result<Answer> epoch(const Line& line);
  Result<Answer> pause(const Line& line);
  Result<Answer> send(const Line& line);
  Result<Answer> close(const Line& line);
  Result<Answer> kill(const Line& line);
  Result<Answer> unplug(const Line& line);
  Result<Answer> runs(const Line& line);

  void end_engine();
  void tell(const Words& words, std::span<const std::byte> bytes = {});
  std::uint64_t number_of(const Endpoint& endpoint) const;
  Result<Endpoint*> endpoint(const Line& line) const;
  int await_answer();

  Channel channel_;
  const std::string host_;
  std::deque<Line> waiting_;                 // calls that came while an answer was waited for
  Status broken_;                            // of the channel
  std::deque<std::vector<std::byte>> sent_;  // messages, which belong to their operations
  std::map<std::uint64_t, Region> regions_;
  std::unique_ptr<Engine> engine_;
  std::map<std::uint64_t, std::unique_ptr<ServerNvram>> nvram_;
  std::unique_ptr<Rpc> rpc_;
  std::map<std::uint64_t, Endpoint*> endpoints_;
  std::uint64_t last_endpoint_ = 0, runs_ = 0;
  bool is_paused_ = false;
};

}  // namespace btd::net::remote
