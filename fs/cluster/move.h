// Move: the steps that bring a file to another home, and what each of them leads to. Pure: the
// shell does a step, says how it ended, and asks for the next (run_move()).
//
// A node does a whole move as the file's new home. Wherever that is cut, it begins again at
// kSettle: so do a node that starts and finds a row of a copy, and the old home for what it is left
// with. What a step does may have been done before.
#pragma once

#include <cstdint>
#include <utility>

#include "alloc/result.h"

namespace btd::cluster {

enum class MoveStep : std::uint8_t {
  kReserve,  // home notes the attempt, if nobody uses the file; whoever does from now on ends it
  kNote,     // the row that this node may have bytes of it (note_copy)
  kCopy,     // all of it, durably
  kYield,    // home commits the move, if nobody has used the file since kReserve (commit_move)
  kSettle,   // whether the file is here now; if not, it never will be by this attempt
  kDrop,     // what is here is removed, durably
  kForget,   // and the row that told of it
  kOver,
};

class Move {
 public:
  static Move begin() { return Move(MoveStep::kReserve); }
  // Only cleans up what an earlier attempt left here.
  static Move after_crash() { return Move(MoveStep::kSettle); }

  [[nodiscard]] MoveStep step() const { return step_; }
  [[nodiscard]] bool is_over() const { return step_ == MoveStep::kOver; }
  // Why it failed; none: the file is here, or is not and left nothing here.
  [[nodiscard]] const Status& result() const { return result_; }

  // How kSettle ended: the file is here, or not.
  void settled(bool is_here);
  // How any other step ended; of kSettle, that it is not known.
  void ended(Status status);

 private:
  explicit Move(MoveStep step) : step_(step) {}

  MoveStep step_;
  Status result_;  // the first error
};

// Does the steps. An error of settle() leaves the row, for the next start.
class MoveActions {
 public:
  virtual ~MoveActions() = default;
  virtual Status reserve() = 0;
  virtual Status note() = 0;
  virtual Status copy() = 0;
  virtual Status yield() = 0;
  virtual Result<bool> settle() = 0;
  virtual Status drop() = 0;
  virtual Status forget() = 0;
};
Status run_move(Move move, MoveActions& actions);

}  // namespace btd::cluster
