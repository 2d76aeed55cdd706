// TLS 1.3 as a Guard. OpenSSL reads from and writes to memory; it never sees a socket.
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "net/tcp/guard.h"

namespace btd::net {

namespace {

// A private key in PEM is a few KiB.
constexpr std::size_t kMostKeyBytes = 64 << 10;

struct Free {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  void operator()(SSL* ssl) const { SSL_free(ssl); }
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(BIO_METHOD* method) const { BIO_meth_free(method); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// What OpenSSL says; its queue of errors is empty afterwards.
std::string ssl_error() {
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  const char* text = error == 0 ? nullptr : ERR_reason_error_string(error);
  return text == nullptr ? "no reason given" : text;
}

// Where OpenSSL reads and writes during one call. A memory BIO of its own would keep the largest
// buffer that a connection ever needed.
struct Stream {
  std::span<const std::byte> in;
  Bytes* out = nullptr;
};

int read_stream(BIO* bio, char* to, std::size_t size, std::size_t* count) {
  auto& stream = *static_cast<Stream*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  *count = std::min(size, stream.in.size());
  if (*count == 0) {
    BIO_set_retry_read(bio);
    return 0;
  }
  std::memcpy(to, stream.in.data(), *count);
  stream.in = stream.in.subspan(*count);
  return 1;
}

int write_stream(BIO* bio, const char* from, std::size_t size, std::size_t* count) {
  auto& stream = *static_cast<Stream*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  const auto* bytes = reinterpret_cast<const std::byte*>(from);
  stream.out->insert(stream.out->end(), bytes, bytes + size);
  *count = size;
  return 1;
}

long control_stream(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO_METHOD* stream_method() {
  static const Owned<BIO_METHOD> method = [] {
    Owned<BIO_METHOD> made(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "bartender"));
    if (made) {
      BIO_meth_set_read_ex(made.get(), read_stream);
      BIO_meth_set_write_ex(made.get(), write_stream);
      BIO_meth_set_ctrl(made.get(), control_stream);
      BIO_meth_set_create(made.get(), [](BIO* bio) {
        BIO_set_init(bio, 1);
        return 1;
      });
    }
    return made;
  }();
  return method.get();
}

class TlsGuard final : public Guard {
 public:
  explicit TlsGuard(Side side) : side_(side) {}

  Status open(SSL_CTX* context) {
    ssl_.reset(SSL_new(context));
    Owned<BIO> bio(stream_method() == nullptr ? nullptr : BIO_new(stream_method()));
    if (!ssl_ || !bio) return fail(ENOMEM, "There is no memory for a TLS connection.");
    BIO_set_data(bio.get(), &stream_);
    BIO* const stream = bio.release();
    SSL_set_bio(ssl_.get(), stream, stream);  // owns it from now
    if (side_ == Side::kConnecting) {
      SSL_set_connect_state(ssl_.get());
    } else {
      SSL_set_accept_state(ssl_.get());
    }
    return {};
  }

  Status begin(Bytes& out) override {
    Bytes none;
    return take({}, none, out);
  }

  Status take(std::span<const std::byte> bytes, Bytes& plain, Bytes& out) override {
    stream_ = {.in = bytes, .out = &out};
    ERR_clear_error();
    if (!is_open()) {
      BTD_TRY(judge(SSL_do_handshake(ssl_.get())));
      if (!is_open()) return {};
    }
    for (;;) {
      const std::size_t before = plain.size();
      std::size_t count = 0;
      plain.resize(before + SSL3_RT_MAX_PLAIN_LENGTH);
      const int result =
          SSL_read_ex(ssl_.get(), plain.data() + before, SSL3_RT_MAX_PLAIN_LENGTH, &count);
      plain.resize(before + count);
      if (result != 1) return judge(result);
    }
  }

  [[nodiscard]] bool is_open() const override { return SSL_is_init_finished(ssl_.get()) == 1; }
  [[nodiscard]] bool is_transparent() const override { return false; }

  Status protect(std::span<const iovec> plain, Bytes& out) override {
    stream_ = {.in = {}, .out = &out};
    ERR_clear_error();
    for (const iovec& part : plain) {
      std::size_t count = 0;
      if (part.iov_len == 0) continue;
      // The stream takes all, so it is all or an error.
      if (SSL_write_ex(ssl_.get(), part.iov_base, part.iov_len, &count) != 1)
        return fail(EPROTO, "TLS can't send on: " + ssl_error() + ".");
    }
    return {};
  }

  [[nodiscard]] const char* when_ended() const override {
    return "it closed the connection during the TLS handshake; is it a bartender node with TLS?";
  }

 private:
  Status judge(int result) {
    const int error = SSL_get_error(ssl_.get(), result);
    if (result == 1 || error == SSL_ERROR_WANT_READ) return {};
    if (error == SSL_ERROR_ZERO_RETURN) return fail(ECONNRESET, "The peer closed the connection.");
    return fail(EKEYREJECTED,
                "TLS: " + ssl_error() + "; do both nodes have certificates of the same authority?");
  }

  const Side side_;
  Stream stream_;
  Owned<SSL> ssl_;
};

Status load_key(SSL_CTX* context, const std::string& path) {
  BTD_ASSIGN(Bytes bytes, read_secret(path, kMostKeyBytes));
  const Owned<BIO> bio(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())));
  const auto no_password = [](char*, int, int, void*) { return -1; };
  const Owned<EVP_PKEY> key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr)
                                : nullptr);
  OPENSSL_cleanse(bytes.data(), bytes.size());
  if (!key || SSL_CTX_use_PrivateKey(context, key.get()) != 1 ||
      SSL_CTX_check_private_key(context) != 1)
    return fail(EINVAL, "The file " + path +
                            " has no private key of this node's certificate: " + ssl_error() + ".");
  return {};
}

Status configure(SSL_CTX* context, const TlsSecurity& files) {
  if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1)
    return fail(ENOTSUP, "This OpenSSL has no TLS 1.3.");
  // Buffers of an idle connection are given back.
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_num_tickets(context, 0);  // sessions go on by our own means
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_max_early_data(context, 0);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  if (SSL_CTX_load_verify_file(context, files.authority.c_str()) != 1)
    return fail(EINVAL, "The file " + files.authority +
                            " has no certificate of an authority in PEM: " + ssl_error() + ".");
  if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1)
    return fail(EINVAL, "The file " + files.certificate +
                            " has no certificate in PEM: " + ssl_error() + ".");
  return load_key(context, files.key);
}

}  // namespace

Result<GuardMaker> make_tls_guards(const TlsSecurity& security) {
  ERR_clear_error();
  Owned<SSL_CTX> context(SSL_CTX_new(TLS_method()));
  if (!context) return fail(ENOMEM, "OpenSSL can't be used: " + ssl_error() + ".");
  BTD_TRY(configure(context.get(), security));
  const std::shared_ptr<SSL_CTX> shared = std::move(context);
  return GuardMaker([shared](Side side) -> Result<std::unique_ptr<Guard>> {
    auto guard = std::make_unique<TlsGuard>(side);
    BTD_TRY(guard->open(shared.get()));
    return guard;
  });
}

}  // namespace btd::net
