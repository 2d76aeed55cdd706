// Pictures of a heap's segments: as text, a character a segment, and as SVG.
//
// Pure functions of an image. Large heaps are shown with several segments to a cell, of which the
// most frequent kind counts, so that a picture stays bounded.
#pragma once

#include <string>

#include "libbtd/tools/heap_image.h"

namespace btd::cli {

// Rows of 64 characters after the address of the first, a legend below. Rows that are all free are
// drawn once.
[[nodiscard]] std::string text_map(const HeapImage& image, bool colours);

// A whole SVG document.
[[nodiscard]] std::string svg_map(const HeapImage& image);

}  // namespace btd::cli
