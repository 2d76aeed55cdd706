// Damage: an input as a list of changes to an image that is good without them.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "alloc/layout.h"
#include "tests/fuzz/target.h"

namespace btd::fuzz {

// The lines of an image that hold something: in an empty one nothing can be damaged.
inline std::vector<std::size_t> used_lines(std::string_view image) {
  std::vector<std::size_t> lines;
  for (std::size_t at = 0; at + kLineBytes <= image.size(); at += kLineBytes)
    if (image.substr(at, kLineBytes).find_first_not_of('\0') != image.npos) lines.push_back(at);
  return lines;
}

// Calls `put(offset, bytes)` for each change: two bytes choose a line, one a place in it, one how
// many bytes follow.
template <class Put>
void for_each_change(Input input, const std::vector<std::size_t>& lines, Put&& put) {
  Script script(input);
  while (!script.is_over()) {
    const std::size_t line = (script.byte() * 256U + script.byte()) % lines.size();
    const std::size_t place = script.byte() % kLineBytes;
    const std::size_t size = script.byte() % (kLineBytes - place) + 1;
    put(lines[line] + place, script.take(size));
  }
}

// Changes as for_each_change() reads them; the lines are few enough for two bytes.
inline std::string a_change(std::size_t line, std::size_t place, std::string_view bytes) {
  return std::string{static_cast<char>(line / 256), static_cast<char>(line % 256),
                     static_cast<char>(place), static_cast<char>(bytes.size() - 1)} +
         std::string(bytes);
}

// Nothing, and then a bit, a zeroed word and an enormous one in lines all over the image.
inline std::vector<std::string> changes_of(const std::vector<std::size_t>& lines) {
  std::vector<std::string> seeds = {""};
  const std::size_t step = std::max<std::size_t>(lines.size() / 40, 1);
  for (std::size_t line = 0; line < std::min<std::size_t>(lines.size(), 65536); line += step) {
    const std::size_t place = line * 8 % kLineBytes;
    seeds.push_back(a_change(line, place, "\1"));
    seeds.push_back(a_change(line, place, std::string(8, '\0')));
    seeds.push_back(a_change(line, place, std::string(8, '\x7f')) +
                    a_change(line / 2, 0, std::string(4, '\xff')));
  }
  return seeds;
}

}  // namespace btd::fuzz
