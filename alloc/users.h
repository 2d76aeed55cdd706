// Users: who else has a heap open, as far as the heap must know.
//
// A user is a process with a number that no other user of the heap has meanwhile. An arena belongs
// to one user at a time. Both end with the process, however it ends: that is for the implementation
// to see to, by locks which the kernel drops. A heap in memory of its own has one user, number 0.
// The door is a lock of all users: whoever comes, leaves, takes an arena or adopts one, holds it.
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <utility>

#include "alloc/result.h"

namespace btd {

class Users {
 public:
  static constexpr unsigned kMax = 64;

  virtual ~Users() = default;
  // This process's number.
  [[nodiscard]] virtual unsigned self() const { return 0; }
  // Whether that user still runs. Costs a system call.
  [[nodiscard]] virtual bool alive(unsigned /*user*/) { return true; }
  // Errors: EBUSY a tool has the heap; ETIMEDOUT.
  virtual Status enter() { return {}; }
  virtual void leave() {}
  // Whether there is no other. Who comes meanwhile is not seen: hold the door.
  [[nodiscard]] virtual bool alone() { return true; }
  // Makes an arena this process's own. False: another has it.
  [[nodiscard]] virtual bool own(std::uint32_t /*arena*/) { return true; }
  virtual void disown(std::uint32_t /*arena*/) {}
  // The process's id of a user, for messages; 0: not known.
  [[nodiscard]] virtual int process_of(unsigned /*user*/) { return 0; }
};

// Holds the door.
class Door {
 public:
  static Result<Door> enter(Users& users) {
    BTD_TRY(users.enter());
    return Door(users);
  }
  Door(Door&& other) noexcept : users_(std::exchange(other.users_, nullptr)) {}
  Door& operator=(Door&&) = delete;
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;
  ~Door() {
    if (users_ != nullptr) users_->leave();
  }

 private:
  explicit Door(Users& users) : users_(&users) {}
  Users* users_;
};

}  // namespace btd
