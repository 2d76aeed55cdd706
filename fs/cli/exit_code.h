// How an error becomes the exit code of a command: one table, listed in btd.1.
#pragma once

#include "alloc/result.h"

namespace btd::cli {

// As in sysexits.h, so that scripts can tell what to do next.
enum ExitCode : int {
  kExitOk = 0,
  kExitUsage = 64,         // wrong arguments
  kExitData = 65,          // a pool that is damaged or of another version
  kExitNoInput = 66,       // the pool, mount or file is not there
  kExitUnavailable = 69,   // something of the system is missing (no /dev/fuse, no fallocate)
  kExitSoftware = 70,      // a defect of bartender
  kExitOsError = 71,       // the system refused for another reason
  kExitCannotCreate = 73,  // it is there already, or there is no space for it
  kExitIo = 74,            // reading or writing failed
  kExitBusy = 75,          // somebody else uses it; try again later
  kExitNoPermission = 77,  // needs root, or a file system that can be written
  kExitConfig = 78,        // the configuration file is wrong
};

[[nodiscard]] ExitCode exit_code_for(int error_number);

}  // namespace btd::cli
