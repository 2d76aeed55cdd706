// What a command may do with its output: colours and a progress bar on a terminal, plain text in
// a pipe. NO_COLOR and TERM=dumb are respected.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace btd::cli {

enum class Colour { kBold, kRed, kGreen, kYellow, kDim };

// Whether colours may be written to this stream.
[[nodiscard]] bool has_colours(std::FILE* stream);

// `text` in that colour if `stream` has colours, else as it is.
[[nodiscard]] std::string paint(std::FILE* stream, Colour colour, std::string_view text);

// Writes "PROGRAM: sentence" to standard error.
void print_error(std::string_view program, std::string_view sentence);

// A line that is redrawn on standard error, and nothing at all where that is no terminal.
// One thread; ends with its destruction.
class ProgressBar {
 public:
  explicit ProgressBar(std::string title);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  // total 0: not known; only the phase is shown.
  void show(std::string_view phase, std::uint64_t done, std::uint64_t total);

 private:
  std::string title_;
  bool visible_;
  std::string shown_;
};

// Rows of a table with aligned columns; the first is the header. Numbers go to the right.
struct Column {
  std::string_view title;
  bool right = false;
};
[[nodiscard]] std::string format_table(const std::vector<Column>& columns,
                                       const std::vector<std::vector<std::string>>& rows);

}  // namespace btd::cli
