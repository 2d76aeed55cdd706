#include "fs/cli/command_group.h"

namespace btd::cli {

void CommandGroup::declare(Arguments& take) {
  take.examples(examples_);
  for (const Entry& entry : entries_) {
    parts_.push_back({take.command(entry.name, entry.summary), entry.make()});
    parts_.back().command->declare(parts_.back().take);
  }
}

Command* CommandGroup::given() const {
  for (const Part& part : parts_)
    if (part.take.given()) return part.command.get();
  return nullptr;
}

Result<int> CommandGroup::run(const Globals& globals) {
  Command* const command = given();
  return command != nullptr ? command->run(globals) : kExitUsage;
}

int CommandGroup::usage_exit_code() const {
  const Command* const command = given();
  return command != nullptr ? command->usage_exit_code() : kExitUsage;
}

}  // namespace btd::cli
