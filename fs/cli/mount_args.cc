#include "fs/cli/mount_args.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>
#include <variant>

namespace btd::cli {
namespace {

struct Number {
  unsigned MountOptions::* member;
  unsigned max;
};
struct SignedNumber {
  int MountOptions::* member;
  int max;
};
using Target =
    std::variant<bool MountOptions::*, Number, SignedNumber, std::string MountOptions::*>;

struct Option {
  std::string_view name;
  Target target;
};

// The bounds keep a slip of the finger from taking the machine down.
constexpr unsigned kMaxThreads = 256;
constexpr int kMaxSpinUs = 1000;
constexpr unsigned kMaxIdleIds = 1U << 20;

const Option kOptions[] = {
    {"allow_other", &MountOptions::allow_other},
    {"cluster", &MountOptions::cluster},
    {"idle_ids", Number{&MountOptions::idle_ids, kMaxIdleIds}},
    {"io_uring", &MountOptions::io_uring},
    {"log_level", &MountOptions::log_level},
    {"passthrough", &MountOptions::passthrough},
    {"read_only", &MountOptions::read_only},
    {"share_processor", &MountOptions::share_processor},
    {"spin_us", SignedNumber{&MountOptions::spin_us, kMaxSpinUs}},
    {"threads", Number{&MountOptions::threads, kMaxThreads}},
};

constexpr std::string_view kLogLevels[] = {"trace", "debug",    "info", "warn",
                                           "error", "critical", "off"};

// Handed to the kernel as they are.
constexpr std::string_view kKernelOptions[] = {
    "async",      "atime",  "dev",        "diratime", "dirsync",  "exec",        "noatime", "nodev",
    "nodiratime", "noexec", "norelatime", "nosuid",   "relatime", "strictatime", "suid",    "sync"};

// For mount(8), fstab and systemd; nothing for us to do. default_permissions is always on.
constexpr std::string_view kForOthers[] = {"_netdev",  "auto",   "default_permissions",
                                           "defaults", "group",  "noauto",
                                           "nofail",   "nouser", "owner",
                                           "user",     "users"};
constexpr std::string_view kForOthersPrefixes[] = {"x-", "X-", "comment=", "user="};

template <class Range>
bool holds(const Range& range, std::string_view name) {
  return std::find(std::begin(range), std::end(range), name) != std::end(range);
}

bool is_for_others(std::string_view option) {
  return holds(kForOthers, option) ||
         std::any_of(std::begin(kForOthersPrefixes), std::end(kForOthersPrefixes),
                     [&](std::string_view prefix) { return option.starts_with(prefix); });
}

const Option* find_option(std::string_view name) {
  const auto* found = std::find_if(std::begin(kOptions), std::end(kOptions),
                                   [&](const Option& option) { return option.name == name; });
  return found == std::end(kOptions) ? nullptr : found;
}

std::unexpected<Error> wrong_value(std::string_view name, std::string_view want) {
  return fail(EINVAL, fmt::format("option {} takes {}", name, want));
}

std::unexpected<Error> no_such_option(std::string_view name) {
  return fail(EINVAL,
              fmt::format("'{}' is no option of a mount; those are {}, ro, rw and {}", name,
                          fmt::join(option_names(), ", "), fmt::join(kKernelOptions, ", ")));
}

Status apply_assignment(std::string_view name, std::string_view value, MountOptions& options) {
  switch (kind_of_option(name)) {
    case OptionKind::kText:
      return apply_text(name, value, options);
    case OptionKind::kNumber: {
      std::int64_t number = 0;
      const auto [rest, error] = std::from_chars(value.begin(), value.end(), number);
      if (error != std::errc{} || rest != value.end()) {
        return wrong_value(name, fmt::format("a whole number, not '{}'", value));
      }
      return apply_number(name, number, options);
    }
    case OptionKind::kSwitch:
      return wrong_value(name, fmt::format("no value; write {} or no{}", name, name));
    case OptionKind::kUnknown:
      break;
  }
  return no_such_option(name);
}

Status apply_flag(std::string_view flag, MountOptions& options) {
  if (flag == "ro" || flag == "rw") {
    options.read_only = flag == "ro";
    return {};
  }
  if (holds(kKernelOptions, flag)) {
    options.kernel_options.emplace_back(flag);
    return {};
  }
  const bool off = flag.starts_with("no");
  for (const std::string_view name : {flag, off ? flag.substr(2) : flag}) {
    const OptionKind kind = kind_of_option(name);
    if (kind == OptionKind::kSwitch) return apply_switch(name, name == flag, options);
    if (kind != OptionKind::kUnknown && name == flag)
      return wrong_value(name, "a value, as NAME=VALUE");
  }
  return no_such_option(flag);
}

}  // namespace

OptionKind kind_of_option(std::string_view name) {
  const Option* option = find_option(name);
  if (option == nullptr) return OptionKind::kUnknown;
  if (std::holds_alternative<bool MountOptions::*>(option->target)) return OptionKind::kSwitch;
  if (std::holds_alternative<std::string MountOptions::*>(option->target)) return OptionKind::kText;
  return OptionKind::kNumber;
}

std::vector<std::string> option_names() {
  std::vector<std::string> names;
  for (const Option& option : kOptions) names.emplace_back(option.name);
  return names;
}

Status apply_switch(std::string_view name, bool value, MountOptions& options) {
  const Option* option = find_option(name);
  const auto* member =
      option == nullptr ? nullptr : std::get_if<bool MountOptions::*>(&option->target);
  if (member == nullptr) return fail(ENOENT);
  options.*(*member) = value;
  return {};
}

Status apply_number(std::string_view name, std::int64_t value, MountOptions& options) {
  const Option* option = find_option(name);
  if (option == nullptr) return fail(ENOENT);
  if (const auto* number = std::get_if<Number>(&option->target)) {
    if (value < 0 || value > number->max) {
      return wrong_value(name, fmt::format("0 to {}, not {}", number->max, value));
    }
    options.*(number->member) = static_cast<unsigned>(value);
    return {};
  }
  if (const auto* number = std::get_if<SignedNumber>(&option->target)) {
    if (value < -1 || value > number->max) {
      return wrong_value(name, fmt::format("-1 (the default) to {}, not {}", number->max, value));
    }
    options.*(number->member) = static_cast<int>(value);
    return {};
  }
  return fail(ENOENT);
}

Status apply_text(std::string_view name, std::string_view value, MountOptions& options) {
  if (name == "cluster") {
    if (value.empty()) return wrong_value(name, "the path of the cluster file");
    options.cluster = value;
    return {};
  }
  if (name != "log_level") return fail(ENOENT);
  if (!holds(kLogLevels, value)) {
    return wrong_value(name,
                       fmt::format("one of {}, not '{}'", fmt::join(kLogLevels, ", "), value));
  }
  options.log_level = value;
  return {};
}

Status apply_mount_options(std::string_view list, Unknown unknown, MountOptions& options) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string_view option = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    if (option.empty() || is_for_others(option)) continue;
    const std::size_t equals = option.find('=');
    const std::string_view name = option.substr(0, equals);
    const Status applied = equals == std::string_view::npos
                               ? apply_flag(name, options)
                               : apply_assignment(name, option.substr(equals + 1), options);
    const bool known = kind_of_option(name) != OptionKind::kUnknown;
    if (!applied && (known || unknown == Unknown::kRefuse)) return applied;
  }
  return {};
}

}  // namespace btd::cli
