// What libbtd stores in a heap, beside what alloc/layout.h defines.
//
// Root slot 0 of the heap names an ordered map. Its entries: 'r' and a name -> the offset of a
// root's cell, a block of contract T with one pointer; 't' and a byte -> the TypeRecord of that
// type.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "alloc/layout.h"

namespace btd {

inline constexpr unsigned kNamesSlot = 0;
inline constexpr char kRootKey = 'r';
inline constexpr char kTypeKey = 't';
inline constexpr std::size_t kCellBytes = kWordBytes;
inline constexpr std::size_t kMaxTypeBytes = 4096;

// Where the pointers of a type's objects are.
struct TypeRecord {
  std::uint64_t bytes = 0;                                                // of one object
  std::array<std::uint64_t, kMaxTypeBytes / kWordBytes / 64> pointers{};  // a bit for each word
};
static_assert(sizeof(TypeRecord) == 72);

}  // namespace btd
