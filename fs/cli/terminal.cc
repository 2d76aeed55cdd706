#include "fs/cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace btd::cli {
namespace {

constexpr int kBarWidth = 30;

std::string_view code_of(Colour colour) {
  switch (colour) {
    case Colour::kBold:
      return "\x1b[1m";
    case Colour::kRed:
      return "\x1b[31m";
    case Colour::kGreen:
      return "\x1b[32m";
    case Colour::kYellow:
      return "\x1b[33m";
    case Colour::kDim:
      return "\x1b[2m";
  }
  return "";
}

// The environment is read before any thread starts; nothing here writes it.
std::string_view environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value == nullptr ? std::string_view() : std::string_view(value);
}

// Bytes that start a character: what a terminal counts for the text that we write.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string padded(std::string_view text, std::size_t width, bool right) {
  const std::string fill(width - std::min(width, width_of(text)), ' ');
  return right ? fill + std::string(text) : std::string(text) + fill;
}

}  // namespace

bool has_colours(std::FILE* stream) {
  return ::isatty(::fileno(stream)) == 1 && environment("NO_COLOR").empty() &&
         environment("TERM") != "dumb";
}

std::string paint(std::FILE* stream, Colour colour, std::string_view text) {
  if (!has_colours(stream)) return std::string(text);
  return fmt::format("{}{}\x1b[0m", code_of(colour), text);
}

void print_error(std::string_view program, std::string_view sentence) {
  fmt::print(stderr, "{} {}\n", paint(stderr, Colour::kRed, fmt::format("{}:", program)), sentence);
}

ProgressBar::ProgressBar(std::string title)
    : title_(std::move(title)), visible_(::isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (!shown_.empty()) fmt::print(stderr, "\r\x1b[K");
}

void ProgressBar::show(std::string_view phase, std::uint64_t done, std::uint64_t total) {
  if (!visible_) return;
  std::string line = fmt::format("{}: {}", title_, phase);
  if (total != 0) {
    const double part = static_cast<double>(std::min(done, total)) / static_cast<double>(total);
    const int filled = static_cast<int>(part * kBarWidth);
    line += fmt::format(" [{:#>{}}{:.>{}}] {:3}%", "", filled, "", kBarWidth - filled,
                        static_cast<int>(part * 100));
  }
  if (line == shown_) return;
  fmt::print(stderr, "\r{}\x1b[K", line);
  std::fflush(stderr);
  shown_ = std::move(line);
}

std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    std::size_t width = columns[i].title.size();
    for (const auto& row : rows) width = std::max(width, width_of(row.at(i)));
    widths.push_back(width);
  }
  std::string out;
  const auto add_line = [&](const auto& cell) {
    std::string line;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      line += (i == 0 ? "" : "  ") + padded(cell(i), widths[i], columns[i].right);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  };
  add_line([&](std::size_t i) { return columns[i].title; });
  for (const auto& row : rows) add_line([&](std::size_t i) { return std::string_view(row[i]); });
  return out;
}

}  // namespace btd::cli
