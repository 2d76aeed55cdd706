#include "fs/coherent/link.h"

#include <utility>

namespace btd::coherent {

void Link::send(std::vector<Bytes> sends) {
  if (is_broken_) return;
  for (Bytes& each : sends) sends_.push_back(std::move(each));
  post();
}

void Link::post() {
  while (!is_broken_ && posted_ < sends_.size()) {
    Bytes& bytes = sends_[posted_];
    const iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
    // Without a deadline: the endpoint's patience bounds it.
    const Status posted = endpoint_.send({&part, 1}, 0, net::kNever);
    if (posted) {
      ++posted_;
    } else if (posted.error().code == EAGAIN && posted_ > 0) {
      return;  // a completion goes on
    } else {
      is_broken_ = true;
      endpoint_.close();
    }
  }
}

// A failed one may complete before older ones, whose bytes are still in use: all stay until the
// end.
void Link::completed(const net::Completion& completion) {
  if (completion.error != 0) {
    if (!std::exchange(is_broken_, true)) endpoint_.close();
  }
  if (is_broken_ || posted_ == 0) return;
  sends_.pop_front();
  --posted_;
  post();
}

}  // namespace btd::coherent
