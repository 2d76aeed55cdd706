#include "fs/cli/config.h"

#include <fmt/format.h>

#include "fs/cli/mount_args.h"
#include "fs/cli/size.h"
#include "fs/config/strict_toml.h"
#include "fs/pool/text_file.h"

namespace btd::cli {
namespace {

using config::Keys;
using config::must_be;
using config::Setter;
using config::text_into;

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
  Keys keys = {{"pool", text_into(mount.pool, "a path")},
               {"directory", text_into(mount.mountpoint, "a path")},
               {"options", options_into(mount)}};
  for (const std::string& name : option_names()) keys.emplace(name, option_into(name, mount));
  return keys;
}

}  // namespace

std::optional<Emulation> parse_emulation(std::string_view name) {
  if (name == "none") return Emulation::kNone;
  if (name == "ram") return Emulation::kRam;
  if (name == "disk") return Emulation::kDisk;
  return std::nullopt;
}

Result<Config> parse_config(std::string_view text, const std::string& path) {
  Config config;
  BTD_TRY(config::read(
      text, path, {{"format", format_keys(config.format)}, {"mount", mount_keys(config.mount)}}));
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
