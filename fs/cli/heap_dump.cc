// btd heap dump: the objects that roots reach, each with its first bytes.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "fs/cli/heap.h"
#include "libbtd/tools/reach.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd heap dump default
  btd heap dump default --root index --max 1000
  btd heap dump default --bytes 256 | less

Each root is followed in turn; an object is shown once, under the first root that reaches it.
CONTRACT R is memory of btd_malloc and its kin, T of contracts P and T. Sizes are those of the
class, which may be more than was asked for. At most --max objects are shown.)";

constexpr std::size_t kLineBytesShown = 16;
constexpr std::uint64_t kMaxBytes = 64 * 1024;

struct Object {
  std::string root;
  std::uint64_t address = 0, bytes = 0;
  SegmentWord word;
  const std::byte* data = nullptr;

  [[nodiscard]] char contract() const {
    return word.contract == Contract::kRecoverable ? 'R' : 'T';
  }
};

std::string hex_of(const std::byte* data, std::size_t len) {
  std::string out;
  for (std::size_t i = 0; i < len; ++i) out += fmt::format("{:02x}", std::to_integer<int>(data[i]));
  return out;
}

// As hexdump -C has it: offset, bytes, what of them is text.
std::string hex_lines(const std::byte* data, std::size_t len) {
  std::string out;
  for (std::size_t line = 0; line < len; line += kLineBytesShown) {
    std::string hex, text;
    for (std::size_t i = line; i < line + kLineBytesShown; ++i) {
      if (i % 8 == 0) hex += ' ';
      hex += i < len ? fmt::format("{:02x} ", std::to_integer<int>(data[i])) : "   ";
      if (i >= len) continue;
      const auto c = std::to_integer<unsigned char>(data[i]);
      text += c >= ' ' && c < 0x7F ? static_cast<char>(c) : '.';
    }
    out += fmt::format("    {:04x} {} |{}|\n", line, hex, text);
  }
  return out;
}

class HeapDumpCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("HEAP", heap_, kHeapArgument);
    take.option("--root", root_, "Follow this root only");
    take.option("--max", max_, "Show so many objects at most; 100");
    take.option("--bytes", bytes_, "Show so many bytes of each at most; 32");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    if (bytes_ > kMaxBytes) return fail(EINVAL, "--bytes takes at most 65536");
    BTD_ASSIGN(image_, open_idle(heap_));
    BTD_ASSIGN(Reach reach, Reach::open(*image_));
    bool found = root_.empty();
    for (const auto& [name, pointer] : reach.roots()) {
      if (!root_.empty() && name != root_) continue;
      found = true;
      follow(reach, name, pointer);
    }
    if (!found) {
      return fail(ENOENT,
                  fmt::format("heap {} has no root {}; `btd heap dump {}` shows those it has",
                              image_->name(), root_, heap_));
    }
    json_ ? show_json() : show();
    return kExitOk;
  }

 private:
  // The walk goes on to its end, for the count of what was left out.
  void follow(Reach& reach, const std::string& name, std::uint64_t pointer) {
    ++roots_;
    reach.follow(pointer, [&](const Slot& slot) {
      ++reached_;
      if (objects_.size() >= max_) return;
      objects_.push_back({.root = name,
                          .address = image_->address() + slot.offset(),
                          .bytes = slot.bytes(),
                          .word = slot.segment->word,
                          .data = image_->heap().at(slot.offset())});
    });
  }

  [[nodiscard]] std::size_t shown_of(const Object& object) const {
    return static_cast<std::size_t>(std::min(object.bytes, bytes_));
  }

  void show_json() const {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Object& object : objects_) {
      rows.push_back({{"root", object.root},
                      {"address", hex_address(object.address)},
                      {"bytes", object.bytes},
                      {"contract", std::string(1, object.contract())},
                      {"type", object.word.type},
                      {"data", hex_of(object.data, shown_of(object))}});
    }
    const nlohmann::ordered_json out = {
        {"roots", roots_}, {"reached", reached_}, {"objects", std::move(rows)}};
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  void show() const {
    const std::string* root = nullptr;
    for (const Object& object : objects_) {
      if (root == nullptr || *root != object.root) fmt::print("root {}\n", object.root);
      root = &object.root;
      fmt::print("  {} {} bytes, contract {}, type {}\n", hex_address(object.address), object.bytes,
                 object.contract(), object.word.type);
      fmt::print("{}", hex_lines(object.data, shown_of(object)));
    }
    fmt::print("{} objects reached from {} roots", reached_, roots_);
    if (reached_ > objects_.size()) {
      fmt::print(", {} shown; --max shows more", objects_.size());
    }
    fmt::print("\n");
  }

  std::string heap_, root_;
  std::uint64_t max_ = 100, bytes_ = 32;
  bool json_ = false;
  std::unique_ptr<HeapImage> image_;
  std::vector<Object> objects_;
  std::uint64_t reached_ = 0, roots_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_heap_dump_command() { return std::make_unique<HeapDumpCommand>(); }

}  // namespace btd::cli
