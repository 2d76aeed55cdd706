// What /.btd says: the texts of status, status.json and trace.
#pragma once

#include <string>

namespace btd {

struct Server;

std::string status_text(const Server& server);
std::string status_json(const Server& server);
std::string trace_text(const Server& server);

}  // namespace btd
