// The pages of the ordered map, as they lie in NVRAM, and the only code that reads or writes them.
//
// A slotted page: header, slots (2-byte offsets of cells, in key order), free bytes, cells, and at
// the very end the prefix that all keys of the page share and no cell repeats. Leaves and inner
// pages have one format: an inner cell's value is the offset of the child that holds keys >= its
// key, and the key of an inner page's first cell counts as lower than all keys. Little-endian. No
// page is trusted: every access stays inside the page whatever its bytes say.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace btd {

static_assert(std::endian::native == std::endian::little, "on-media structures are little-endian");

inline constexpr std::size_t kMapPageBytes = 4096;
inline constexpr std::uint32_t kMapPageMagic = 0x67704d42;  // "BMpg"
inline constexpr std::uint8_t kMapPageVersion = 1;

enum class MapPageType : std::uint8_t { kLeaf = 1, kInner = 2 };

struct MapPageHeader {
  std::uint32_t magic;
  std::uint8_t version;
  MapPageType type;
  std::uint8_t level;  // 0 for leaves; a child is one level lower, so a damaged tree has no cycle
  std::uint8_t reserved;
  // These four change together and share one 8-byte word of the redo log.
  std::uint16_t count;       // slots
  std::uint16_t cell_begin;  // lowest byte that a cell uses
  std::uint16_t dead;        // bytes of removed cells between cell_begin and the prefix
  std::uint16_t prefix_len;  // bytes at the end of the page that all keys begin with
  // Insert history: a split between ascending inserts leaves the left page full.
  std::uint16_t last_slot;  // of the last insert
  std::uint16_t streak;     // inserts in a row that came right after the one before
  std::uint32_t reserved2;
};
static_assert(sizeof(MapPageHeader) == 24 && std::is_trivially_copyable_v<MapPageHeader>);
static_assert(offsetof(MapPageHeader, type) == 5 && offsetof(MapPageHeader, level) == 6);
static_assert(offsetof(MapPageHeader, count) == 8 && offsetof(MapPageHeader, prefix_len) == 14);
static_assert(offsetof(MapPageHeader, last_slot) == 16 && offsetof(MapPageHeader, streak) == 18);

// Before a cell's key suffix and value.
struct MapCellHeader {
  std::uint16_t key_len;    // of the suffix
  std::uint16_t value_len;  // of the bytes in the page; kMapOverflowBit: they are a MapOverflowRef
};
static_assert(sizeof(MapCellHeader) == 4);
inline constexpr std::uint16_t kMapOverflowBit = 0x8000;

// The value of a cell whose real value lies in a block of its own.
struct MapOverflowRef {
  std::uint64_t block;
  std::uint32_t size;   // of the value
  std::uint32_t check;  // MapOverflowHeader::check of the block
};
static_assert(sizeof(MapOverflowRef) == 16);

inline constexpr std::uint32_t kMapOverflowMagic = 0x766f4d42;  // "BMov"
struct MapOverflowHeader {
  std::uint32_t magic;
  std::uint32_t size;
  std::uint32_t check;  // CRC-32C of the value
  std::uint32_t reserved;
};
static_assert(sizeof(MapOverflowHeader) == 16);

inline constexpr std::size_t kMapRoom = kMapPageBytes - sizeof(MapPageHeader);
inline constexpr std::size_t kMapSlotBytes = sizeof(std::uint16_t);
inline constexpr std::size_t kMapCellOverhead = sizeof(MapCellHeader) + kMapSlotBytes;

// One entry outside a page: `key` is whole.
struct MapCell {
  std::string_view key;
  std::string_view value;  // the bytes in the page
  bool overflow = false;
};

// A read-only page. `bytes` must be kMapPageBytes long; sound() must hold before anything else.
class MapPageView {
 public:
  explicit MapPageView(const std::byte* bytes) : bytes_(bytes) {}

  // Whether the header is that of a page of this level with all regions inside it.
  [[nodiscard]] bool sound(unsigned level) const;

