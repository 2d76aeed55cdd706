// btd cluster dev: what its commands take and print.
#include "fs/cli/cluster_dev.h"

#include <fmt/format.h>
#include <unistd.h>

#include <functional>
#include <vector>

#include "fs/cli/paths.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster dev 3                        three nodes, mounted at /mnt/bartender-dev/n1 to n3
  btd cluster dev 3 --etcd 3 --delay 1     three members of etcd too, 1 ms away from each other
  btd cluster dev status
  btd cluster dev exec n1 -- ping -c 3 10.93.0.12
  btd cluster dev kill n2 && btd cluster dev start n2
  btd cluster dev partition n3 && btd cluster dev heal
  btd cluster dev stop

Node i is 10.93.0.1i, member i of etcd 10.93.0.i, each in a network namespace of its own that the
machine's network does not reach. Pools are RAM. All of it goes with `stop`, but for the logs.)";

constexpr const char* kStopExamples = R"(Examples:
  btd cluster dev stop
  btd cluster dev stop --dir /tmp/cluster

Ends its daemons, etcd and whatever else runs in its namespaces, unmounts, and removes all but the
logs. May be given at any time and again.)";

constexpr const char* kStatusExamples = R"(Examples:
  btd cluster dev status
  btd cluster dev status --json | jq -r '.nodes[].mount'

STATE is runs, paused, dead, or none where the cluster was started --without-daemons. NETWORK is
joined, cut, or cut from the hosts that it names.)";

constexpr const char* kExecExamples = R"(Examples:
  btd cluster dev exec n1 -- ping -c 3 10.93.0.12
  btd cluster dev exec etcd -- etcdctl endpoint status
  btd cluster dev exec n2 -- bash

Only the network is the host's; files and mounts are the machine's.)";

constexpr const char* kFaultExamples = R"(Examples:
  btd cluster dev kill n2                  a node crashes; its pool stays, as NVRAM does
  btd cluster dev start n2                 and comes back
  btd cluster dev pause etcd:1             a member of etcd hangs
  btd cluster dev resume etcd              all members go on
  btd cluster dev partition n3             a node reaches nobody and nobody reaches it
  btd cluster dev partition n3 --from n1   only these two lose sight of each other
  btd cluster dev heal                     all partitions end

HOST is a node as n2, a member of etcd as etcd:1, or etcd for all of its members.)";

Status must_be_root() {
  if (::geteuid() == 0) return {};
  return fail(EPERM, "a development cluster is root's; run btd as root");
}

// One option of all, with one value.
void declare_directory(Arguments& take, std::string& directory) {
  take.option("--dir", directory, "Where the cluster is (/var/lib/bartender-dev)");
}

class StopCommand : public Command {
 public:
  explicit StopCommand(std::string& directory) : directory_(directory) {}

  void declare(Arguments& take) override {
    declare_directory(take, directory_);
    take.examples(kStopExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::string directory, absolute_path(directory_));
    BTD_ASSIGN(const bool was_there, dev::stop_cluster(directory));
    fmt::print("{}\n", was_there ? "Stopped. The logs are left in " + directory + "."
                                 : "There is no development cluster in " + directory + ".");
    return kExitOk;
  }

 private:
  std::string& directory_;
};

class StatusCommand : public Command {
 public:
  explicit StatusCommand(std::string& directory) : directory_(directory) {}

  void declare(Arguments& take) override {
    declare_directory(take, directory_);
    take.flag("--json", json_, "As JSON");
    take.examples(kStatusExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::string directory, absolute_path(directory_));
    BTD_ASSIGN(const dev::State state, dev::load_state(directory));
    fmt::print("{}", json_ ? dev::describe_as_json(state) : dev::describe(state));
    return kExitOk;
  }

 private:
  std::string& directory_;
  bool json_ = false;
};

class ExecCommand : public Command {
 public:
  explicit ExecCommand(std::string& directory) : directory_(directory) {}

  void declare(Arguments& take) override {
    declare_directory(take, directory_);
    take.required("HOST", host_, "n1, etcd:1, …");
    take.options("COMMAND", command_, "The program and its arguments, after --");
    take.examples(kExecExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_TRY(must_be_root());
    if (command_.empty())
      return fail(EINVAL, "name a command: btd cluster dev exec HOST -- COMMAND");
    BTD_ASSIGN(const std::string directory, absolute_path(directory_));
    BTD_ASSIGN(const dev::State state, dev::load_state(directory));
    BTD_TRY(dev::execute(state, host_, command_));
    return kExitSoftware;
  }

 private:
  std::string& directory_;
  std::string host_;
  std::vector<std::string> command_;
};

// kill, start, pause, resume: one host, or all members of etcd.
class FaultCommand : public Command {
 public:
  using Action = Status (*)(dev::State&, const std::string&);
  FaultCommand(std::string& directory, Action action) : directory_(directory), action_(action) {}

  void declare(Arguments& take) override {
    declare_directory(take, directory_);
    take.required("HOST", host_, "n1, etcd:1, or etcd for all members");
    take.examples(kFaultExamples);
  }

  Result<int> run(const Globals&) override {
    return change([this](dev::State& state) { return action_(state, host_); });
  }

