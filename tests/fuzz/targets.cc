#include <array>
#include <cstdlib>
#include <map>

#include "tests/fuzz/target.h"

namespace btd::fuzz {

namespace {

struct Entry {
  std::string_view name;
  Target (*make)();
};

constexpr std::array kEntries = {
    Entry{"address", address_target},
    Entry{"base64", base64_target},
    Entry{"cluster_file", cluster_file_target},
    Entry{"config", config_target},
    Entry{"connection", connection_target},
    Entry{"control", control_target},
    Entry{"conversation", conversation_target},
    Entry{"etcd_answer", etcd_answer_target},
    Entry{"etcd_watch", etcd_watch_target},
    Entry{"handshake", handshake_target},
    Entry{"heap", heap_target},
    Entry{"mount_options", mount_options_target},
    Entry{"mountinfo", mountinfo_target},
    Entry{"notifier", notifier_target},
    Entry{"rpc", rpc_target},
    Entry{"secret_file", secret_file_target},
    Entry{"size", size_target},
    Entry{"store", store_target},
    Entry{"superblock", superblock_target},
    Entry{"verbs", verbs_target},
    Entry{"worker_arguments", worker_arguments_target},
};

}  // namespace

std::vector<std::string> target_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

const Target* find_target(std::string_view name) {
  static std::map<std::string_view, Target> made;
  const auto* const entry = std::ranges::find(kEntries, name, &Entry::name);
  if (entry == kEntries.end()) return nullptr;
  auto found = made.find(entry->name);
  if (found == made.end()) found = made.emplace(entry->name, entry->make()).first;
  return &found->second;
}

void check(bool is_so) {
  if (!is_so) std::abort();
}

}  // namespace btd::fuzz