  [[nodiscard]] MapPageHeader header() const { return load<MapPageHeader>(0); }
  [[nodiscard]] unsigned count() const { return load<std::uint16_t>(8); }
  [[nodiscard]] unsigned prefix_len() const { return load<std::uint16_t>(14); }
  [[nodiscard]] std::string_view prefix() const { return text(end(), prefix_len()); }
  // Bytes that slots, live cells and the prefix need.
  [[nodiscard]] std::size_t used() const;

  // An entry where it lies; false where the slot or its cell is damaged.
  struct Entry {
    std::string_view suffix;
    std::string_view value;
    bool overflow = false;
    unsigned offset = 0;
    [[nodiscard]] std::size_t cell_bytes() const {
      return sizeof(MapCellHeader) + suffix.size() + value.size();
    }
  };
  [[nodiscard]] bool entry(unsigned slot, Entry& out) const;

  // The first slot whose key is >= `key`. damaged: a cell on the way is.
  struct Position {
    unsigned slot = 0;
    bool found = false;
    bool damaged = false;
  };
  [[nodiscard]] Position lower_bound(std::string_view key) const;
  // In an inner page with at least one slot: the slot of the child that would hold `key`.
  [[nodiscard]] Position child_slot(std::string_view key) const;
  // The child at `slot`; 0 where the cell is damaged.
  [[nodiscard]] std::uint64_t child(unsigned slot) const;

  // Appends all entries with whole keys to `out`; the keys live in `arena`, which must be empty,
  // the values in the page. False on damage: cells that reach outside or take more than there is.
  [[nodiscard]] bool collect(std::vector<MapCell>& out, std::vector<char>& arena) const;

 protected:
  template <class T>
  [[nodiscard]] T load(std::size_t at) const {
    T v;
    std::memcpy(&v, bytes_ + at, sizeof v);
    return v;
  }
  [[nodiscard]] std::string_view text(std::size_t at, std::size_t len) const {
    return {reinterpret_cast<const char*>(bytes_) + at, len};
  }
  [[nodiscard]] unsigned end() const { return static_cast<unsigned>(kMapPageBytes) - prefix_len(); }
  [[nodiscard]] unsigned slot_offset(unsigned slot) const {
    return load<std::uint16_t>(sizeof(MapPageHeader) + slot * kMapSlotBytes);
  }
  // The binary search under both bounds: the first slot in [lo, count) whose key is not below
  // `key`, or with `past_equal`, is above it.
  [[nodiscard]] Position search(std::string_view key, unsigned lo, bool past_equal) const;

 private:
  const std::byte* bytes_;
};

// Changes a private copy of a page. Every change keeps the page sound.
class MapPageEdit : public MapPageView {
 public:
  explicit MapPageEdit(std::byte* bytes) : MapPageView(bytes), bytes_(bytes) {}

  // Makes the page hold exactly `cells`, which must not lie in it and must fit (map_cells_bytes).
  void build(unsigned level, std::span<const MapCell> cells);

  // Inserts before `slot`; false if it does not fit without moving cells or changing the prefix.
  [[nodiscard]] bool insert(unsigned slot, const MapCell& cell);
  // Gives the entry at `slot` the value; false if it does not fit without moving cells.
  [[nodiscard]] bool replace(unsigned slot, const Entry& old, std::string_view value,
                             bool overflow);
  void erase(unsigned slot, const Entry& old);
  // Drops the slots from `count` on, whose cells take `bytes`.
  void truncate(unsigned count, std::size_t bytes);
  // Says where the last insert went, after build() has forgotten.
  void set_history(unsigned last_slot, unsigned streak);

 private:
  template <class T>
  void store(std::size_t at, T v) {
    std::memcpy(bytes_ + at, &v, sizeof v);
  }
  void put_header(const MapPageHeader& h) { store(0, h); }
  void write_cell(unsigned at, std::string_view suffix, std::string_view value, bool overflow);
  void set_slot(unsigned slot, unsigned offset) {
    store(sizeof(MapPageHeader) + slot * kMapSlotBytes, static_cast<std::uint16_t>(offset));
  }

  std::byte* bytes_;
};

[[nodiscard]] std::size_t common_prefix(std::string_view a, std::string_view b);

// What a page of these cells uses of kMapRoom. The first key of an inner page costs nothing.
[[nodiscard]] std::size_t map_cells_bytes(unsigned level, std::span<const MapCell> cells);

}  // namespace btd
