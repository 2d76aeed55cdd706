// flush: libpmem, loaded when a heap is to be durable, which few programs want.
//
// Linked, it would bring ten libraries into every program that is served.
#pragma once

#include "alloc/result.h"

namespace btd::preload {

// Before anything is flushed. Errors: ENOENT it is not installed.
Status load_flush();

}  // namespace btd::preload
