// State: what a development cluster consists of, kept in DIR/state.json.
//
// It is written before a thing is made and replaced as a whole, so that after a crash at any
// instant it names all that may be there. What lies in DIR and is named here may be removed; of
// other directories only those in `made`, and only if they are empty.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "alloc/result.h"
#include "alloc/unique_fd.h"

namespace btd::cli::dev {

// A process that we started: a pid alone may be somebody else's by now.
struct Process {
  pid_t pid = 0;            // 0: none
  std::uint64_t start = 0;  // ticks after boot, of /proc/PID/stat
};

// What one network namespace plays: a node, or a member of etcd.
struct Host {
  bool is_etcd = false;
  unsigned number = 0;  // from 1
  Process process;
  bool is_cut = false;                // from all others
  std::vector<std::string> cut_from;  // from these alone

  [[nodiscard]] std::string name() const;
  [[nodiscard]] std::string address() const;
  [[nodiscard]] std::string endpoint() const;  // of etcd
  [[nodiscard]] std::string target() const;    // as a person names it
};

struct State {
  std::string directory;  // not in the file: where that is
  std::string id;         // six hexadecimal digits; in the name of each namespace
  std::string boot;       // processes and namespaces are of this boot of the machine
  std::string mounts;
  std::uint64_t size = 0;
  std::uint64_t delay = 0;
  std::uint64_t loss = 0;
  bool has_daemons = true;
  bool is_complete = false;  // false: the start was cut off
  std::vector<Host> hosts;
  std::vector<std::string> made;  // directories, outer ones first

  [[nodiscard]] std::string hub() const;  // the namespace that has the bridge
  [[nodiscard]] std::string network(const Host& host) const;
  [[nodiscard]] std::string home(const Host& host) const;  // its directory
  [[nodiscard]] std::string log(const Host& host) const;
  [[nodiscard]] std::string pool(const Host& host) const;
  [[nodiscard]] std::string mount(const Host& host) const;
  [[nodiscard]] std::string cluster_file(const Host& host) const;
  [[nodiscard]] std::string key() const;
  [[nodiscard]] std::vector<std::string> endpoints() const;
  [[nodiscard]] std::size_t etcd_members() const;
};

[[nodiscard]] std::string state_file(const std::string& directory);

// Errors: ENOENT there is none; EUCLEAN it is damaged.
Result<State> load_state(const std::string& directory);
Status save_state(const State& state);

// Waits a while for another command of this cluster. The lock is inherited by the programs that
// change the network, so it outlives a command that is killed until those are done too. Errors:
// ENOENT, EBUSY.
Result<UniqueFd> lock_directory(const std::string& directory);

// "n2", "etcd:1", or "etcd" for all members. Errors: EINVAL with what there is.
Result<std::vector<Host*>> hosts_of(State& state, const std::string& target);

}  // namespace btd::cli::dev
