#include "fs/cli/arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

namespace btd::cli {
namespace {

// What was named, "cluster", "move", down to the last.
std::vector<const CLI::App*> named_from(const CLI::App& app) {
  std::vector<const CLI::App*> named{&app};
  while (!named.back()->get_subcommands().empty())
    named.push_back(named.back()->get_subcommands().front());
  return named;
}

}  // namespace

void Arguments::required(const char* name, std::string& value, const char* help) {
  app_.add_option(name, value, help)->required();
}

void Arguments::option(const char* name, std::string& value, const char* help) {
  app_.add_option(name, value, help);
}

void Arguments::option(const char* name, std::optional<std::string>& value, const char* help) {
  app_.add_option(name, value, help);
}

void Arguments::option(const char* name, std::uint64_t& value, const char* help,
                       std::uint64_t least, std::uint64_t most) {
  CLI::Option* const option = app_.add_option(name, value, help);
  if (least != 0 || most != ~std::uint64_t{0}) option->check(CLI::Range(least, most));
}

void Arguments::options(const char* name, std::vector<std::string>& values, const char* help) {
  CLI::Option* const option = app_.add_option(name, values, help);
  if (name[0] != '-') return;
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->allow_extra_args(false);
}

void Arguments::flag(const char* name, bool& value, const char* help) {
  app_.add_flag(name, value, help);
}

void Arguments::examples(const char* text) { app_.footer(text); }

Arguments Arguments::command(const char* name, const char* summary) {
  app_.require_subcommand(1);
  CLI::App* const made = app_.add_subcommand(name, summary);
  if (*summary == '\0') made->group("");
  return Arguments(*made);
}

void Arguments::commands_are_optional() { app_.require_subcommand(0, 1); }

bool Arguments::given() const { return app_.parsed(); }

std::string Arguments::name() const {
  std::string all;
  for (const CLI::App* app : named_from(app_)) all += (all.empty() ? "" : " ") + app->get_name();
  return all;
}

Parsed parse_arguments(int argc, char** argv, const char* description, const std::string& version,
                       const std::function<void(Arguments&)>& declare) {
  static CLI::App app(description, "btd");  // the commands' handles outlive the parsing
  app.set_version_flag("--version", version);
  app.fallthrough();
  Arguments own(app);
  declare(own);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return {.exit_code = app.exit(success), .fault = {}};
  } catch (const CLI::ParseError& error) {
    const CLI::App& last = *named_from(app).back();
    const std::vector<std::string> rest = app.remaining(true);
    const bool other = last.get_require_subcommand_min() > 0 && !rest.empty() && rest[0][0] != '-';
    return {.exit_code = {},
            .fault = other ? fmt::format("'{}' is no command", rest[0]) : error.what()};
  }
  return {};
}

}  // namespace btd::cli
