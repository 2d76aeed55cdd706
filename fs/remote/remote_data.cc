// The part of RemoteFiles that moves bytes.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>

#include "fs/remote/remote_file.h"

namespace btd::remote {

namespace {

// Of one read or write, under way at once.
constexpr std::size_t kParallel = 8;
constexpr std::uint64_t kMostOffset = std::numeric_limits<std::int64_t>::max();

}  // namespace

Result<std::size_t> RemoteFiles::read(InodeId id, std::uint64_t offset, std::span<std::byte> into) {
  BTD_ASSIGN(const FilePtr file, find_open(id));
  if (offset > kMostOffset || into.size() > kMostOffset - offset) return fail(EINVAL);
  if (into.empty()) return 0;
  std::size_t done = 0;
  BTD_TRY(persist(*file, [&](Caller& caller, net::Time deadline) -> Status {
    BTD_ASSIGN(done, read_once(*file, caller, deadline, offset, into));
    return {};
  }));
  return done;
}

// What lies in the region needs no word of home: the region ends before its file gets shorter. Of
// what lies beyond, home is asked, since the file may have become longer elsewhere. One read after
// an open is spared that, for the open has just asked: so a small file is read with two messages,
// and who waits for more at the end of a file sees it.
Result<std::size_t> RemoteFiles::read_once(File& file, Caller& caller, net::Time deadline,
                                           std::uint64_t offset, std::span<std::byte> into) {
  const std::uint64_t end = offset + into.size();
  bool is_asked = false;
  for (;;) {
    const View view = file.view();
    if (view.attachment) {
      const Attachment& now = *view.attachment;
      const bool has_grown = now.size < view.known_size;
      std::uint64_t take = into.size();
      if (now.has(0, net::kRemoteRead) && end > now.size) {
        if (is_asked || (!has_grown && file.take_fresh())) {
          if (offset >= now.size) return 0;
          take = now.size - offset;
        } else {
          take = 0;
        }
      } else if (!now.has(end, net::kRemoteRead)) {
        if (now.is_for_now) file.drop(view.attachment);  // the next one asks again
        if (is_asked || !has_grown) return read_by_call(file, caller, deadline, offset, into);
        take = 0;
      }
      if (take > 0) {
        BTD_TRY(transfer(file, view.attachment, caller, deadline, net::Verb::kRead, offset,
                         into.first(take)));
        return take;
      }
    }
    BTD_TRY(attach(file, caller, Caller::Lane::kFirst, deadline, false));
    is_asked = true;
  }
}

Status RemoteFiles::write(InodeId id, std::uint64_t offset, std::span<const std::byte> from) {
  BTD_ASSIGN(const FilePtr file, find_open(id));
  if (offset > kMostOffset || from.size() > kMostOffset - offset) return fail(EFBIG);
  if (from.empty()) return {};
  {
    const std::lock_guard lock(file->mutex);
    file->is_dirty = true;
  }
  return persist(*file, [&](Caller& caller, net::Time deadline) {
    return write_once(*file, caller, deadline, offset, from);
  });
}

// What makes a file longer is a call, which maps nothing anew at home; a write into what has become
// part of the file is one-sided once this node has attached to that.
Status RemoteFiles::write_once(File& file, Caller& caller, net::Time deadline, std::uint64_t offset,
                               std::span<const std::byte> from) {
  const std::uint64_t end = offset + from.size();
  bool is_asked = false;
  for (;;) {
    const View view = file.view();
    if (view.attachment) {
      if (view.attachment->has(end, net::kRemoteWrite)) {
        // A write does not change its buffers; an iovec can't say so.
        const std::span memory{const_cast<std::byte*>(from.data()), from.size()};
        return transfer(file, view.attachment, caller, deadline, net::Verb::kWritePersist, offset,
                        memory);
      }
      const bool is_inside = end <= view.known_size && view.attachment->size < end;
      if (view.attachment->is_for_now) file.drop(view.attachment);
      if (is_asked || !is_inside) return write_by_call(file, caller, deadline, offset, from);
    }
    BTD_TRY(attach(file, caller, Caller::Lane::kFirst, deadline, false));
    is_asked = true;
  }
}

Status RemoteFiles::append(InodeId id, const AppendTag& tag, std::span<const std::byte> from) {
  BTD_ASSIGN(const FilePtr file, find_open(id));
  {
    const std::lock_guard lock(file->mutex);
    file->is_dirty = true;
  }
  const std::size_t most = std::min<std::size_t>(limits_.call_bytes, wire::kMostCallBytes);
  wire::AppendRequest request{.id = id,
                              .session = tag.session != 0 ? tag.session : client_,
                              .unique = tag.unique,
                              .slot = tag.slot,
                              .flags = tag.is_resent ? wire::kAppendAgain : 0U};
  for (; !from.empty(); ++request.part) {
    const auto part = from.first(std::min(most, from.size()));
    from = from.subspan(part.size());
    if (from.empty()) request.flags |= wire::kAppendDurable;
    BTD_TRY(persist(*file, [&](Caller& caller, net::Time deadline) {
      return append_once(*file, caller, deadline, request, part);
    }));
  }
  return {};
}

Status RemoteFiles::append_once(File& file, Caller& caller, net::Time deadline,
                                const wire::AppendRequest& request,
                                std::span<const std::byte> from) {
  counts_.calls.fetch_add(1, std::memory_order_relaxed);
  std::uint64_t size = 0;
  BTD_TRY(caller.call(file.home(), Caller::Lane::kFirst, deadline, [&](Caller::Calls& calls) {
    return calls.ask<wire::AppendRequest, wire::WriteResponse>(
        wire::kAppend, request, from,
        [&size](const wire::WriteResponse& response, net::Rpc::Bytes) { size = response.size; });
  }));
  file.grown_to(size);
  return {};
}

Status RemoteFiles::transfer(File& file, const std::shared_ptr<const Attachment>& attachment,
                             Caller& caller, net::Time deadline, net::Verb verb,
                             std::uint64_t offset, std::span<std::byte> memory) {
  // Where a home's mapping broke, it is that which breaks the connection, again and again; a new
  // attach makes home look at the file.
  const auto is_stuck = [&] {
    static_cast<void>(attach(file, caller, Caller::Lane::kSecond, deadline, false));
  };
  auto& count = verb == net::Verb::kRead ? counts_.reads : counts_.writes;
  std::array<iovec, kParallel> parts{};
  std::array<net::Operation, kParallel> operations{};
  while (!memory.empty()) {
    std::size_t used = 0;
    for (; used < kParallel && !memory.empty(); ++used) {
      const auto part =
          memory.first(std::min<std::uint64_t>(memory.size(), limits_.transfer_bytes));
      parts[used] = {.iov_base = part.data(), .iov_len = part.size()};
      operations[used] = {.verb = verb,
                          .remote = {.key = attachment->region.key, .offset = offset},
                          .local = {&parts[used], 1}};
      memory = memory.subspan(part.size());
      offset += part.size();
    }
    count.fetch_add(used, std::memory_order_relaxed);
    const Status done =
        caller.transfer(file.home(), std::span{operations}.first(used), deadline, is_stuck);
    if (!done) {
      // Also after ECONNRESET: home may have started anew, with other regions.
      file.drop(attachment);
      return done;
    }
  }
  return {};
}

// One of several calls that read. A home that sends more than it was asked for is not believed.
struct RemoteFiles::Part {
  std::span<std::byte> into;
  std::size_t got = 0;
  std::uint64_t size = 0;  // of the file
  bool is_sound = true;

