// CommandGroup: a command that has others, such as `btd heap` and `btd net bench`.
#pragma once

#include <memory>
#include <vector>

#include "fs/cli/command.h"

namespace btd::cli {

class CommandGroup final : public Command {
 public:
  struct Entry {
    const char* name;
    const char* summary;
    std::unique_ptr<Command> (*make)();
  };

  CommandGroup(std::vector<Entry> entries, const char* examples)
      : entries_(std::move(entries)), examples_(examples) {}

  void declare(Arguments& take) override;
  Result<int> run(const Globals& globals) override;
  [[nodiscard]] int usage_exit_code() const override;

 private:
  struct Part {
    Arguments take;
    std::unique_ptr<Command> command;
  };

  // The one that was asked for; null: none.
  [[nodiscard]] Command* given() const;

  const std::vector<Entry> entries_;
  const char* const examples_;
  std::vector<Part> parts_;
};

}  // namespace btd::cli
