#include "fs/coherent/message.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace btd::coherent {

namespace {

template <class T>
void append(Bytes& into, const T& value) {
  const auto bytes = std::as_bytes(std::span{&value, 1});
  into.insert(into.end(), bytes.begin(), bytes.end());
}

template <class Words>
std::vector<Bytes> encode_words(const Message<Words>& message) {
  Bytes body;
  wire::Frame frame{.file = message.file, .offset = message.offset, .length = message.length};
  std::visit(
      [&]<class T>(const T& words) {
        frame.method = wire::MethodOf<T>::kId;
        body.reserve(sizeof(T) + message.tail.size());
        append(body, words);
      },
      message.words);
  body.insert(body.end(), message.tail.begin(), message.tail.end());
  std::vector<Bytes> sends;
  std::span<const std::byte> rest = body;
  do {
    const auto part = rest.first(std::min(rest.size(), wire::kMostInSend));
    rest = rest.subspan(part.size());
    frame.flags = rest.empty() ? 0 : wire::kMore;
    Bytes& send = sends.emplace_back();
    send.reserve(sizeof frame + part.size());
    append(send, frame);
    send.insert(send.end(), part.begin(), part.end());
  } while (!rest.empty());
  return sends;
}

// The alternative of `Words` that the frame's method names.
template <class Words, std::size_t I = 0>
std::optional<Message<Words>> decode(const wire::Frame& frame, const Bytes& body) {
  if constexpr (I == std::variant_size_v<Words>) {
    return std::nullopt;
  } else {
    using T = std::variant_alternative_t<I, Words>;
    if (frame.method != wire::MethodOf<T>::kId) return decode<Words, I + 1>(frame, body);
    if (body.size() < sizeof(T)) return std::nullopt;
    T words;
    std::memcpy(&words, body.data(), sizeof words);
    return Message<Words>{.file = frame.file,
                          .words = words,
                          .offset = frame.offset,
                          .length = frame.length,
                          .tail = Bytes(body.begin() + sizeof words, body.end())};
  }
}

}  // namespace

std::vector<Bytes> encode(const HomeMessage& message) { return encode_words(message); }
std::vector<Bytes> encode(const ClientMessage& message) { return encode_words(message); }

Result<std::optional<Assembly::Whole>> Assembly::take(std::span<const std::byte> send) {
  wire::Frame frame;
  if (send.size() < sizeof frame) return fail(EPROTO);
  std::memcpy(&frame, send.data(), sizeof frame);
  if (frame.kind != wire::kKind) return fail(EPROTO);
  const auto part = send.subspan(sizeof frame);
  if (frame_ && (frame_->method != frame.method || frame_->file != frame.file)) return fail(EPROTO);
  if (body_.size() + part.size() > wire::kMostBytes) return fail(EPROTO);
  if (!frame_) frame_ = frame;
  body_.insert(body_.end(), part.begin(), part.end());
  if ((frame.flags & wire::kMore) != 0) return std::optional<Whole>{};
  const wire::Frame first = *std::exchange(frame_, std::nullopt);
  const Bytes body = std::exchange(body_, {});
  if (auto message = decode<ToHome>(first, body)) return Whole(*std::move(message));
  if (auto message = decode<ToClient>(first, body)) return Whole(*std::move(message));
  return fail(EPROTO);
}

}  // namespace btd::coherent
