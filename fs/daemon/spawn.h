// Starting processes of this program from the supervisor.
// Between fork and exec only async-signal-safe calls are made.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>

#include "alloc/result.h"
#include "alloc/unique_fd.h"

namespace btd {

struct Child {
  pid_t pid = 0;
  UniqueFd died;  // readable when it did: a pidfd
};

// Executes `program`, or this program if that can't be, with a hidden command. It has none of our
// descriptors but `inherited`, under their numbers; `is_quiet`: nor our standard streams, for
// whoever reads our output would wait for its end too.
Result<Child> spawn(const std::string& program, std::string command, std::string argument,
                    std::span<const int> inherited, bool is_quiet);

// Makes only async-signal-safe calls.
void redirect_standard_streams();

}  // namespace btd
