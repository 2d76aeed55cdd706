// The network device of this machine that has an address, to be taken down and up.
#pragma once

#include <string>
#include <string_view>

#include "alloc/result.h"

namespace btd::net::remote {

// Errors: ENODEV no device has the address; ENOTSUP it is the loopback device's.
Result<std::string> device_of(std::string_view host);
// Errors: EPERM.
Status set_device_up(const std::string& device, bool is_up);

}  // namespace btd::net::remote
