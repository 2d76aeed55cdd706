#include "fs/cluster/move.h"

namespace btd::cluster {

void Move::settled(bool is_here) {
  if (is_here) result_ = {};
  step_ = is_here ? MoveStep::kOver : MoveStep::kDrop;
}

void Move::ended(Status status) {
  const bool is_ok = status.has_value();
  if (!is_ok && result_) result_ = std::move(status);
  switch (step_) {
    case MoveStep::kReserve:
      step_ = is_ok ? MoveStep::kNote : MoveStep::kOver;
      break;
    case MoveStep::kNote:  // an error may be of the answer only
      step_ = is_ok ? MoveStep::kCopy : MoveStep::kSettle;
      break;
    case MoveStep::kCopy:
      step_ = is_ok ? MoveStep::kYield : MoveStep::kSettle;
      break;
    case MoveStep::kYield:  // likewise; and then this node has heard of it
      step_ = MoveStep::kSettle;
      break;
    case MoveStep::kDrop:
      step_ = is_ok ? MoveStep::kForget : MoveStep::kOver;
      break;
    case MoveStep::kSettle:
    case MoveStep::kForget:
    case MoveStep::kOver:
      step_ = MoveStep::kOver;
      break;
  }
}

namespace {

Status take(MoveStep step, MoveActions& actions) {
  switch (step) {
    case MoveStep::kReserve:
      return actions.reserve();
    case MoveStep::kNote:
      return actions.note();
    case MoveStep::kCopy:
      return actions.copy();
    case MoveStep::kYield:
      return actions.yield();
    case MoveStep::kDrop:
      return actions.drop();
    case MoveStep::kForget:
      return actions.forget();
    default:
      return {};
  }
}

}  // namespace

Status run_move(Move move, MoveActions& actions) {
  while (!move.is_over()) {
    if (move.step() != MoveStep::kSettle) {
      move.ended(take(move.step(), actions));
    } else if (auto settled = actions.settle()) {
      move.settled(*settled);
    } else {
      move.ended(std::unexpected(std::move(settled).error()));
    }
  }
  return move.result();
}

}  // namespace btd::cluster
