// Configuration files in TOML, read strictly: an unknown key or a value of the wrong type is an
// error that names its line, because a setting that is silently ignored is worse than none.
// Pure functions.
#pragma once

#include <toml++/toml.h>

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "alloc/result.h"

namespace btd::config {

// Sets one key from its value; says what the value must be where it is not that.
using Setter = std::function<Status(const toml::node&)>;
using Keys = std::map<std::string, Setter, std::less<>>;
using Sections = std::map<std::string, Keys, std::less<>>;

// For a Setter: "KEY: must be WHAT".
Status must_be(std::string_view what);
// `what`: what is in the quotes, such as "a path".
Setter text_into(std::string& target, std::string what);
Setter texts_into(std::vector<std::string>& target, std::string what);

// Calls the setters of all keys in the text. `path` is for messages. Errors: EILSEQ, "PATH:LINE:
// what is wrong and what is known".
Status read(std::string_view text, const std::string& path, const Sections& sections);

}  // namespace btd::config
