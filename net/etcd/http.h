// HTTP through libcurl: one request at a time on a connection that is kept, or one answer that
// never ends. No exception leaves; every wait has a deadline.
#pragma once

#include <curl/curl.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "net/etcd/options.h"

namespace btd::net {

struct CurlDeleter {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

struct CurlMultiDeleter {
  void operator()(CURLM* handle) const { curl_multi_cleanup(handle); }
};

struct HttpRequest {
  std::string url;
  std::string body;
  std::string token;  // of authentication; may be empty
};

struct HttpAnswer {
  enum class Kind {
    answered,
    unsent,  // no connection: the server never saw the request
    lost,    // anything may have happened
  };
  Kind kind = Kind::lost;
  long status = 0;
  std::string body;
  std::string trouble;  // why not answered
  // libcurl may have sent the request twice: a kept connection was found dead and replaced.
  bool maybe_twice = false;
};

// What every connection to a server has: limits, certificates, probes whether it lives.
void set_connection(CURL* handle, const EtcdOptions& options);

// One thread at a time.
class HttpConnection {
 public:
  explicit HttpConnection(const EtcdOptions& options);
  HttpAnswer post(const HttpRequest& request, std::chrono::milliseconds timeout);

 private:
  const EtcdOptions& options_;
  std::unique_ptr<CURL, CurlDeleter> handle_;
  bool used_ = false;
};

// Reads the lines of one endless answer on the calling thread.
class HttpStream {
 public:
  enum class End { stopped, closed, silent };
  // Called with each line; false ends the stream as `closed`.
  using OnLine = std::function<bool(std::string_view line)>;

  explicit HttpStream(const EtcdOptions& options);

  // Until the answer ends, nothing came for `silence`, or stop(); before the first line, silence is
  // that of a request. `trouble` says why it ended.
  End run(const HttpRequest& request, const OnLine& on_line, std::string& trouble);
  // From any thread: ends the present run, or the next one if none is under way.
  void stop();

 private:
  static std::size_t receive(char* data, std::size_t size, std::size_t count, void* self) noexcept;
  bool take(std::string_view data);
  End loop(CURL* handle, std::string& trouble);

  const EtcdOptions& options_;
  std::unique_ptr<CURLM, CurlMultiDeleter> multi_;
  const OnLine* on_line_ = nullptr;
  std::string buffer_;  // of a line that has not ended
  EtcdClock::time_point last_heard_;
  bool heard_ = false;
  std::atomic<bool> stop_{false};
};

}  // namespace btd::net
