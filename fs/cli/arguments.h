// Arguments: what a command takes, declared to the parser (CLI11, which arguments.cc alone knows).
// Values are stored when the command line is parsed, so they live as long as the command does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace btd::cli {

class Arguments {
 public:
  explicit Arguments(CLI::App& app) : app_(app) {}

  // Positional ones have a name in capitals, options one or two of "-f,--force".
  void required(const char* name, std::string& value, const char* help = "");
  void option(const char* name, std::string& value, const char* help);
  void option(const char* name, std::optional<std::string>& value, const char* help);
  // `least` to `most`, both included.
  void option(const char* name, std::uint64_t& value, const char* help, std::uint64_t least = 0,
              std::uint64_t most = ~std::uint64_t{0});
  // Given as often as wanted: each time one value, or (positional) all that are left.
  void options(const char* name, std::vector<std::string>& values, const char* help);
  void flag(const char* name, bool& value, const char* help);
  // What --help shows at its end.
  void examples(const char* text);
  // A command of its own, one of which must be given; hidden if it has no summary.
  Arguments command(const char* name, const char* summary);

  // None of the commands declared so far needs to be given.
  void commands_are_optional();

  // After parsing: whether this command was named; and what of it was, "cluster move".
  [[nodiscard]] bool given() const;
  [[nodiscard]] std::string name() const;

 private:
  CLI::App& app_;
};

// What came of a command line.
struct Parsed {
  std::optional<int> exit_code;  // --help or --version was answered
  std::string fault;             // what is wrong with it, or empty
};

// Declares the program's own arguments and its commands, then parses.
Parsed parse_arguments(int argc, char** argv, const char* description, const std::string& version,
                       const std::function<void(Arguments&)>& declare);

}  // namespace btd::cli
