// FileCalls: what a peer's call does to a file that lies here. Blocking, without network or engine;
// every number of the request is checked, since it came from outside.
//
// Thread-safety: any thread but the engine's.
#pragma once

#include <cstddef>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fs/remote/appends.h"
#include "fs/remote/home_files.h"
#include "fs/remote/region_cache.h"
#include "fs/remote/wire.h"

namespace btd::remote {

class FileCalls {
 public:
  // Both outlive this. `own`: only files whose home it is are served.
  FileCalls(HomeFiles& files, RegionCache& regions, NodeId own, HomeOf home_of)
      : files_(files), regions_(regions), own_(own), home_of_(std::move(home_of)) {}

  // Errors: wire::kNotHome its home is another node.
  Status judge(InodeId id) const;

  Result<wire::AttachResponse> attach(InodeId id, bool must_prepare);
  Result<wire::Attributes> attributes(InodeId id);
  Result<wire::Attributes> change(const wire::ChangeRequest& request);
  Result<wire::Attributes> flush(const wire::ChangeRequest& request);
  Result<wire::Attributes> allocate(const wire::AllocateRequest& request);
  Result<wire::WriteResponse> write(const wire::WriteRequest& request,
                                    std::span<const std::byte> bytes);
  // All of it or an error; once, however often it is asked for.
  Result<wire::WriteResponse> append(NodeId peer, const wire::AppendRequest& request,
                                     std::span<const std::byte> bytes);
  // `into` gets the bytes.
  Result<wire::ReadResponse> read(const wire::ReadRequest& request, std::vector<std::byte>& into);
  Result<wire::SeekResponse> seek(const wire::SeekRequest& request);
  // Of a move. No peer reaches it one-sided meanwhile.
  Status reserve(const wire::MoveRequest& request);
  Status yield(const wire::MoveRequest& request);
  Result<wire::SpaceResponse> space();
  // A peer that had it open for writing, and may have written, closed it or is gone.
  void ended(InodeId id, bool has_written);

 private:
  static constexpr std::size_t kMostReserved = 1024;

  HomeFiles& files_;
  RegionCache& regions_;
  Appends appends_;
  std::mutex reserved_mutex_;
  // How many mappings had broken when a file was reserved: who reads one that breaks gets zeros.
  std::unordered_map<InodeId, std::uint64_t> reserved_;
  const NodeId own_;
  const HomeOf home_of_;
};

}  // namespace btd::remote
