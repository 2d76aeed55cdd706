#include "fs/cli/exit_code.h"

#include <cerrno>

namespace btd::cli {

ExitCode exit_code_for(int error_number) {
  switch (error_number) {
    case EINVAL:
    case ERANGE:
    case E2BIG:
    case ENAMETOOLONG:
      return kExitUsage;
    case EILSEQ:  // as parse_config says it
      return kExitConfig;
    case EUCLEAN:
    case EPROTO:
    case EBADMSG:
      return kExitData;
    case ENOENT:
    case ENOTDIR:
    case ENXIO:
      return kExitNoInput;
    case EOPNOTSUPP:
    case ENODEV:
    case ENOSYS:
    case ENOTCONN:
      return kExitUnavailable;
    case EEXIST:
    case ENOSPC:
    case ENOTEMPTY:
    case EDQUOT:
      return kExitCannotCreate;
    case EIO:
      return kExitIo;
    case EBUSY:
    case EAGAIN:
    case ETIMEDOUT:
      return kExitBusy;
    case EPERM:
    case EACCES:
    case EROFS:
      return kExitNoPermission;
    default:
      return kExitOsError;
  }
}

}  // namespace btd::cli
