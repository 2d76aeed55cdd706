#include "net/etcd/http.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <utility>

namespace btd::net {
namespace {

void init_curl() {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
}

using Headers = std::unique_ptr<curl_slist, CurlDeleter>;

void append_header(Headers& headers, const std::string& line) {
  if (curl_slist* longer = curl_slist_append(headers.get(), line.c_str())) {
    if (!headers) headers.reset(longer);  // the first line; later ones leave the head as it is
  }
}

// What is the same for requests and for streams. The request must outlive the transfer.
Headers prepare(CURL* h, const EtcdOptions& o, const HttpRequest& request) {
  curl_easy_reset(h);  // keeps the connections
  Headers headers;
  append_header(headers, "Content-Type: application/json");
  append_header(headers, "Expect:");  // no round trip before a long body
  if (!request.token.empty()) append_header(headers, "Authorization: " + request.token);
  curl_easy_setopt(h, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(h, CURLOPT_POSTFIELDS, request.body.data());
  curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  curl_easy_setopt(h, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set_connection(h, o);
  return headers;
}

struct Sink {
  std::string* body;
  std::size_t limit;
};

std::size_t collect(char* data, std::size_t size, std::size_t count, void* user) noexcept {
  auto& sink = *static_cast<Sink*>(user);
  try {
    if (sink.body->size() + size * count > sink.limit) return 0;
    sink.body->append(data, size * count);
  } catch (const std::bad_alloc&) {
    return 0;
  }
  return size * count;
}

bool never_sent(CURLcode code) {
  return code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
         code == CURLE_SSL_CONNECT_ERROR || code == CURLE_PEER_FAILED_VERIFICATION ||
         code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE ||
         code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL;
}

}  // namespace

void set_connection(CURL* h, const EtcdOptions& o) {
  curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(h, CURLOPT_PROXY, "");  // a cluster talks to itself
  curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(o.connect_timeout.count()));
  curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(h, CURLOPT_TCP_KEEPIDLE, 10L);
  curl_easy_setopt(h, CURLOPT_TCP_KEEPINTVL, 5L);
  if (!o.ca_file.empty()) curl_easy_setopt(h, CURLOPT_CAINFO, o.ca_file.c_str());
  if (!o.cert_file.empty()) curl_easy_setopt(h, CURLOPT_SSLCERT, o.cert_file.c_str());
  if (!o.key_file.empty()) curl_easy_setopt(h, CURLOPT_SSLKEY, o.key_file.c_str());
}

HttpConnection::HttpConnection(const EtcdOptions& options) : options_(options) {
  init_curl();
  handle_.reset(curl_easy_init());
}

HttpAnswer HttpConnection::post(const HttpRequest& request, std::chrono::milliseconds timeout) {
  HttpAnswer answer;
  CURL* h = handle_.get();
  if (h == nullptr) {
    answer.kind = HttpAnswer::Kind::unsent;
    answer.trouble = "libcurl has no memory";
    return answer;
  }
  const Headers headers = prepare(h, options_, request);
  Sink sink{&answer.body, options_.max_answer};
  curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, std::max<long>(1, static_cast<long>(timeout.count())));
  curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, &collect);
  curl_easy_setopt(h, CURLOPT_WRITEDATA, &sink);
  const CURLcode code = curl_easy_perform(h);
  long connects = 0;
  curl_easy_getinfo(h, CURLINFO_NUM_CONNECTS, &connects);
  curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &answer.status);
  // A kept connection may have carried the request before the new one was made, or failed.
  const bool kept = std::exchange(used_, true);
  answer.maybe_twice = kept && connects > 0;
  if (code == CURLE_OK) {
    answer.kind = HttpAnswer::Kind::answered;
    return answer;
  }
  answer.trouble = curl_easy_strerror(code);
  answer.kind = never_sent(code) && !kept ? HttpAnswer::Kind::unsent : HttpAnswer::Kind::lost;
  return answer;
}

HttpStream::HttpStream(const EtcdOptions& options) : options_(options) {
  init_curl();
  multi_.reset(curl_multi_init());
}

void HttpStream::stop() {
  stop_.store(true);
  if (multi_) curl_multi_wakeup(multi_.get());
}

std::size_t HttpStream::receive(char* data, std::size_t size, std::size_t count,
                                void* self) noexcept {
  try {
    return static_cast<HttpStream*>(self)->take({data, size * count}) ? size * count : 0;
  } catch (...) {
    return 0;
  }
}

bool HttpStream::take(std::string_view data) {
  last_heard_ = EtcdClock::now();
  while (!data.empty()) {
    const std::size_t end = data.find('\n');
    if (buffer_.size() + std::min(end, data.size()) > options_.max_answer) return false;
    if (end == std::string_view::npos) {
      buffer_.append(data);
      return true;
    }
    heard_ = true;
    bool more = true;
    if (buffer_.empty()) {
      more = (*on_line_)(data.substr(0, end));
    } else {
      buffer_.append(data.substr(0, end));
      more = (*on_line_)(buffer_);
      buffer_.clear();
    }
    if (!more) return false;
    data.remove_prefix(end + 1);
  }
  return true;
}

HttpStream::End HttpStream::run(const HttpRequest& request, const OnLine& on_line,
                                std::string& trouble) {
  const std::unique_ptr<CURL, CurlDeleter> handle(curl_easy_init());
  if (!handle || !multi_) {
    trouble = "libcurl has no memory";
    return End::closed;
  }
  const Headers headers = prepare(handle.get(), options_, request);
  curl_easy_setopt(handle.get(), CURLOPT_WRITEFUNCTION, &HttpStream::receive);
  curl_easy_setopt(handle.get(), CURLOPT_WRITEDATA, this);
  on_line_ = &on_line;
  buffer_.clear();
  heard_ = false;
  last_heard_ = EtcdClock::now();
  curl_multi_add_handle(multi_.get(), handle.get());
  const End end = loop(handle.get(), trouble);
  curl_multi_remove_handle(multi_.get(), handle.get());
  on_line_ = nullptr;
  return end;
}

HttpStream::End HttpStream::loop(CURL* handle, std::string& trouble) {
  for (;;) {
    if (stop_.exchange(false)) return End::stopped;
    int running = 0;
    curl_multi_perform(multi_.get(), &running);
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
      if (message->msg != CURLMSG_DONE || message->easy_handle != handle) continue;
      const CURLcode code = message->data.result;
      trouble = code == CURLE_OK ? "the server ended the watch" : curl_easy_strerror(code);
      return End::closed;
    }
    const auto limit = heard_ ? options_.silence_limit : options_.request_timeout;
    const auto left_time = std::chrono::duration_cast<std::chrono::milliseconds>(
        last_heard_ + limit - EtcdClock::now());
    if (left_time.count() <= 0) {
      trouble = "nothing was heard for " + std::to_string(limit.count()) + " ms";
      return End::silent;
    }
    curl_multi_poll(multi_.get(), nullptr, 0, static_cast<int>(left_time.count()) + 1, nullptr);
  }
}

}  // namespace btd::net
