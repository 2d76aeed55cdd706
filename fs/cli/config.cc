#include "fs/cli/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <vector>

#include "fs/cli/mount_args.h"
#include "fs/cli/paths.h"
#include "fs/cli/size.h"

namespace btd::cli {
namespace {

std::unexpected<Error> wrong(const std::string& path, const toml::source_region& where,
                             std::string_view what) {
  return fail(EILSEQ, fmt::format("{}:{}: {}", path, where.begin.line, what));
}

// Sets one key from its value; says what the value must be where it is not that.
using Setter = std::function<Status(const toml::node&)>;
using Keys = std::map<std::string, Setter, std::less<>>;

Status must_be(std::string_view what) { return fail(EINVAL, fmt::format("must be {}", what)); }

Setter text_into(std::string& target) {
  return [&target](const toml::node& node) -> Status {
    const toml::value<std::string>* text = node.as_string();
    if (text == nullptr || text->get().empty()) return must_be("a path in quotes");
    target = text->get();
    return {};
  };
}

Setter size_into(std::uint64_t& target) {
  return [&target](const toml::node& node) -> Status {
    if (const auto* text = node.as_string()) {
      BTD_ASSIGN(target, parse_size(text->get()));
      return {};
    }
    const auto* bytes = node.as_integer();
    if (bytes == nullptr || bytes->get() < 0) return must_be("a size in quotes, such as \"1G\"");
    target = static_cast<std::uint64_t>(bytes->get());
    return {};
  };
}

Setter emulation_into(Emulation& target) {
  return [&target](const toml::node& node) -> Status {
    const auto* text = node.as_string();
    const auto emulation = text == nullptr ? std::nullopt : parse_emulation(text->get());
    if (!emulation) return must_be(R"("none", "ram" or "disk")");
    target = *emulation;
    return {};
  };
}

Setter options_into(MountOptions& mount) {
  return [&mount](const toml::node& node) -> Status {
    const toml::array* array = node.as_array();
    if (array == nullptr) return must_be("a list of strings, such as [\"noatime\"]");
    for (const toml::node& element : *array) {
      const auto* text = element.as_string();
      if (text == nullptr) return must_be("a list of strings, such as [\"noatime\"]");
      BTD_TRY(apply_mount_options(text->get(), Unknown::kRefuse, mount));
    }
    return {};
  };
}

Setter option_into(const std::string& name, MountOptions& mount) {
  return [name, &mount](const toml::node& node) -> Status {
    switch (kind_of_option(name)) {
      case OptionKind::kSwitch:
        if (!node.is_boolean()) return must_be("true or false");
        return apply_switch(name, node.as_boolean()->get(), mount);
      case OptionKind::kNumber:
        if (!node.is_integer()) return must_be("a whole number");
        return apply_number(name, node.as_integer()->get(), mount);
      default:
        if (!node.is_string()) return must_be("text in quotes");
        return apply_text(name, node.as_string()->get(), mount);
    }
  };
}

Keys format_keys(FormatOptions& format) {
  return {{"size", size_into(format.capacity)}, {"emulate", emulation_into(format.emulate)}};
}

Keys mount_keys(MountOptions& mount) {
  Keys keys = {{"pool", text_into(mount.pool)},
               {"directory", text_into(mount.mountpoint)},
               {"options", options_into(mount)}};
  for (const std::string& name : option_names()) keys.emplace(name, option_into(name, mount));
  return keys;
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

std::optional<Emulation> parse_emulation(std::string_view name) {
  if (name == "none") return Emulation::kNone;
  if (name == "ram") return Emulation::kRam;
  if (name == "disk") return Emulation::kDisk;
  return std::nullopt;
}

Result<Config> parse_config(std::string_view text, const std::string& path) {
  BTD_TRY(check_text(text, path));
  Config config;
  const std::map<std::string, Keys, std::less<>> sections = {{"format", format_keys(config.format)},
                                                             {"mount", mount_keys(config.mount)}};
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
  return config;
}

Result<Config> load_config(const std::optional<std::string>& path) {
  const std::string name = path.value_or(kDefaultConfig);
  const Result<std::string> text = read_file(name);
  if (text) return parse_config(*text, name);
  if (!path && text.error().code == ENOENT) return Config{};
  return std::unexpected(text.error());
}

}  // namespace btd::cli
