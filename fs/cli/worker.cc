// btd worker: the hidden command by which a supervisor starts its worker.
#include "fs/cli/command.h"
#include "fs/daemon/daemon.h"

namespace btd::cli {
namespace {

class WorkerCommand : public Command {
 public:
  void declare(Arguments& take) override { take.required("ARGUMENT", argument_); }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const WorkerArgs args, WorkerArgs::parse(argument_));
    return run_worker(args);
  }

 private:
  std::string argument_;
};

}  // namespace

std::unique_ptr<Command> make_worker_command() { return std::make_unique<WorkerCommand>(); }

}  // namespace btd::cli
