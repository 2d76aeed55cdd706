// net_peer HOST:PORT: serves tests of other processes, one after another, as the other side of
// their engines (peer.h). Port 0 for any. Prints on which address it does. It ends when it is
// killed, or when no engine works any more: exit code 1.
#include <cstdio>
#include <string>

#include "tests/net/remote/peer.h"

namespace btd::net::remote {

namespace {

Status serve(const std::string& at) {
  BTD_ASSIGN(ChannelListener listener, ChannelListener::listen(at));
  std::printf("%s\n", listener.address().c_str());
  std::fflush(stdout);
  const std::string host = at.substr(0, at.rfind(':'));
  while (true) {
    BTD_ASSIGN(Channel channel, listener.accept());
    const Status ended = Peer(std::move(channel), host).serve();
    if (!ended && ended.error().code != ECONNRESET)
      std::fprintf(stderr, "net_peer: %s\n", ended.error().message.c_str());
  }
}

}  // namespace

}  // namespace btd::net::remote

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: net_peer HOST:PORT\n");
    return 2;
  }
  const btd::Status ended = btd::net::remote::serve(argv[1]);
  std::fprintf(stderr, "net_peer: %s\n", ended.error().message.c_str());
  return 1;
}
