// Fuzz targets: bytes from outside, good or bad, into what parses them. Each decoder is named once,
// in targets.cc: libFuzzer drives it (fuzzer.cc), and seeded_test.cc does so with any compiler.
//
// A target that returns has not crashed; its own checks and the sanitizers see the rest. It keeps
// nothing from one run to the next that changes what the next one does.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace btd::fuzz {

using Input = std::span<const std::uint8_t>;

struct Target {
  void (*run)(Input) = nullptr;
  // What the encoders make: where a fuzzer begins. Never empty.
  std::vector<std::string> seeds;
  // Words of the language, for the dictionary.
  std::vector<std::string> words;
  std::size_t most_bytes = 4096;  // of an input
};

std::vector<std::string> target_names();
// Made at the first call, for its seeds take time; null if there is none. One thread.
const Target* find_target(std::string_view name);

// Inputs that once did harm to the target.
std::vector<std::string> regressions(std::string_view name);

// Ends the program if it is not so.
void check(bool is_so);

// Reads an input from its beginning to its end, behind which there are zeros.
class Script {
 public:
  explicit Script(Input bytes) : left_(bytes) {}

  [[nodiscard]] bool is_over() const { return left_.empty(); }
  std::uint8_t byte() {
    const Input one = take(1);
    return one.empty() ? 0 : one[0];
  }
  Input take(std::size_t most) {
    const Input taken = left_.first(std::min(most, left_.size()));
    left_ = left_.subspan(taken.size());
    return taken;
  }
  Input rest() { return take(left_.size()); }

 private:
  Input left_;
};

inline std::string_view text_of(Input bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Input input_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

// An object as it lies in memory.
template <class T>
  requires std::is_trivially_copyable_v<T>
std::string raw_of(const T& object) {
  return {reinterpret_cast<const char*>(&object), sizeof(object)};
}

// The targets, each in the file of its layer.
Target connection_target();
Target handshake_target();
Target conversation_target();
Target rpc_target();
Target verbs_target();
Target address_target();
Target secret_file_target();
Target etcd_answer_target();
Target etcd_watch_target();
Target base64_target();
Target superblock_target();
Target store_target();
Target heap_target();
Target size_target();
Target mount_options_target();
Target config_target();
Target cluster_file_target();
Target mountinfo_target();
Target worker_arguments_target();
Target control_target();
Target notifier_target();

}  // namespace btd::fuzz
