// libFuzzer's entry: one program for each target, whose name is BTD_FUZZ_TARGET.
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const btd::fuzz::Target* const target = btd::fuzz::find_target(BTD_FUZZ_TARGET);
  btd::fuzz::check(target != nullptr);
  target->run({bytes, size});
  return 0;
}
