// What the etcd engine must know to reach its servers, and how long it may wait.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace btd::net {

using EtcdClock = std::chrono::steady_clock;
using EtcdDeadline = EtcdClock::time_point;

struct EtcdOptions {
  // "http://host:2379" or "https://…"; tried in turn, beginning with the first.
  std::vector<std::string> endpoints;
  std::string prefix = "/bartender/";  // of the cluster: all its keys in etcd begin with it
  // A name that one live store has, such as the node's. Whoever opens under a name fences off who
  // had it before. Empty: a name is drawn, and its rows go when the store is closed.
  std::string client;

  // Rows whose keys begin with it are this client's own: no other store sees them, no watcher hears
  // of them, no mirror has them. They are read from etcd each time, so they are for what is written
  // often and read seldom. Empty: none.
  std::string own_rows;

  std::string ca_file, cert_file, key_file;  // TLS; empty: the system's CAs, no client certificate
  std::string user, password;                // empty: no authentication

  std::chrono::milliseconds connect_timeout{1000};  // to one endpoint
  std::chrono::milliseconds request_timeout{3000};  // of one request; longer is no answer
  std::chrono::milliseconds commit_timeout{5000};   // of a commit, with all its repetitions
  std::chrono::milliseconds open_timeout{10000};
  // Committed by others and not yet seen for so long: the watch looks for another server.
  std::chrono::milliseconds lag_limit{1000};
  // Without a word for so long, a watch is taken for dead. etcd speaks every 10 minutes.
  std::chrono::milliseconds silence_limit{11 * 60 * 1000};

  bool watch_by_grpc = true;  // else by the JSON gateway, as where gRPC can't be had
  unsigned lanes = 1;         // requests with commits under way at once
  // So long a request waits for those whose commits went with the last one. Alone, nobody waits.
  std::chrono::microseconds gather{500};
  std::size_t max_answer = 64UL << 20U;  // bytes; a longer answer is garbage
};

}  // namespace btd::net
