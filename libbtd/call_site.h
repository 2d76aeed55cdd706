// call_site: where a call came from, as text for a message.
#pragma once

#include <string>

namespace btd {

// "main+0x1d (/usr/bin/prog+0x11a9)": the function where that is known, and what addr2line wants to
// hear, of the call that returns to `return_address`. "an unknown place" where nothing is known.
[[nodiscard]] std::string describe_call(const void* return_address);

}  // namespace btd
