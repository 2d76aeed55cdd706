// btd notifier: the hidden command by which a supervisor starts what tells the kernel for a worker.
#include "fs/daemon/notifier.h"

#include "fs/cli/command.h"

namespace btd::cli {
namespace {

class NotifierCommand : public Command {
 public:
  void declare(Arguments& take) override { take.required("ARGUMENT", argument_); }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const NotifierArgs args, NotifierArgs::parse(argument_));
    return run_notifier(args);
  }

 private:
  std::string argument_;
};

}  // namespace

std::unique_ptr<Command> make_notifier_command() { return std::make_unique<NotifierCommand>(); }

}  // namespace btd::cli
