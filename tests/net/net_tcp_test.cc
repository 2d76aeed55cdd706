// The conformance suite on TCP: as it is, with a cluster key, with TLS, and in the engine's other
// ways to move bytes.
#include "tests/net/tcp_world.h"

namespace btd::net {
namespace {

WorldMaker world(const char* name, const std::function<TcpOptions()>& tcp) {
  return {name, [tcp](const WorldOptions& options) -> std::unique_ptr<World> {
            return std::make_unique<TcpWorld>(options, tcp());
          }};
}

TcpOptions with(const Security& security) { return {.security = security}; }

INSTANTIATE_TEST_SUITE_P(Tcp, Conformance,
                         ::testing::Values(world("Plain", [] { return with(NoSecurity{}); }),
                                           world("Key", [] { return with(Secrets::mine().key()); }),
                                           world("Tls", [] { return with(Secrets::mine().tls()); }),
                                           world("ZeroCopy", [] { return all_zero_copy(); }),
                                           world("SingleShots", [] { return single_shots(); }),
                                           world("Multishots", [] { return multishots(); }),
                                           world("TlsMultishots",
                                                 [] { return multishots(Secrets::mine().tls()); })),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace btd::net
