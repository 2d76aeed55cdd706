// The cluster file: which cluster a node belongs to, and how the others reach it.
#pragma once

#include <string>
#include <string_view>

#include "alloc/result.h"
#include "net/etcd/options.h"
#include "net/tcp/tcp.h"

namespace btd::cluster {

inline constexpr const char* kDefaultFile = "/etc/bartender-cluster.toml";

struct Options {
  std::string name;        // of the cluster
  net::EtcdOptions etcd;   // without `client`
  net::Security security;  // between the nodes
  std::string node;        // this node's name; the host's by default
  std::string listen;      // "host:port", where the other nodes reach this one
  std::string domain;      // failure domain; the node's name by default
};

// `path` is for messages. Errors: EILSEQ, "PATH:LINE: what is wrong", or what is missing.
Result<Options> parse(std::string_view text, const std::string& path);
// Errors: as parse(), or the file's own; EACCES a file with a password that others may read.
Result<Options> load(const std::string& path);

}  // namespace btd::cluster