  void take(const wire::ReadResponse& response, std::span<const std::byte> tail) {
    size = response.size;
    is_sound = tail.size() <= into.size();
    got = std::min(tail.size(), into.size());
    if (got > 0) std::memcpy(into.data(), tail.data(), got);
  }
};

Result<std::size_t> RemoteFiles::read_by_call(File& file, Caller& caller, net::Time deadline,
                                              std::uint64_t offset, std::span<std::byte> into) {
  const std::size_t most = std::min<std::size_t>(limits_.call_bytes, wire::kMostCallBytes);
  std::size_t done = 0;
  while (done < into.size()) {
    std::array<Part, kParallel> parts{};
    std::size_t used = 0;
    for (std::size_t at = done; used < kParallel && at < into.size(); ++used) {
      parts[used].into = into.subspan(at, std::min(most, into.size() - at));
      at += parts[used].into.size();
    }
    const auto asked = std::span{parts}.first(used);
    BTD_TRY(caller.call(file.home(), Caller::Lane::kFirst, deadline, [&](Caller::Calls& calls) {
      return ask_parts(file.id, offset + done, asked, calls);
    }));
    for (const Part& part : asked) {
      if (!part.is_sound) return fail(EPROTO, "The home of a file sent more bytes than asked for.");
      file.grown_to(part.size);
      done += part.got;
      if (part.got < part.into.size()) return done;  // the end of the file
    }
  }
  return done;
}

Status RemoteFiles::ask_parts(InodeId id, std::uint64_t offset, std::span<Part> parts,
                              Caller::Calls& calls) {
  for (Part& part : parts) {
    counts_.calls.fetch_add(1, std::memory_order_relaxed);
    const wire::ReadRequest request{
        .id = id, .offset = offset, .length = static_cast<std::uint32_t>(part.into.size())};
    BTD_TRY((calls.ask<wire::ReadRequest, wire::ReadResponse>(
        wire::kRead, request, {},
        [&part](const wire::ReadResponse& response, net::Rpc::Bytes tail) {
          part.take(response, tail);
        })));
    offset += part.into.size();
  }
  return {};
}

// Durable by the last call, which follows all others.
Status RemoteFiles::write_by_call(File& file, Caller& caller, net::Time deadline,
                                  std::uint64_t offset, std::span<const std::byte> from) {
  const std::size_t most = std::min<std::size_t>(limits_.call_bytes, wire::kMostCallBytes);
  while (!from.empty()) {
    const bool is_last = from.size() <= most;
    const std::size_t before_last = (from.size() - 1) / most * most;
    const auto bytes = is_last ? from : from.first(std::min(before_last, kParallel * most));
    std::uint64_t size = 0;
    BTD_TRY(caller.call(file.home(), Caller::Lane::kFirst, deadline, [&](Caller::Calls& calls) {
      return send_parts(file.id, offset, bytes, is_last, size, calls);
    }));
    file.grown_to(size);
    offset += bytes.size();
    from = from.subspan(bytes.size());
  }
  return {};
}

Status RemoteFiles::send_parts(InodeId id, std::uint64_t offset, std::span<const std::byte> from,
                               bool is_last, std::uint64_t& size, Caller::Calls& calls) {
  const std::size_t most = std::min<std::size_t>(limits_.call_bytes, wire::kMostCallBytes);
  while (!from.empty()) {
    counts_.calls.fetch_add(1, std::memory_order_relaxed);
    const auto part = from.first(std::min(most, from.size()));
    const wire::WriteRequest request{
        .id = id, .offset = offset, .flags = is_last ? wire::kWriteDurable : 0U};
    BTD_TRY((calls.ask<wire::WriteRequest, wire::WriteResponse>(
        wire::kWrite, request, part, [&size](const wire::WriteResponse& response, net::Rpc::Bytes) {
          size = std::max(size, response.size);
        })));
    from = from.subspan(part.size());
    offset += part.size();
  }
  return {};
}

}  // namespace btd::remote
