#include "net/etcd/grpc.h"

#include <optional>
#include <utility>

namespace btd::net::etcd_grpc {
namespace {

std::unexpected<Error> garbage(std::string_view what) {
  return fail(EPROTO, "etcd's watch has " + std::string(what) +
                          "; check that the endpoint is an etcd server, version 3.4 or newer.");
}

// --- writing: protobuf -----------------------------------------------------------------------

enum Kind : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_varint(std::string& out, std::uint64_t n) {
  for (; n > 0x7f; n >>= 7U) out += static_cast<char>(0x80U | (n & 0x7fU));
  out += static_cast<char>(n);
}

void append_number(std::string& out, unsigned field, std::uint64_t n) {
  append_varint(out, field << 3U | kVarint);
  append_varint(out, n);
}

void append_bytes(std::string& out, unsigned field, std::string_view bytes) {
  append_varint(out, field << 3U | kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

// --- reading ---------------------------------------------------------------------------------

struct Field {
  unsigned number = 0;
  Kind kind = kVarint;
  std::uint64_t value = 0;  // of a varint
  std::string_view bytes;   // of bytes
};

// The fields of one protobuf message, in their order.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}
  // False: there is none, or what is there is no field; then is_bad().
  bool next(Field& field) {
    if (bytes_.empty()) return false;
    const auto tag = varint();
    if (!tag || *tag >> 3U == 0 || *tag >> 3U > 0xffffffffU) return bad();
    field = {.number = static_cast<unsigned>(*tag >> 3U), .kind = static_cast<Kind>(*tag & 7U)};
    switch (field.kind) {
      case kVarint: {
        const auto value = varint();
        if (!value) return bad();
        field.value = *value;
        return true;
      }
      case kBytes: {
        const auto size = varint();
        return size && take(*size, field.bytes) ? true : bad();
      }
      case kFixed64:
        return take(8, field.bytes) ? true : bad();
      case kFixed32:
        return take(4, field.bytes) ? true : bad();
    }
    return bad();
  }
  [[nodiscard]] bool is_bad() const { return is_bad_; }

 private:
  std::optional<std::uint64_t> varint() {
    std::uint64_t n = 0;
    for (unsigned shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_.front());
      bytes_.remove_prefix(1);
      n |= std::uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return n;
    }
    return std::nullopt;
  }
  bool take(std::uint64_t size, std::string_view& out) {
    if (size > bytes_.size()) return false;
    out = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return true;
  }
  bool bad() {
    is_bad_ = true;
    return false;
  }

  std::string_view bytes_;
  bool is_bad_ = false;
};

// Calls `visit` with each field; false: it does not like it.
template <class Visit>
Status each_field(std::string_view bytes, const Visit& visit) {
  Fields fields(bytes);
  for (Field field; fields.next(field);) BTD_TRY(visit(field));
  if (fields.is_bad()) return garbage("a message that is cut or damaged");
  return {};
}

std::int64_t signed_of(const Field& field) { return static_cast<std::int64_t>(field.value); }

// mvccpb.KeyValue
Result<EtcdRow> parse_row(std::string_view bytes, std::string_view prefix) {
  EtcdRow row;
  row.value.emplace();
  BTD_TRY(each_field(bytes, [&](const Field& f) -> Status {
    if (f.kind == kBytes && f.number == 1) row.key = f.bytes;
    if (f.kind == kBytes && f.number == 5) row.value = f.bytes;
    if (f.kind != kVarint) return {};
    if (f.number == 2) row.created = signed_of(f);
    if (f.number == 3) row.modified = signed_of(f);
    if (f.number == 4) row.version = signed_of(f);
    return {};
  }));
  if (!row.key.starts_with(prefix)) return garbage("a key that was not asked for");
  row.key.erase(0, prefix.size());
  return row;
}

// mvccpb.Event
Result<EtcdRow> parse_event(std::string_view bytes, std::string_view prefix) {
  std::optional<std::string_view> row;
  std::uint64_t type = 0;
  BTD_TRY(each_field(bytes, [&](const Field& f) -> Status {
    if (f.kind == kVarint && f.number == 1) type = f.value;
    if (f.kind == kBytes && f.number == 2) row = f.bytes;
    return {};
  }));
  if (!row) return garbage("an event without a row");
  if (type > 1) return garbage("an event of a kind that is unknown");
  BTD_ASSIGN(EtcdRow changed, parse_row(*row, prefix));
  if (type == 1) changed.value.reset();
  return changed;
}

// etcdserverpb.ResponseHeader
Status parse_header(std::string_view bytes, EtcdWatchMessage& message) {
  return each_field(bytes, [&](const Field& f) -> Status {
    if (f.kind == kVarint && f.number == 1) message.cluster = f.value;
    if (f.kind == kVarint && f.number == 3) message.revision = signed_of(f);
    return {};
  });
}

}  // namespace

std::string watch(std::string_view from, std::string_view to, std::int64_t revision) {
  std::string create;
  append_bytes(create, 1, from);
  append_bytes(create, 2, to);
  append_number(create, 3, static_cast<std::uint64_t>(revision));
  append_number(create, 4, 1);  // progress_notify
  append_number(create, 8, 1);  // fragment
  std::string request;
  append_bytes(request, 1, create);
  std::string out(1, '\0');
  for (unsigned shift = 32; shift > 0;)
    out += static_cast<char>(request.size() >> (shift -= 8U) & 0xffU);
  return out + request;
}

Result<std::size_t> message_bytes(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes) return garbage("no message");
  if (bytes[0] != '\0') return garbage("a compressed message");
  std::size_t size = 0;
  for (const char c : bytes.substr(1, kHeaderBytes - 1))
    size = size << 8U | static_cast<unsigned char>(c);
  return size;
}

// etcdserverpb.WatchResponse
Result<EtcdWatchMessage> parse_watch(std::string_view bytes, std::string_view prefix) {
  EtcdWatchMessage message;
  BTD_TRY(each_field(bytes, [&](const Field& f) -> Status {
    if (f.kind == kVarint && f.number == 3) message.created = f.value != 0;
    if (f.kind == kVarint && f.number == 4) message.canceled = f.value != 0;
    if (f.kind == kVarint && f.number == 5) message.compacted = signed_of(f);
    if (f.kind == kVarint && f.number == 7) message.fragment = f.value != 0;
    if (f.kind != kBytes) return {};
    if (f.number == 1) return parse_header(f.bytes, message);
    if (f.number == 6) message.reason = f.bytes;
    if (f.number != 11) return {};
    BTD_ASSIGN(EtcdRow event, parse_event(f.bytes, prefix));
    message.events.push_back(std::move(event));
    return {};
  }));
  return message;
}

}  // namespace btd::net::etcd_grpc
