#include "tests/net/secrets.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>

namespace btd::net {

namespace {

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using File = std::unique_ptr<std::FILE, Free>;

Key make_key() { return Key(EVP_EC_gen("P-256")); }

Certificate make_certificate(EVP_PKEY* key, const char* name, X509* issuer, EVP_PKEY* issuer_key) {
  constexpr long kDay = 24 * 3600;
  Certificate made(X509_new());
  X509_set_version(made.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(made.get()), issuer == nullptr ? 1 : 2);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), -kDay);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), kDay);
  X509_set_pubkey(made.get(), key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
  X509_set_issuer_name(made.get(), X509_get_subject_name(issuer == nullptr ? made.get() : issuer));
  if (issuer == nullptr) {
    X509_EXTENSION* is_authority =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, "critical,CA:TRUE");
    X509_add_ext(made.get(), is_authority, -1);
    X509_EXTENSION_free(is_authority);
  }
  X509_sign(made.get(), issuer_key, EVP_sha256());
  return made;
}

void write_certificate(const std::string& path, X509* certificate) {
  const File file(std::fopen(path.c_str(), "we"));
  PEM_write_X509(file.get(), certificate);
}

}  // namespace

Secrets::Secrets() {
  std::string pattern = std::filesystem::temp_directory_path() / "btd-net-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) std::abort();
  directory_ = pattern;
  std::ofstream key(path("key"), std::ios::binary);
  std::random_device random;
  for (int i = 0; i < 32; ++i) key.put(static_cast<char>(random()));
  key.close();
  ::chmod(path("key").c_str(), 0600);
  const Key authority_key = make_key(), node_key = make_key();
  const Certificate authority =
      make_certificate(authority_key.get(), "test authority", nullptr, authority_key.get());
  const Certificate node =
      make_certificate(node_key.get(), "node", authority.get(), authority_key.get());
  write_certificate(path("ca.pem"), authority.get());
  write_certificate(path("node.pem"), node.get());
  const File file(std::fopen(path("node.key").c_str(), "we"));
  ::chmod(path("node.key").c_str(), 0600);
  PEM_write_PrivateKey(file.get(), node_key.get(), nullptr, nullptr, 0, nullptr, nullptr);
}

Secrets::~Secrets() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

const Secrets& Secrets::mine() {
  static const Secrets secrets;
  return secrets;
}

const Secrets& Secrets::others() {
  static const Secrets secrets;
  return secrets;
}

}  // namespace btd::net
