#include "fs/cli/heap_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <vector>

#include "fs/cli/heap.h"
#include "fs/cli/size.h"

namespace btd::cli {
namespace {

constexpr std::uint64_t kMaxTextCells = 16'384;
constexpr std::uint64_t kMaxSvgCells = 65'536;
constexpr std::uint64_t kTextColumns = 64;
constexpr std::uint64_t kSvgColumns = 128;

// Sizes that share a colour.
struct Band {
  std::uint32_t most;  // bytes of a slot; 0: large extents
  const char* title;
  int terminal;  // of 256
  const char* svg;
};
constexpr std::array kBands = {Band{64, "to 64 B", 39, "#4477aa"},
                               Band{256, "to 256 B", 44, "#66ccee"},
                               Band{1024, "to 1 KiB", 77, "#228833"},
                               Band{4096, "to 4 KiB", 184, "#ccbb44"},
                               Band{kMaxSmallBytes, "to 32 KiB", 208, "#ee6677"},
                               Band{0, "large", 170, "#aa3377"}};
constexpr std::size_t kDamaged = kBands.size();
constexpr std::size_t kFree = kDamaged + 1;

std::size_t band_of(const SegmentUse& segment) {
  if (segment.kind == SegmentUse::Kind::kFree) return kFree;
  if (segment.kind == SegmentUse::Kind::kDamaged) return kDamaged;
  if (segment.kind == SegmentUse::Kind::kLarge) return kBands.size() - 1;
  std::size_t band = 0;
  while (segment.slot_bytes > kBands.at(band).most) ++band;
  return band;
}

struct Cell {
  std::size_t band = kFree;
  bool recoverable = false;
  unsigned tenths = 0;  // used, 0..10

  bool operator==(const Cell&) const = default;
};

// `group` segments to a cell.
class Cells {
 public:
  Cells(const HeapImage& image, std::uint64_t most) {
    std::uint64_t segments = 0;
    for_each_segment(image, [&](const SegmentUse& segment) { segments += segment.span; });
    group_ = std::max<std::uint64_t>(1, (segments + most - 1) / most);
    for_each_segment(image, [this](const SegmentUse& segment) {
      for (std::uint32_t i = 0; i < segment.span; ++i) add(segment);
    });
    if (in_cell_ != 0) finish();
  }

  [[nodiscard]] const std::vector<Cell>& all() const { return cells_; }
  [[nodiscard]] std::uint64_t group() const { return group_; }

 private:
  void add(const SegmentUse& segment) {
    const std::size_t band = band_of(segment);
    ++seen_.at(band).at(segment.recoverable() ? 1 : 0);
    if (segment.kind != SegmentUse::Kind::kFree) {
      ++taken_;
      used_ += static_cast<double>(segment.used_bytes()) /
               static_cast<double>(segment.span * kSegmentBytes);
    }
    if (++in_cell_ == group_) finish();
  }

  void finish() {
    Cell cell;
    std::uint64_t most = 0;
    // Free loses to everything, damage to nothing.
    for (std::size_t band = 0; band < kFree; ++band) {
      for (std::size_t contract = 0; contract < 2; ++contract) {
        const std::uint64_t count = seen_.at(band).at(contract);
        if (count == 0 || (count <= most && band != kDamaged)) continue;
        most = count;
        cell.band = band;
        cell.recoverable = contract == 1;
      }
    }
    if (taken_ != 0) {
      cell.tenths = static_cast<unsigned>(std::lround(used_ / static_cast<double>(taken_) * 10));
      cell.tenths = std::min(cell.tenths, 10U);
    }
    cells_.push_back(cell);
    seen_ = {};
    in_cell_ = taken_ = 0;
    used_ = 0;
  }

  std::uint64_t group_ = 1;
  std::array<std::array<std::uint64_t, 2>, kFree + 1> seen_{};
  std::uint64_t in_cell_ = 0;
  std::uint64_t taken_ = 0;  // of the cell's segments, not free
  double used_ = 0;
  std::vector<Cell> cells_;
};

char letter_of(const Cell& cell) {
  if (cell.band == kFree) return '.';
  if (cell.band == kDamaged) return '!';
  if (cell.band == kBands.size() - 1) return cell.recoverable ? 'R' : 'T';
  const auto tenths = static_cast<char>(std::min(cell.tenths, 9U));
  return static_cast<char>((cell.recoverable ? '0' : 'a') + tenths);
}

std::string in_colour(const Cell& cell, char letter, bool colours) {
  if (!colours || cell.band == kFree) return {letter};
  const int colour = cell.band == kDamaged ? 196 : kBands.at(cell.band).terminal;
  return fmt::format("\x1b[38;5;{}m{}\x1b[0m", colour, letter);
}

std::string segments_in(std::uint64_t group) {
  return group == 1
             ? "a segment of 64 KiB"
             : fmt::format("{} segments, {} together", group, format_size(group * kSegmentBytes));
}

std::string text_legend(std::uint64_t group, bool colours) {
  std::string out = fmt::format(
      "A character is {}: 0..9 tenths used of contract R, a..j of P and T;\n"
      "R T a large extent, . free, ! damaged\n",
      segments_in(group));
  if (!colours) return out;
  out += "Colours, by size of a block:";
  for (std::size_t band = 0; band < kBands.size(); ++band) {
    out += " " + in_colour({.band = band}, '#', true) + " " + kBands.at(band).title;
  }
  return out + "\n";
}

struct SvgColour {
  std::string fill;
  double opacity;
};

SvgColour svg_colour(const Cell& cell) {
  if (cell.band == kFree) return {"#f0f0f0", 1};
  if (cell.band == kDamaged) return {"#ff0000", 1};
  return {kBands.at(cell.band).svg, 0.25 + 0.075 * cell.tenths};
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&' || c == '<' || c == '>' || c == '"') {
      out += fmt::format("&#{};", static_cast<int>(c));
    } else {
      // What is no plain text could be no XML.
      out += c >= ' ' && c < 0x7F ? c : '?';
    }
  }
  return out;
}

