// What lies in a directory that is or shall be a pool, and how to make it empty again. Removes only
// what a format or a pool makes, by its name, type and place: never a foreign file.
#pragma once

#include <string>

#include "alloc/result.h"

namespace btd {

inline constexpr char kSuperblockName[] = "superblock";
inline constexpr char kNewSuperblockName[] = "superblock.new";  // of a format that has not ended
inline constexpr char kSuperblockCopyName[] = "superblock.copy";

struct Contents {
  bool pool = false;        // a superblock is there
  bool unfinished = false;  // a format was cut short
  std::string foreign;      // the first name that is not bartender's, relative to the directory
};

Result<Contents> look_into(int dir, const std::string& path);

// Removes meta/, data/ and the superblock's copy.
Status remove_contents(int dir, const std::string& path);

}  // namespace btd
