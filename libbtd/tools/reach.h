// Reach: which blocks of a replayed image pointers lead to, of both contracts, changing nothing.
//
// A word counts as a pointer where it is the address of a block, or of a byte inside one; of an
// object of a registered type only the words that it names. That is what recovery does too, but
// recovery takes every block of T and P for a root, and this does not.
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "alloc/heap.h"
#include "alloc/marking.h"
#include "libbtd/tools/heap_image.h"

namespace btd {

class Reach {
 public:
  using Visit = std::function<void(const Slot&)>;

  // Errors: EIO the names or types are damaged.
  static Result<Reach> open(const HeapImage& image);

  // Marks what the pointer leads to, and what that leads to; visits what is new, objects before
  // those that they point to. `visit` may be empty.
  void follow(std::uint64_t pointer, const Visit& visit = {});
  // Marks the block and what it leads to.
  void follow_block(const Slot& slot, const Visit& visit = {});
  [[nodiscard]] bool reached(const Slot& slot) const;
  // A block of the library's own, for roots and types: no program's, and not followed.
  [[nodiscard]] bool own(const Slot& slot) const { return own_.contains(slot.offset()); }

  [[nodiscard]] const std::vector<Names::Root>& roots() const { return roots_; }

 private:
  explicit Reach(const HeapImage& image) : image_(&image) {}
  bool mark(const Slot& slot);
  void scan(const Slot& slot);
  void consider(const std::byte* word);
  [[nodiscard]] Slot block_at(std::uint64_t pointer) const;
  void run(const Visit& visit);

  const HeapImage* image_;
  std::vector<Names::Root> roots_;
  TypeLayouts types_;
  std::unordered_set<Offset> own_;
  std::vector<std::vector<std::uint64_t>> marks_;  // by the id of a segment
  std::vector<Slot> stack_;
};

// Blocks that no root reaches.
enum class Leak : std::uint8_t {
  kRecoverable,    // R: the next reclaiming takes it
  kTransactional,  // P or T: stays until the program frees it
  kHeld,           // R: kept by a block of P or T that no root reaches
};
// Calls visit for each leaked block, by address. The image was replayed. Errors: EIO.
Status for_each_leak(const HeapImage& image,
                     const std::function<void(const Slot&, Leak kind)>& visit);

}  // namespace btd
