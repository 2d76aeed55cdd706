// One request over HTTP/2 whose answer has no end: what is to be sent, and what was said. The
// protocol is libnghttp2's; no sockets: bytes go in and out, and any bytes give messages or an end.
//
// libcurl speaks HTTP/2 too, but the version of Debian 12 (7.88) leaves what it has read lying
// until more comes.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct nghttp2_session;

namespace btd::net {

class Http2Exchange {
 public:
  struct Request {
    std::string_view scheme, authority, path, token, body;
  };
  explicit Http2Exchange(const Request& request);
  Http2Exchange(const Http2Exchange&) = delete;
  Http2Exchange& operator=(const Http2Exchange&) = delete;

  // What was received. False: the other side ended the answer, or does not speak HTTP/2.
  bool take(std::string_view bytes);
  // What is to be sent; taken away by the caller.
  std::string out;
  // The answer's body so far; taken away by the caller.
  std::string body;
  // Whether the other side speaks HTTP/2.
  [[nodiscard]] bool is_greeted() const { return is_greeted_; }

 private:
  struct Callbacks;
  struct Delete {
    void operator()(nghttp2_session* session) const;
  };
  void submit(const Request& request);
  void collect();

  std::unique_ptr<nghttp2_session, Delete> session_;
  std::string question_;  // what is left of the request's body
  bool is_greeted_ = false, is_over_ = false;
};

}  // namespace btd::net
