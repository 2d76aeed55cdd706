// The commands of the store: a request in, a reply out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "table.h"

namespace kv {

// Does the request, whose first argument is the command, and appends the reply. What it changed is
// durable then. True: the client wants to end. Throws nothing: failures are replies.
bool execute(Table& table, const std::vector<std::string_view>& request, std::string& reply);

}  // namespace kv
