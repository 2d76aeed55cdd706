#include "net/etcd/grpc_stream.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>

#include "net/etcd/grpc.h"

namespace btd::net {
namespace {

constexpr std::size_t kReadBytes = 1 << 16, kMostAtOnce = 1 << 20;

curl_socket_t socket_of(CURL* handle) {
  curl_socket_t fd = CURL_SOCKET_BAD;
  curl_easy_getinfo(handle, CURLINFO_ACTIVESOCKET, &fd);
  return fd;
}

// What the socket does not take now stays in `bytes`. False: it takes nothing any more.
bool send_some(CURL* handle, std::string& bytes) {
  while (!bytes.empty()) {
    std::size_t sent = 0;
    const CURLcode code = curl_easy_send(handle, bytes.data(), bytes.size(), &sent);
    if (code == CURLE_AGAIN) return true;
    if (code != CURLE_OK) return false;
    bytes.erase(0, sent);
  }
  return true;
}

}  // namespace

GrpcStream::GrpcStream(const EtcdOptions& options)
    : options_(options), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void GrpcStream::stop() {
  stop_.store(true);
  const std::uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
}

bool GrpcStream::connect(CURL* handle, const std::string& url, std::string& trouble) const {
  set_connection(handle, options_);
  curl_easy_setopt(handle, CURLOPT_URL, url.c_str());
  curl_easy_setopt(handle, CURLOPT_CONNECT_ONLY, 1L);
  curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  const CURLcode code = curl_easy_perform(handle);
  if (code != CURLE_OK) trouble = curl_easy_strerror(code);
  return code == CURLE_OK;
}

GrpcStream::End GrpcStream::run(const HttpRequest& request, const OnMessage& on_message,
                                std::string& trouble) {
  const std::unique_ptr<CURL, CurlDeleter> handle(curl_easy_init());
  if (!handle || wake_.get() < 0) {
    trouble = "no memory or no descriptor is left";
    return End::closed;
  }
  const std::size_t host = request.url.find("://") + 3;
  const std::size_t path = std::min(request.url.find('/', host), request.url.size());
  Http2Exchange exchange({.scheme = std::string_view(request.url).substr(0, host - 3),
                          .authority = std::string_view(request.url).substr(host, path - host),
                          .path = std::string_view(request.url).substr(path),
                          .token = request.token,
                          .body = request.body});
  if (!connect(handle.get(), request.url, trouble)) return End::closed;
  heard_ = false;
  last_heard_ = EtcdClock::now();
  const End end = loop(handle.get(), exchange, on_message, trouble);
  // An answer of something else, or one that ended with its headers, which are not read.
  const bool is_other = end == End::closed && !heard_ && trouble.empty();
  if (trouble.empty()) trouble = "the server ended the watch";
  return is_other ? End::foreign : end;
}

bool GrpcStream::receive(CURL* handle, Http2Exchange& exchange, std::string& trouble) {
  std::array<char, kReadBytes> bytes;
  for (std::size_t got = 0; got < kMostAtOnce;) {
    std::size_t size = 0;
    const CURLcode code = curl_easy_recv(handle, bytes.data(), bytes.size(), &size);
    if (code == CURLE_AGAIN) {
      is_empty_ = true;
      return true;
    }
    if (code != CURLE_OK || size == 0) {
      trouble = code != CURLE_OK ? curl_easy_strerror(code) : "the server closed the connection";
      return false;
    }
    last_heard_ = EtcdClock::now();
    got += size;
    if (!exchange.take({bytes.data(), size})) return false;
  }
  is_empty_ = false;
  return true;
}

bool GrpcStream::deliver(std::string& body, const OnMessage& on_message) {
  std::string_view rest = body;
  while (rest.size() >= etcd_grpc::kHeaderBytes) {
    const auto size = etcd_grpc::message_bytes(rest);
    if (!size || *size > options_.max_answer) return false;
    if (rest.size() - etcd_grpc::kHeaderBytes < *size) break;
    heard_ = true;
    if (!on_message(rest.substr(etcd_grpc::kHeaderBytes, *size))) return false;
    rest.remove_prefix(etcd_grpc::kHeaderBytes + *size);
  }
  body.erase(0, body.size() - rest.size());
  return true;
}

GrpcStream::End GrpcStream::loop(CURL* handle, Http2Exchange& exchange, const OnMessage& on_message,
                                 std::string& trouble) {
  for (;;) {
    if (stop_.exchange(false)) {
      std::uint64_t count = 0;
      (void)!read(wake_.get(), &count, sizeof count);
      return End::stopped;
    }
    const bool more = receive(handle, exchange, trouble);
    if (!deliver(exchange.body, on_message)) {
      trouble = "an answer that is none, or too long";
      return End::closed;
    }
    if (!more) return End::closed;
    if (!send_some(handle, exchange.out)) {
      trouble = "the connection was cut";
      return End::closed;
    }
    const auto limit = heard_ ? options_.silence_limit : options_.request_timeout;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(last_heard_ + limit -
                                                                            EtcdClock::now());
    if (left.count() <= 0) {
      trouble = "nothing was heard for " + std::to_string(limit.count()) + " ms";
      return End::silent;
    }
    if (!is_empty_) continue;
    const short events = exchange.out.empty() ? POLLIN : POLLIN | POLLOUT;
    std::array<pollfd, 2> both = {pollfd{socket_of(handle), events, 0},
                                  pollfd{wake_.get(), POLLIN, 0}};
    (void)poll(both.data(), both.size(), static_cast<int>(left.count()) + 1);
  }
}

}  // namespace btd::net
