#include "fs/cluster/options.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>

#include "fs/config/strict_toml.h"

namespace btd::cluster {
namespace {

constexpr std::size_t kLongestName = 63;
constexpr std::size_t kLongestFile = 64 << 10;

// What the file says, before it is judged.
struct Said {
  Options options;
  std::string key, authority, certificate, private_key, password_file;
};

// A name becomes a part of keys in etcd, and is shown in tables.
bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && std::ranges::all_of(name, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::strchr("-_.", c) != nullptr;
  });
}

config::Setter name_into(std::string& target) {
  return [&target](const toml::node& node) -> Status {
    const auto* text = node.as_string();
    if (text == nullptr || !is_name(text->get()))
      return config::must_be("a name in quotes: up to 63 letters, digits, '-', '_' and '.'");
    target = text->get();
    return {};
  };
}

config::Sections sections(Said& said) {
  Options& o = said.options;
  return {{"cluster",
           {{"name", name_into(o.name)},
            {"etcd", config::texts_into(o.etcd.endpoints, "URLs, as [\"http://host:2379\"],")},
            {"etcd_ca", config::text_into(o.etcd.ca_file, "a path")},
            {"etcd_cert", config::text_into(o.etcd.cert_file, "a path")},
            {"etcd_key", config::text_into(o.etcd.key_file, "a path")},
            {"etcd_user", config::text_into(o.etcd.user, "a name")},
            {"etcd_password_file", config::text_into(said.password_file, "a path")},
            {"key", config::text_into(said.key, "a path")},
            {"tls_authority", config::text_into(said.authority, "a path")},
            {"tls_certificate", config::text_into(said.certificate, "a path")},
            {"tls_key", config::text_into(said.private_key, "a path")}}},
          {"node",
           {{"name", name_into(o.node)},
            {"listen", config::text_into(o.listen, "HOST:PORT")},
            {"domain", name_into(o.domain)}}}};
}

Result<net::Security> security(const Said& said, const std::string& path) {
  const bool has_tls =
      !said.authority.empty() || !said.certificate.empty() || !said.private_key.empty();
  if (said.key.empty() == !has_tls)
    return fail(EILSEQ, path +
                            ": [cluster] needs either key, or tls_authority, tls_certificate and "
                            "tls_key: by them the nodes know each other. For a key: "
                            "head -c 32 /dev/urandom > FILE; chmod 600 FILE; copy it to each node");
  if (!has_tls) return net::KeySecurity{said.key};
  if (said.authority.empty() || said.certificate.empty() || said.private_key.empty())
    return fail(EILSEQ, path + ": TLS needs all of tls_authority, tls_certificate and tls_key");
  return net::TlsSecurity{said.authority, said.certificate, said.private_key};
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

Status judge(Said& said, const std::string& path) {
  Options& o = said.options;
  const std::pair<const char*, bool> needed[] = {{"[cluster] name", o.name.empty()},
                                                 {"[cluster] etcd", o.etcd.endpoints.empty()},
                                                 {"[node] listen", o.listen.empty()}};
  for (const auto& [what, is_missing] : needed)
    if (is_missing)
      return fail(EILSEQ,
                  fmt::format("{}: {} is missing; bartender-cluster.5 has an example", path, what));
  if (o.node.empty()) o.node = host_name();
  if (!is_name(o.node))
    return fail(EILSEQ, path + ": the host's name is no name for a node; write [node] name");
  if (o.domain.empty()) o.domain = o.node;
  o.etcd.prefix = "/bartender/" + o.name + "/";
  BTD_ASSIGN(o.security, security(said, path));
  return {};
}

Result<std::string> contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(errno, fmt::format("{}: {}", path, strerrordesc_np(errno)));
  std::string text(kLongestFile + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kLongestFile) return fail(EFBIG, path + ": is longer than 64 KiB");
  return text;
}

Result<std::string> password(const std::string& path) {
  struct stat st{};
  if (::stat(path.c_str(), &st) == 0 && (st.st_mode & 077U) != 0)
    return fail(EACCES, path + ": others may read the password; chmod 600 it");
  BTD_ASSIGN(std::string text, contents(path));
  text.resize(std::min(text.find_first_of("\r\n"), text.size()));
  return text;
}

Result<Said> read(std::string_view text, const std::string& path) {
  Said said;
  BTD_TRY(config::read(text, path, sections(said)));
  BTD_TRY(judge(said, path));
  return said;
}

}  // namespace

Result<Options> parse(std::string_view text, const std::string& path) {
  BTD_ASSIGN(Said said, read(text, path));
  return std::move(said.options);
}

Result<Options> load(const std::string& path) {
  const auto text = contents(path);
  if (!text && text.error().code == ENOENT)
    return fail(ENOENT, text.error().message +
                            "; bartender-cluster(5) says what a cluster file holds, and --cluster "
                            "FILE names another one");
  if (!text) return std::unexpected(text.error());
  BTD_ASSIGN(Said said, read(*text, path));
  if (!said.password_file.empty()) {
    BTD_ASSIGN(said.options.etcd.password, password(said.password_file));
  }
  return std::move(said.options);
}

}  // namespace btd::cluster
