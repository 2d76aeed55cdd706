// Commits of a create's size through EtcdStore, against the same transactions sent raw, on one
// etcd.
//
// etcd_commits URL ROUNDS SECONDS: rounds of both in turn, then the time from a commit on one store
// until another one shows it. Prints one line of JSON. bench/net/etcd starts the server.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "net/etcd/base64.h"
#include "net/etcd/etcd_store.h"
#include "net/etcd/http.h"

namespace {

using btd::Batch;
using btd::net::EtcdClock;
using btd::net::EtcdOptions;
using btd::net::EtcdStore;

constexpr int kThreads = 8;

// Rows of this run: the server may have those of an earlier one.
const std::string& run() {
  static const std::string name = std::to_string(::getpid()) + "-" +
                                  std::to_string(EtcdClock::now().time_since_epoch().count());
  return name;
}

// The rows of a create: the inode, the name, the directory's inode as it was and will be, the
// request's result.
struct Create {
  std::string inode, name, directory, result;
};
Create create(int thread, int i) {
  const std::string number = std::to_string(thread) + "-" + std::to_string(i);
  return {"inode" + number, "name" + number, "dir" + std::to_string(thread),
          "result" + std::to_string(thread)};
}
std::string inode_row(int i) { return std::to_string(i) + std::string(60, 'i'); }

bool store_create(EtcdStore& store, int thread, int i) {
  const Create c = create(thread, i);
  Batch b;
  b.require(c.name, std::nullopt);
  if (i > 0) b.require(c.directory, inode_row(i - 1));
  b.put(c.inode, inode_row(0));
  b.put(c.name, std::string(40, 'n'));
  b.put(c.directory, inode_row(i));
  b.put(c.result, std::string(40, 'r'));
  return store.commit(b).has_value();
}

// The same compares and puts, with neither slot nor mirror.
std::string raw_create(int round, int thread, int i) {
  const auto text = [&](const std::string& bytes) {
    std::string out = "\"";
    btd::net::append_base64(out, bytes);
    return out + "\"";
  };
  const std::string prefix = "/raw/" + run() + "/" + std::to_string(round) + "/";
  const auto put = [&](const std::string& key, const std::string& value) {
    return "{\"request_put\":{\"key\":" + text(prefix + key) + ",\"value\":" + text(value) + "}}";
  };
  const Create c = create(thread, i);
  std::string body = R"({"compare":[{"target":"CREATE","create_revision":"0","key":)" +
                     text(prefix + c.name) + "}";
  if (i > 0)
    body += R"(,{"target":"VALUE","key":)" + text(prefix + c.directory) +
            ",\"value\":" + text(inode_row(i - 1)) + "}";
  return body + "],\"success\":[" + put(c.inode, inode_row(0)) + "," +
         put(c.name, std::string(40, 'n')) + "," + put(c.directory, inode_row(i)) + "," +
         put(c.result, std::string(40, 'r')) + "]}";
}

// Runs `one(thread, i)` on all threads for so long; successes a second.
template <class One>
double rate(double seconds, const One& one) {
  std::atomic<bool> stop{false};
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  const auto begin = EtcdClock::now();
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; !stop.load(); ++i) {
        if (!one(t, i)) {
          std::fputs("a commit failed\n", stderr);
          std::exit(1);
        }
        ++done;
      }
    });
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (auto& thread : threads) thread.join();
  return done / std::chrono::duration<double>(EtcdClock::now() - begin).count();
}

std::unique_ptr<EtcdStore> open_store(EtcdOptions options, const std::string& prefix) {
  options.prefix = prefix + run() + "/";
  auto store = EtcdStore::open(options);
  if (!store) {
    std::fprintf(stderr, "%s\n", store.error().message.c_str());
    std::exit(1);
  }
  return *std::move(store);
}

double raw_rate(const EtcdOptions& options, int round, double seconds) {
  std::vector<std::unique_ptr<btd::net::HttpConnection>> connections;
  for (int t = 0; t < kThreads; ++t)
    connections.push_back(std::make_unique<btd::net::HttpConnection>(options));
  return rate(seconds, [&](int thread, int i) {
    const auto answer = connections[static_cast<std::size_t>(thread)]->post(
        {options.endpoints[0] + "/v3/kv/txn", raw_create(round, thread, i), {}},
        std::chrono::seconds(10));
    return answer.status == 200 && answer.body.find("\"succeeded\":true") != std::string::npos;
  });
}

void print_list(const char* name, const std::vector<double>& values) {
  std::printf("\"%s\":[", name);
  for (std::size_t i = 0; i < values.size(); ++i)
    std::printf("%s%.1f", i == 0 ? "" : ",", values[i]);
  std::printf("]");
}

// Microseconds from before the commit on `a` until a watcher of `b` hears of it.
std::vector<double> latencies(EtcdStore& a, EtcdStore& b, int count) {
  std::atomic<EtcdClock::rep> heard{0};
  const auto handle = b.watch("", [&](const btd::WatchEvent&) {
    heard = EtcdClock::now().time_since_epoch().count();
    heard.notify_all();
  });
  std::vector<double> out;
  for (int i = 0; i < count; ++i) {
    heard = 0;
    Batch batch;
    batch.put("x", std::to_string(i));
    const auto begin = EtcdClock::now();
    if (!a.commit(batch)) std::exit(1);
    heard.wait(0);
    const EtcdClock::time_point end{EtcdClock::duration(heard.load())};
    out.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: etcd_commits URL ROUNDS SECONDS [LANES]\n", stderr);
    return 2;
  }
  EtcdOptions options;
  options.endpoints = {argv[1]};
  if (argc > 4) options.lanes = static_cast<unsigned>(std::atoi(argv[4]));
  const double seconds = std::atof(argv[3]);
  std::vector<double> ours, raw;
  for (int round = 0; round < std::atoi(argv[2]); ++round) {
    {
      const auto store = open_store(options, "/bench" + std::to_string(round) + "/");
      ours.push_back(rate(seconds, [&](int t, int i) { return store_create(*store, t, i); }));
    }
    raw.push_back(raw_rate(options, round, seconds));
  }
  const auto a = open_store(options, "/latency/");
  const auto b = open_store(options, "/latency/");
  const std::vector<double> micros = latencies(*a, *b, 2000);
  std::printf("{");
  print_list("store_per_s", ours);
  std::printf(",");
  print_list("raw_per_s", raw);
  std::printf(",\"visible_p50_us\":%.0f,\"visible_p99_us\":%.0f}\n", micros[1000], micros[1980]);
}