constexpr std::uint64_t kCellPixels = 7;
constexpr std::uint64_t kMargin = 16;
constexpr std::uint64_t kTitlePixels = 40;

// Neighbours that look the same are one rectangle.
void append_cells(std::string& out, const std::vector<Cell>& cells) {
  for (std::size_t i = 0; i < cells.size();) {
    const std::size_t row_end = std::min((i / kSvgColumns + 1) * kSvgColumns, cells.size());
    std::size_t end = i + 1;
    while (end < row_end && cells[end] == cells[i]) ++end;
    const SvgColour colour = svg_colour(cells[i]);
    fmt::format_to(
        std::back_inserter(out),
        R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}" fill-opacity="{:.2f}"{}/>)"
        "\n",
        kMargin + i % kSvgColumns * kCellPixels,
        kMargin + kTitlePixels + i / kSvgColumns * kCellPixels, (end - i) * kCellPixels - 1,
        kCellPixels - 1, colour.fill, colour.opacity,
        cells[i].band < kDamaged && !cells[i].recoverable
            ? R"( stroke="#000000" stroke-width="0.7")"
            : "");
    i = end;
  }
}

void append_legend(std::string& out, std::uint64_t y) {
  std::uint64_t x = kMargin;
  const auto entry = [&](const Cell& cell, const char* title, const char* more = "") {
    const SvgColour colour = svg_colour(cell);
    fmt::format_to(
        std::back_inserter(out),
        R"(<rect x="{}" y="{}" width="10" height="10" fill="{}" fill-opacity="{:.2f}"{}/>)"
        "\n"
        R"(<text x="{}" y="{}">{}</text>)"
        "\n",
        x, y, colour.fill, colour.opacity, more, x + 14, y + 9, title);
    x += 90;
  };
  for (std::size_t band = 0; band < kBands.size(); ++band)
    entry({.band = band, .recoverable = true, .tenths = 10}, kBands.at(band).title);
  entry({.band = kFree}, "free");
  entry({.band = kDamaged}, "damaged");
  entry({.band = 0, .recoverable = false, .tenths = 10}, "outlined: P, T",
        R"( stroke="#000000" stroke-width="0.7")");
}

}  // namespace

std::string text_map(const HeapImage& image, bool colours) {
  const Cells map(image, kMaxTextCells);
  const std::vector<Cell>& cells = map.all();
  std::string out;
  std::uint64_t hidden = 0;
  const auto show_hidden = [&] {
    if (hidden != 0) out += fmt::format("{:>8} {} rows more are free\n", "", hidden);
    hidden = 0;
  };
  bool free_before = false;
  for (std::size_t row = 0; row < cells.size(); row += kTextColumns) {
    const auto from = cells.begin() + static_cast<std::ptrdiff_t>(row);
    const auto to = cells.begin() + static_cast<std::ptrdiff_t>(
                                        std::min<std::size_t>(row + kTextColumns, cells.size()));
    const bool free = std::all_of(from, to, [](const Cell& cell) { return cell.band == kFree; });
    if (free && free_before) {
      ++hidden;
      continue;
    }
    show_hidden();
    out += fmt::format("{:>8} ", row * map.group());
    for (auto cell = from; cell != to; ++cell) out += in_colour(*cell, letter_of(*cell), colours);
    out += '\n';
    free_before = free;
  }
  show_hidden();
  return out + text_legend(map.group(), colours);
}

std::string svg_map(const HeapImage& image) {
  const Cells map(image, kMaxSvgCells);
  const Census census = take_census(image);
  const std::uint64_t rows = (map.all().size() + kSvgColumns - 1) / kSvgColumns;
  const std::uint64_t width = 2 * kMargin + kSvgColumns * kCellPixels;
  const std::uint64_t legend = kMargin + kTitlePixels + rows * kCellPixels + 12;
  std::string out = fmt::format(
      R"(<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" font-family="sans-serif" font-size="11">
<title>Segments of heap {2}</title>
<rect width="{0}" height="{1}" fill="#ffffff"/>
<text x="{3}" y="{4}" font-size="15">Heap {2}</text>
<text x="{3}" y="{5}">{6} in use of {7}; a cell is {8}; the fuller, the darker</text>
)",
      width, legend + 10 + kMargin, escaped(image.name()), kMargin, kMargin + 12, kMargin + 30,
      format_size(census.used_bytes), format_size(census.total_segments * kSegmentBytes),
      segments_in(map.group()));
  append_cells(out, map.all());
  append_legend(out, legend);
  return out + "</svg>\n";
}

}  // namespace btd::cli
