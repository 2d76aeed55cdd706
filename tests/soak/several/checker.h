// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "tests/soak/several/shared.h"

namespace btd::soak {

// Both run in a process of their own, which has not had the heap open, and end it where the heap is
// not what the model says. What a call under way had come to is settled in the model.

// Beside the workers that live.
void check_joining(Common& common);
// Alone: also that nothing leaked, that the heap is sound, and what it takes.
void check_alone(Common& common);

}  // namespace btd::soak
