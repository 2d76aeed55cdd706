#include "fs/config/strict_toml.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <vector>

namespace btd::config {
namespace {

std::unexpected<Error> wrong(const std::string& path, const toml::source_region& where,
                             std::string_view what) {
  return fail(EILSEQ, fmt::format("{}:{}: {}", path, where.begin.line, what));
}

// What toml++ 3.3 takes for granted of its input, so that what it does else is undefined, is looked
// at before it reads the text.

// A key follows the bracket of a section. (A line of an array or of a long string may start with a
// bracket too, but no key of ours takes such a value.)
bool is_section(std::string_view line) {
  line.remove_prefix(line.starts_with("[[") ? 2 : 1);
  const std::size_t name = line.find_first_not_of(" \t");
  if (name == std::string_view::npos) return false;
  const char c = line[name];
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::strchr("_-\"']", c) != nullptr;
}

// Its tables of blanks are wrong for other characters; in a string, \u stands for any of them.
bool is_plain(char c) { return (c >= ' ' && c <= '~') || c == '\t' || c == '\r'; }

Status check_text(std::string_view text, const std::string& path) {
  for (int number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (!std::all_of(line.begin(), line.end(), is_plain)) {
      return fail(EILSEQ,
                  fmt::format("{}:{}: only ASCII may stand here; write another character as "
                              "\\uXXXX, in quotes",
                              path, number));
    }
    line.remove_prefix(std::min(line.find_first_not_of(" \t\r"), line.size()));
    if (line.starts_with('[') && !is_section(line)) {
      return fail(EILSEQ, fmt::format("{}:{}: the name of a section must follow the bracket, as in "
                                      "[mount]",
                                      path, number));
    }
  }
  return {};
}

template <class Map>
std::vector<std::string_view> names_of(const Map& map) {
  std::vector<std::string_view> names;
  names.reserve(map.size());
  for (const auto& [name, value] : map) names.push_back(name);
  return names;
}

Status read_section(const std::string& section, const toml::table& table, const Keys& keys,
                    const std::string& path) {
  for (const auto& [key, node] : table) {
    const auto known = keys.find(key.str());
    if (known == keys.end()) {
      return wrong(path, key.source(),
                   fmt::format("unknown key '{}' in [{}]; known are {}", key.str(), section,
                               fmt::join(names_of(keys), ", ")));
    }
    if (const Status set = known->second(node); !set) {
      return wrong(path, node.source(), fmt::format("{}: {}", key.str(), set.error().message));
    }
  }
  return {};
}

}  // namespace

Status must_be(std::string_view what) { return fail(EINVAL, fmt::format("must be {}", what)); }

Setter text_into(std::string& target, std::string what) {
  return [&target, what = std::move(what)](const toml::node& node) -> Status {
    const toml::value<std::string>* text = node.as_string();
    if (text == nullptr || text->get().empty()) return must_be(what + " in quotes");
    target = text->get();
    return {};
  };
}

Setter texts_into(std::vector<std::string>& target, std::string what) {
  return [&target, what = std::move(what)](const toml::node& node) -> Status {
    const toml::array* array = node.as_array();
    if (array == nullptr || array->empty()) return must_be("a list of " + what + " in quotes");
    target.clear();
    for (const toml::node& element : *array) {
      const auto* text = element.as_string();
      if (text == nullptr || text->get().empty())
        return must_be("a list of " + what + " in quotes");
      target.push_back(text->get());
    }
    return {};
  };
}

Status read(std::string_view text, const std::string& path, const Sections& sections) {
  BTD_TRY(check_text(text, path));
  try {
    const toml::table root = toml::parse(text, path);
    for (const auto& [name, node] : root) {
      const auto known = sections.find(name.str());
      if (known == sections.end()) {
        return wrong(path, name.source(),
                     fmt::format("unknown section or key '{}'; the sections are [{}]", name.str(),
                                 fmt::join(names_of(sections), "] and [")));
      }
      if (!node.is_table()) {
        return wrong(
            path, node.source(),
            fmt::format("{} is a section; write [{}] and its keys below", name.str(), name.str()));
      }
      BTD_TRY(read_section(known->first, *node.as_table(), known->second, path));
    }
  } catch (const toml::parse_error& error) {
    return wrong(path, error.source(), error.description());
  }
  return {};
}

}  // namespace btd::config
