// EtcdWatch: keeps the mirror up to date, on a thread of its own.
//
// One stream of events from one server, by gRPC; or by the JSON gateway, where whoever answers
// there does not speak gRPC, such as a proxy. When it breaks, another begins after the last
// revision seen. Where that cannot be had (it was compacted, a change is missing, it is another
// cluster), all rows are read anew, at one revision. A stream that is told nothing sleeps.
// Thread-safety: any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "alloc/result.h"
#include "net/etcd/client.h"
#include "net/etcd/grpc_stream.h"
#include "net/etcd/http.h"
#include "net/etcd/mirror.h"

namespace btd::net {

class EtcdWatch {
 public:
  struct State {
    bool live = false;  // a stream is under way
    std::string endpoint;
    std::string trouble;  // why the last stream ended
    EtcdClock::time_point since, last_heard;
    std::uint64_t streams = 0, loads = 0;  // since open
  };

  EtcdWatch(const EtcdOptions& options, EtcdClient& client, EtcdMirror& mirror);
  ~EtcdWatch() { stop(); }
  EtcdWatch(const EtcdWatch&) = delete;
  EtcdWatch& operator=(const EtcdWatch&) = delete;

  // Reads all rows, then begins to watch. Errors: those of EtcdClient::ask.
  Status start(EtcdDeadline deadline);
  void stop();
  // The present stream lags behind: go on from another server. Ignored for a stream that began
  // less than the lag limit ago.
  void look_elsewhere();
  [[nodiscard]] State state() const;

 private:
  void run();
  void follow(unsigned& failures);
  Status load(EtcdDeadline deadline);
  Status load_at_one_revision(EtcdDeadline deadline);
  Result<HttpRequest> request();
  [[nodiscard]] bool read_stream(const HttpRequest& request, std::string& trouble);
  void stop_stream();
  [[nodiscard]] bool take(std::string_view text);
  [[nodiscard]] bool take_events(EtcdWatchMessage& message);
  [[nodiscard]] bool apply_pending();
  void set_live(const std::string& endpoint);
  void set_broken(const std::string& trouble);

  const EtcdOptions& options_;
  EtcdClient& client_;
  EtcdMirror& mirror_;
  const std::string from_, to_;  // the rows' keys in etcd
  GrpcStream grpc_;
  HttpStream stream_;  // by the JSON gateway, where gRPC can't be had
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> by_grpc_{false};  // the present stream; changed by the watch's thread alone

  // The watch's thread alone, and start() before it.
  std::uint64_t cluster_ = 0;
  bool must_load_ = false;
  bool lost_login_ = false;
  bool was_foreign_ = false;      // gRPC could not be had just now; it is tried again the next time
  std::vector<EtcdRow> pending_;  // of one revision whose end was not seen yet
  std::size_t pending_bytes_ = 0;
  std::string stream_endpoint_, reason_;

  mutable std::mutex mutex_;
  State state_;
};

}  // namespace btd::net
