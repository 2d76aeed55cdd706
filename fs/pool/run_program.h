// Runs one program to its end and keeps what it complained about.
#pragma once

#include <string>
#include <vector>

namespace btd {

struct RunResult {
  bool started = false;
  int code = -1;       // exit code; 128 + signal
  std::string errors;  // the first 4 KiB of its standard error
};

// The path of a program in PATH or in the directories of system programs; empty: there is none.
[[nodiscard]] std::string find_program(const std::string& name);

// Looks for the program in PATH and in the directories of system programs. Its standard input and
// output are /dev/null.
[[nodiscard]] RunResult run_program(const std::vector<std::string>& command);

}  // namespace btd
