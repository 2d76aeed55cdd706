// The conformance suite on TCP: as it is, with a cluster key, with TLS.
#include "tests/net/tcp_world.h"

namespace btd::net {
namespace {

WorldMaker world(const char* name, const std::function<Security()>& security) {
  return {name, [security](const WorldOptions& options) -> std::unique_ptr<World> {
            return std::make_unique<TcpWorld>(options, security());
          }};
}

INSTANTIATE_TEST_SUITE_P(Tcp, Conformance,
                         ::testing::Values(world("Plain", [] { return NoSecurity{}; }),
                                           world("Key", [] { return Secrets::mine().key(); }),
                                           world("Tls", [] { return Secrets::mine().tls(); })),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace btd::net