 protected:
  [[nodiscard]] Result<int> change(const std::function<Status(dev::State&)>& action) const {
    BTD_TRY(must_be_root());
    BTD_ASSIGN(const std::string directory, absolute_path(directory_));
    BTD_TRY(dev::load_state(directory));  // says it best where there is none
    BTD_ASSIGN(const UniqueFd lock, dev::lock_directory(directory));
    BTD_ASSIGN(dev::State state, dev::load_state(directory));
    BTD_TRY(action(state));
    return kExitOk;
  }

  std::string& directory_;
  std::string host_;

 private:
  const Action action_ = nullptr;
};

class PartitionCommand : public FaultCommand {
 public:
  explicit PartitionCommand(std::string& directory) : FaultCommand(directory, nullptr) {}

  void declare(Arguments& take) override {
    FaultCommand::declare(take);
    take.option("--from", from_, "Only from this HOST, not from all");
  }

  Result<int> run(const Globals&) override {
    return change([this](dev::State& state) { return dev::cut_hosts(state, host_, from_); });
  }

 private:
  std::string from_;
};

class HealCommand : public FaultCommand {
 public:
  explicit HealCommand(std::string& directory) : FaultCommand(directory, dev::heal_hosts) {}

  void declare(Arguments& take) override {
    declare_directory(take, directory_);
    take.option("HOST", host_, "Only this one's partitions");
    take.examples(kFaultExamples);
  }
};

class DevCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("N", options_.nodes, "How many nodes", 1, 9);
    declare_directory(take, directory_);
    take.option("--size", size_, "Of each node's pool, in RAM (256M)");
    take.option("--etcd", options_.etcd, "Members of etcd, 1 to 5 (1)", 1, 5);
    take.option("--mounts", mounts_,
                "Where the nodes' mounts are made (DIR/mnt; /mnt/bartender-dev without --dir)");
    take.option("--delay", options_.delay, "Milliseconds from host to host, each way", 0, 1000);
    take.option("--loss", options_.loss, "Percent of the packets that get lost", 0, 99);
    take.flag("--without-daemons", without_daemons_, "Network and etcd only");
    take.flag("--json", json_, "Print what was started as JSON");
    take.examples(kExamples);
    declare_commands(take);
  }

  Result<int> run(const Globals& globals) override {
    for (const Part& part : parts_)
      if (part.take.given()) return part.command->run(globals);
    if (options_.nodes == 0)
      return fail(EINVAL, "say how many nodes: btd cluster dev 3; or a command, such as status");
    BTD_TRY(complete_options());
    BTD_ASSIGN(const dev::State state, dev::start_cluster(options_));
    if (json_) {
      fmt::print("{}", dev::describe_as_json(state));
    } else {
      fmt::print("{}{}", dev::describe(state), hints());
    }
    return kExitOk;
  }

 private:
  struct Part {
    Arguments take;
    std::unique_ptr<Command> command;
  };

  void add(Arguments& take, const char* name, const char* summary, std::unique_ptr<Command> made) {
    parts_.push_back({take.command(name, summary), std::move(made)});
    parts_.back().command->declare(parts_.back().take);
  }

  void add_fault(Arguments& take, const char* name, const char* summary,
                 FaultCommand::Action action) {
    add(take, name, summary, std::make_unique<FaultCommand>(directory_, action));
  }

  void declare_commands(Arguments& take) {
    add(take, "status", "What the cluster consists of, and what of it lives",
        std::make_unique<StatusCommand>(directory_));
    add(take, "stop", "End and remove it", std::make_unique<StopCommand>(directory_));
    add(take, "exec", "Run a command in the network of one host",
        std::make_unique<ExecCommand>(directory_));
    add_fault(take, "kill", "Let a host crash", dev::kill_hosts);
    add_fault(take, "start", "Start what was killed or died", dev::restart_hosts);
    add_fault(take, "pause", "Let a host hang", dev::pause_hosts);
    add_fault(take, "resume", "Let a host that hangs go on", dev::resume_hosts);
    add(take, "partition", "Cut a host off from the others",
        std::make_unique<PartitionCommand>(directory_));
    add(take, "heal", "End partitions", std::make_unique<HealCommand>(directory_));
    take.commands_are_optional();
  }

  Status complete_options() {
    options_.has_daemons = !without_daemons_;
    BTD_ASSIGN(options_.directory, absolute_path(directory_));
    if (mounts_.empty())
      mounts_ =
          directory_ == dev::kDefaultDirectory ? dev::kDefaultMounts : options_.directory + "/mnt";
    BTD_ASSIGN(options_.mounts, absolute_path(mounts_));
    BTD_ASSIGN(options_.size, parse_size(size_));
    return {};
  }

  [[nodiscard]] std::string hints() const {
    const std::string suffix =
        directory_ == dev::kDefaultDirectory ? "" : " --dir " + options_.directory;
    return fmt::format("Ends with: btd cluster dev stop{}\n", suffix);
  }

  std::string directory_ = dev::kDefaultDirectory, size_ = dev::kDefaultSize, mounts_;
  dev::StartOptions options_;
  bool without_daemons_ = false, json_ = false;
  std::vector<Part> parts_;
};

}  // namespace

std::unique_ptr<Command> make_cluster_dev_command() { return std::make_unique<DevCommand>(); }

}  // namespace btd::cli
