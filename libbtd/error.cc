#include "libbtd/error.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace btd {
namespace {

// Plain memory: it is there for destructors of other thread-local objects too, and costs a thread
// that meets no error nothing.
constexpr std::size_t kSentenceBytes = 384;
thread_local constinit char t_sentence[kSentenceBytes] = "";

}  // namespace

void set_error(int code, std::string_view sentence) {
  if (sentence.empty()) sentence = strerrordesc_np(code);
  const std::size_t len = std::min(sentence.size(), kSentenceBytes - 1);
  std::memcpy(t_sentence, sentence.data(), len);
  t_sentence[len] = '\0';
  errno = code;
}

void set_error(const Error& error) { set_error(error.code, error.message); }

int failed(int code, std::string_view sentence) {
  set_error(code, sentence);
  return -1;
}

int failed(const Error& error) { return failed(error.code, error.message); }

void* no_block(int code, std::string_view sentence) {
  set_error(code, sentence);
  return nullptr;
}

void* no_block(const Error& error) { return no_block(error.code, error.message); }

const char* last_sentence() { return t_sentence; }

}  // namespace btd
