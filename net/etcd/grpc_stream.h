// GrpcStream: reads the messages of one endless answer by gRPC, on the calling thread. libcurl
// connects, the rest is http2.h. Not over TLS: where libcurl agrees on HTTP/2 with the other side,
// it reads it itself, also if it was told to connect only.
#pragma once

#include <curl/curl.h>

#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "alloc/unique_fd.h"
#include "net/etcd/http.h"
#include "net/etcd/http2.h"
#include "net/etcd/options.h"

namespace btd::net {

class GrpcStream {
 public:
  enum class End {
    stopped,
    closed,
    silent,
    foreign,  // whoever answers there does not speak gRPC, or said no with an error only
  };
  // Called with each message; false ends the stream as `closed`.
  using OnMessage = std::function<bool(std::string_view message)>;

  explicit GrpcStream(const EtcdOptions& options);

  [[nodiscard]] static bool can_reach(std::string_view url) { return url.starts_with("http://"); }
  // As HttpStream::run(). The request's body is a message with its header.
  End run(const HttpRequest& request, const OnMessage& on_message, std::string& trouble);
  void stop();

 private:
  [[nodiscard]] bool connect(CURL* handle, const std::string& url, std::string& trouble) const;
  End loop(CURL* handle, Http2Exchange& exchange, const OnMessage& on_message,
           std::string& trouble);
  // What is there now. False: nothing more will come.
  [[nodiscard]] bool receive(CURL* handle, Http2Exchange& exchange, std::string& trouble);
  [[nodiscard]] bool deliver(std::string& body, const OnMessage& on_message);

  const EtcdOptions& options_;
  UniqueFd wake_;
  EtcdClock::time_point last_heard_;
  bool heard_ = false;     // a message
  bool is_empty_ = false;  // nothing was left to receive
  std::atomic<bool> stop_{false};
};

}  // namespace btd::net
