#include "net/etcd/http2.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace btd::net {
namespace {

constexpr std::int32_t kWindow = 1 << 23;

nghttp2_nv header(std::string_view name, std::string_view value) {
  const auto bytes = [](std::string_view text) {
    return const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(text.data()));
  };
  return {.name = bytes(name),
          .value = bytes(value),
          .namelen = name.size(),
          .valuelen = value.size(),
          .flags = NGHTTP2_NV_FLAG_NONE};
}

}  // namespace

// What the library calls, with the exchange as the last argument.
struct Http2Exchange::Callbacks {
  static int frame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& exchange = *static_cast<Http2Exchange*>(user);
    if (frame->hd.type == NGHTTP2_SETTINGS) exchange.is_greeted_ = true;
    const bool is_answer = frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS;
    const bool is_end = is_answer && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (is_end || frame->hd.type == NGHTTP2_GOAWAY) exchange.is_over_ = true;
    return 0;
  }
  static int data(nghttp2_session*, std::uint8_t, std::int32_t, const std::uint8_t* bytes,
                  std::size_t size, void* user) {
    static_cast<Http2Exchange*>(user)->body.append(reinterpret_cast<const char*>(bytes), size);
    return 0;
  }
  static int closed(nghttp2_session*, std::int32_t, std::uint32_t, void* user) {
    static_cast<Http2Exchange*>(user)->is_over_ = true;
    return 0;
  }
  static ssize_t question(nghttp2_session*, std::int32_t, std::uint8_t* into, std::size_t room,
                          std::uint32_t* flags, nghttp2_data_source* source, void*) {
    auto& left = static_cast<Http2Exchange*>(source->ptr)->question_;
    const std::size_t size = std::min(room, left.size());
    std::memcpy(into, left.data(), size);
    left.erase(0, size);
    if (left.empty()) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(size);
  }
};

void Http2Exchange::Delete::operator()(nghttp2_session* session) const {
  nghttp2_session_del(session);
}

Http2Exchange::Http2Exchange(const Request& request) : question_(request.body) {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session* session = nullptr;
  if (nghttp2_session_callbacks_new(&callbacks) == 0) {
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Callbacks::frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Callbacks::data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Callbacks::closed);
    static_cast<void>(nghttp2_session_client_new(&session, callbacks, this));
    nghttp2_session_callbacks_del(callbacks);
  }
  session_.reset(session);
  if (session_) submit(request);
}

void Http2Exchange::submit(const Request& request) {
  const std::array<nghttp2_settings_entry, 2> settings = {{
      {.settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH, .value = 0},
      {.settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, .value = kWindow},
  }};
  std::vector<nghttp2_nv> headers = {
      header(":method", "POST"),
      header(":scheme", request.scheme),
      header(":path", request.path),
      header(":authority", request.authority),
      header("content-type", "application/grpc"),
      header("te", "trailers"),
  };
  if (!request.token.empty()) headers.push_back(header("authorization", request.token));
  const nghttp2_data_provider question = {.source = {.ptr = this},
                                          .read_callback = Callbacks::question};
  const bool is_submitted =
      nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, settings.data(),
                              settings.size()) == 0 &&
      nghttp2_session_set_local_window_size(session_.get(), NGHTTP2_FLAG_NONE, 0, kWindow) == 0 &&
      nghttp2_submit_request(session_.get(), nullptr, headers.data(), headers.size(), &question,
                             nullptr) > 0;
  is_over_ = !is_submitted;
  collect();
}

void Http2Exchange::collect() {
  const std::uint8_t* bytes = nullptr;
  for (;;) {
    const ssize_t size = nghttp2_session_mem_send(session_.get(), &bytes);
    if (size < 0) is_over_ = true;
    if (size <= 0) return;
    out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
  }
}

bool Http2Exchange::take(std::string_view bytes) {
  if (!session_) return false;  // there was no memory for one
  const ssize_t taken = nghttp2_session_mem_recv(
      session_.get(), reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (taken < 0) is_over_ = true;
  collect();
  return !is_over_ && nghttp2_session_want_read(session_.get()) != 0;
}

}  // namespace btd::net
