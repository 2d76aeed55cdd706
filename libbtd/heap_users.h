// HeapUsers: the processes that have a heap open, told by locks on bytes of its file `lock`.
//
// Byte 0 is the door, then one for each user, then one for each arena. They are locks of the open
// file description: fork and threads cannot confuse them, and the kernel drops them when the
// process ends, however it does. Tools that look at a heap nobody has open lock the whole file,
// shared. The file's content is for messages alone: the process of each user. Thread-safety: any
// thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "alloc/unique_fd.h"
#include "alloc/users.h"

namespace btd {

class HeapUsers final : public Users {
 public:
  // Opens the file, or makes it. `name` is the heap's. Errors: what the file system says.
  static Result<std::shared_ptr<HeapUsers>> open(int dirfd, const std::string& name);

  // Takes a number, under the door. Errors: EUSERS.
  Status join();

  // Errors: EBUSY a tool has the heap, or the door stays shut.
  Status enter() override;
  void leave() override;
  [[nodiscard]] unsigned self() const override { return self_; }
  [[nodiscard]] bool alive(unsigned user) override;
  [[nodiscard]] bool alone() override;
  [[nodiscard]] bool own(std::uint32_t arena) override;
  void disown(std::uint32_t arena) override;
  [[nodiscard]] int process_of(unsigned user) override;

  // In a child after fork: it is no user.
  void forget() { file_.reset(); }

  // Of any open file `lock`: the process of somebody who has the heap open: 0 nobody; -1 it cannot
  // be told who.
  [[nodiscard]] static pid_t somebody(int fd);

 private:
  HeapUsers(UniqueFd file, std::string name) : file_(std::move(file)), name_(std::move(name)) {}

  UniqueFd file_;
  const std::string name_;
  unsigned self_ = 0;
  std::mutex door_;  // between the threads of this process
};

}  // namespace btd
