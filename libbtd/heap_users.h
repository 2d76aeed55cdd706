// HeapUsers: the processes that have a heap open, told by locks on bytes of its file `lock`.
//
// Byte 0 is the door, then one for each user, one for each arena, and one for each node: a direct
// heap is used on one node at a time, for the pages of others would not follow. They are locks of
// the open file description: fork and threads cannot confuse them, and the kernel drops them when
// the process ends, however it does. Tools that look at a heap nobody has open lock the whole file,
// shared. The file's content: the process of each user, for messages alone, then what tells users
// of one number apart. Thread-safety: any thread.
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

  // Takes a number, under the door. Errors: EUSERS; EBUSY another node uses the heap, which is
  // direct.
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

  // Of this process as a user: a random number that tells it from who has its number later.
  [[nodiscard]] std::uint64_t incarnation() const { return incarnation_; }
  // Of whoever has the number, or had it last; 0: it is not known.
  [[nodiscard]] std::uint64_t incarnation_of(unsigned user) const;

  // In a child after fork: it is no user.
  void forget() { file_.reset(); }

  // Of any open file `lock`: the process of somebody who has the heap open: 0 nobody; -1 it cannot
  // be told who.
  [[nodiscard]] static pid_t somebody(int fd);

 private:
  Status be_on_one_node();
  Status be_somebody();
  HeapUsers(UniqueFd file, std::string name) : file_(std::move(file)), name_(std::move(name)) {}

  UniqueFd file_;
  const std::string name_;
  unsigned self_ = 0;
  std::uint64_t incarnation_ = 0;
  std::mutex door_;  // between the threads of this process
};

}  // namespace btd
