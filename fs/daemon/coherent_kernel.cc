#include "fs/daemon/coherent_kernel.h"

#include <spdlog/spdlog.h>

#include <charconv>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "fs/daemon/notifier_client.h"

namespace btd {

namespace {

using coherent::Ask;

// Between two attempts to drop what is pinned.
constexpr std::uint32_t kPauseUs = 200;

constexpr std::string_view kInodeName = "inode-";

// In which the kernel has taken the size of an answer.
constexpr auto kMoment = std::chrono::milliseconds(2);

// More names than that no worker makes.
constexpr unsigned kLifeShift = 40;

}  // namespace

void CoherentKernel::start(Server& server, coherent::Node& node) {
  node_ = &node;
  slot_ = server.state.claim_slot();
  next_name_ = (std::uint64_t{server.state.header().workers} << kLifeShift) + 1;
  server_ = &server;
}

void CoherentKernel::stop() {
  is_stopped_.store(true);
  elastic_.stop();
}

std::uint64_t CoherentKernel::parked() const {
  const std::scoped_lock lock(mutex_);
  return parked_.size();
}

void CoherentKernel::park(Parked parked, Ask what) {
  const coherence::Request number = next_.fetch_add(1, std::memory_order_relaxed);
  parked.unique = current_request().tag.unique;
  parked.id = what.file;
  {
    const std::scoped_lock lock(mutex_);
    parked_.emplace(number, std::move(parked));
  }
  what.request = number;
  node_->ask(std::move(what));
}

// Nothing if it was answered, or the next worker gets it.
std::optional<CoherentKernel::Parked> CoherentKernel::taken(coherence::Request request) {
  const std::scoped_lock lock(mutex_);
  const auto found = parked_.find(request);
  if (found == parked_.end()) return std::nullopt;
  std::optional<Parked> parked = std::move(found->second);
  parked_.erase(found);
  if (is_stopped_.load()) parked.reset();
  return parked;
}

void CoherentKernel::opened(coherence::Request request, std::uint64_t bytes) {
  auto parked = taken(request);
  if (!parked) return;
  parked->entry.attr.st_size = static_cast<off_t>(bytes);
  finish_open(*parked);
}

void CoherentKernel::answer(coherence::Request request, int error,
                            std::span<const std::byte> contents) {
  const auto parked = taken(request);
  if (!parked) return;
  if (error != 0) {
    fuse_reply_err(parked->req, error);
    return;
  }
  switch (parked->kind) {
    case Parked::Kind::kOpen:
    case Parked::Kind::kCreate:
      return;  // opened() answers these
    case Parked::Kind::kRead:
      fuse_reply_buf(parked->req, reinterpret_cast<const char*>(contents.data()), contents.size());
      return;
    case Parked::Kind::kWrite:
      fuse_reply_write(parked->req, parked->size);
      return;
    case Parked::Kind::kPlain:
      fuse_reply_err(parked->req, 0);
      return;
    case Parked::Kind::kThen:
      elastic_.post([then = parked->then, req = parked->req] { then(req); });
      return;
  }
}

// Counted and answered in one slot: a worker that dies in between takes the count back.
void CoherentKernel::finish_open(Parked& parked) {
  StateTable& state = server_->state;
  const std::uint32_t slot = slot_.value_or(kNoSlot);
  const bool is_create = parked.kind == Parked::Kind::kCreate;
  if (slot_) state.begin(slot, parked.unique);
  const auto opened = server_->files.open(slot, parked.id, is_create ? 1 : 0, -1,
                                          server_->is_home(parked.id), false);
  if (!opened) {
    node_->ask({.what = Ask::What::kRelease,
                .file = parked.id,
                .is_writer = (parked.fi.flags & O_ACCMODE) != O_RDONLY});
    fuse_reply_err(parked.req, opened.error().code);
  } else if (is_create) {
    if (parked.is_orphan) (void)state.set_flags(parked.id, kStateOrphan);
    fuse_reply_create(parked.req, &parked.entry, &parked.fi);
  } else {
    fuse_reply_open(parked.req, &parked.fi);
  }
  if (slot_) state.end(slot);
}

void CoherentKernel::drop(InodeId id, coherence::Page page, coherence::Notice notice, bool again) {
  server_->notifier->post({.kind = KernelWord::Kind::kDropAndLook,
                           .inode = id,
                           .offset = page * coherence::kPageBytes,
                           .length = coherence::kPageBytes,
                           .pause_us = again ? kPauseUs : 0},
                          [this, id, page, notice](int error, std::size_t bytes) {
                            if (is_stopped_.load()) return;
                            // The kernel had no memory to tell; other errors say that it does not
                            // know the inode.
                            const bool is_cached = bytes != 0 || error == ENOMEM;
                            node_->ask({.what = Ask::What::kDropped,
                                        .file = id,
                                        .page = page,
                                        .number = notice,
                                        .is_cached = is_cached});
                          });
}

void CoherentKernel::drop_all(InodeId id) {
  server_->notifier->post({.kind = KernelWord::Kind::kDropPages, .inode = id},
                          [this, id](int, std::size_t) {
                            if (is_stopped_.load()) return;
                            node_->ask({.what = Ask::What::kAllDropped, .file = id});
                          });
}

// A look-up of the inode, by a name that only the notifier finds: the answer has the size, also
// where it is larger, which no notification can say. The name is forgotten again, as it would keep
// the inode; and each is new, as a look-up waits for another of its name.
void CoherentKernel::resize(InodeId id, coherence::Version version) {
  const std::uint64_t number = next_name_.fetch_add(1, std::memory_order_relaxed);
  {
    const std::scoped_lock lock(mutex_);
    resizing_.emplace(number, Resizing{.id = id, .version = version});
  }
  server_->notifier->post(
      {.kind = KernelWord::Kind::kLookUp, .name = std::string(kInodeName) + std::to_string(number)},
      [this, id, number](int error, std::size_t) {
        if (error != 0)
          spdlog::debug("telling the kernel the size of {}: {}", id, strerrordesc_np(error));
        resized(number);
      });
}

void CoherentKernel::resized(std::uint64_t number) {
  Resizing done;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = resizing_.find(number);
    if (found == resizing_.end()) return;
    done = found->second;
    resizing_.erase(found);
  }
  if (is_stopped_.load()) return;
  node_->ask({.what = Ask::What::kSized, .file = done.id, .number = done.version});
}

std::optional<std::uint64_t> CoherentKernel::number_in(std::string_view name) {
  if (!name.starts_with(kInodeName)) return std::nullopt;
  name.remove_prefix(kInodeName.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return number;
}

std::optional<InodeId> CoherentKernel::inode_of(std::uint64_t number) const {
  const std::scoped_lock lock(mutex_);
  const auto found = resizing_.find(number);
  if (found == resizing_.end()) return std::nullopt;
  return found->second.id;
}

// The kernel takes the size, then cuts its pages off: there it may wait for a fill of the last one,
// which may wait for the very resize. So it counts a moment after the answer.
void CoherentKernel::told(std::uint64_t number) {
  elastic_.post([this, number] {
    std::this_thread::sleep_for(kMoment);
    resized(number);
  });
}

}  // namespace btd
