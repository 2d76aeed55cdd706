#include "tests/net/remote/network_device.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "alloc/unique_fd.h"

namespace btd::net::remote {

Result<std::string> device_of(std::string_view host) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return fail(errno, "The addresses of this machine cannot be read.");
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owned(all, &freeifaddrs);
  in_addr wanted{};
  inet_pton(AF_INET, std::string(host).c_str(), &wanted);
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    sockaddr_in address{};
    std::memcpy(&address, one->ifa_addr, sizeof(address));
    if (address.sin_addr.s_addr != wanted.s_addr) continue;
    if ((one->ifa_flags & IFF_LOOPBACK) != 0)
      return fail(ENOTSUP, "The loopback device of a machine is not a test's to take down.");
    return std::string(one->ifa_name);
  }
  return fail(ENODEV, "No device has the address " + std::string(host) + ".");
}

Status set_device_up(const std::string& device, bool is_up) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  device.copy(request.ifr_name, sizeof(request.ifr_name) - 1);
  bool done = socket && ioctl(socket.get(), SIOCGIFFLAGS, &request) == 0;
  const int up = IFF_UP;
  request.ifr_flags = static_cast<short>(is_up ? request.ifr_flags | up : request.ifr_flags & ~up);
  done = done && ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0;
  if (!done) return fail(errno, device + " cannot be switched: " + std::strerror(errno));
  return {};
}

}  // namespace btd::net::remote
