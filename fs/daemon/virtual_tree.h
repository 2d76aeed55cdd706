// VirtualTree: the directory /.btd, whose files tell what the daemon is and does.
// It holds no inode of the namespace; ids from kFirstVirtualId on are its own and constant.
// Thread-safety: any thread.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "alloc/result.h"
#include "fs/namespace/inode.h"

namespace btd {

struct Server;

class VirtualTree {
 public:
  static constexpr InodeId kDir = kFirstVirtualId;
  static constexpr InodeId kStatus = kDir + 1, kStatusJson = kDir + 2, kTrace = kDir + 3;
  struct Name {
    std::string_view name;
    InodeId id;
  };
  static constexpr std::array<Name, 3> kNames = {
      {{"status", kStatus}, {"status.json", kStatusJson}, {"trace", kTrace}}};
  // As many snapshots are kept for open files; more opens read a fresh text at each call.
  static constexpr std::size_t kMaxSnapshots = 64;

  explicit VirtualTree(const Server& server) : server_(server) {}

  static std::optional<InodeId> lookup(std::string_view name);
  [[nodiscard]] std::optional<struct stat> attributes(InodeId id) const;
  // Takes a snapshot of the text; the handle names it until release().
  std::uint64_t open(InodeId id);
  void release(std::uint64_t handle);
  // The text as it was at open, for who reads from `offset` on. Where an earlier worker had taken
  // the snapshot, who begins gets the text of now, and who had all of the old one gets its end: two
  // texts never become one. Errors: ESTALE who is in the middle; open it again.
  Result<std::shared_ptr<const std::string>> text(InodeId id, std::uint64_t handle,
                                                  std::size_t offset);

 private:
  // A handle has the length of its text in the lower bits, for a worker that has not the text.
  static constexpr unsigned kLengthBits = 24, kNumberBits = 18;
  static constexpr std::uint64_t kMaxLength = (std::uint64_t{1} << kLengthBits) - 1;

  [[nodiscard]] std::string render(InodeId id) const;

  const Server& server_;
  std::mutex mutex_;
  std::uint64_t next_ = 1;
  std::map<std::uint64_t, std::shared_ptr<const std::string>> snapshots_;
};

}  // namespace btd
