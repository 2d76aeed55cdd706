// EtcdClient: requests to whichever of the endpoints answers.
//
// It keeps connections, logs in where a user is given, and moves on to the next endpoint when one
// does not answer. What a lost answer means is the caller's to find out: only ask() repeats.
// Thread-safety: any thread, any call. The mutex is a leaf and never held during a request.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/result.h"
#include "net/etcd/http.h"
#include "net/etcd/options.h"
#include "net/etcd/waits.h"
#include "net/etcd/wire.h"

namespace btd::net {

struct EtcdAnswer {
  enum class Kind {
    ok,
    refused,  // `complaint` says how
    unsent,   // surely not carried out
    lost,     // carried out or not, or still to be
  };
  Kind kind = Kind::unsent;
  std::string body;
  EtcdComplaint complaint;
  bool maybe_twice = false;  // sent once more, and the other one's answer is unknown
};

class EtcdClient {
 public:
  explicit EtcdClient(const EtcdOptions& options) : options_(options) {}
  EtcdClient(const EtcdClient&) = delete;
  EtcdClient& operator=(const EtcdClient&) = delete;

  // One request to the present endpoint. A failure moves on to the next endpoint.
  EtcdAnswer post(std::string_view path, const std::string& body, EtcdDeadline deadline);

  // A request that may be carried out more than once: repeated until the deadline. Errors:
  // EHOSTUNREACH, EACCES, ENOSPC, E2BIG, ESTALE for a revision that was compacted.
  Result<std::string> ask(std::string_view path, const std::string& body, EtcdDeadline deadline);

  // A request for the watch's stream, to `endpoint` counted on from the present one.
  Result<HttpRequest> stream_request(std::string_view path, std::string body,
                                     EtcdDeadline deadline);
  void forget_token(const std::string& token);
  void move_on(const std::string& from_endpoint, std::string_view trouble);

  // Between two attempts; ends early when the client is stopped.
  void pause(unsigned attempt, EtcdDeadline deadline);
  // Ends all pauses, and makes later requests fail at once.
  void stop();
  [[nodiscard]] bool stopped() const;

  [[nodiscard]] std::string endpoint() const;
  [[nodiscard]] std::string last_trouble() const;
  [[nodiscard]] EtcdWaits& waits() { return waits_; }
  [[nodiscard]] Error unreachable(std::string_view what) const;

 private:
  std::unique_ptr<HttpConnection> take_connection();
  void give_back(std::unique_ptr<HttpConnection> connection);
  Result<std::string> token(EtcdDeadline deadline);
  HttpAnswer send(std::string_view path, const std::string& body, const std::string& token,
                  EtcdDeadline deadline);

  const EtcdOptions& options_;
  EtcdWaits waits_;
  mutable std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stopped_ = false;
  std::size_t current_ = 0;  // of the endpoints
  std::string token_;
  std::string trouble_;  // of the last failure
  std::vector<std::unique_ptr<HttpConnection>> idle_;
};

// The error that a refusal means; `unknown` is EIO.
[[nodiscard]] Error etcd_error(const EtcdComplaint& complaint);

}  // namespace btd::net
