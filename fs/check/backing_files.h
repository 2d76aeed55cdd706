// Compares POOL/data with the namespace: files that no inode has, directories that are missing.
// Removes leaked files if repair is asked for; never one whose name is not of the store's making.
#pragma once

#include <string>

#include "alloc/result.h"
#include "fs/check/findings.h"
#include "fs/check/names.h"

namespace btd {

Status check_backing_files(const std::string& pool, const NamePass& names, Findings& findings);

}  // namespace btd
