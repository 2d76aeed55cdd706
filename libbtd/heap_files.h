// HeapFiles: the ArenaSource over one heap's directory: arena.0, arena.1, … and `lock`.
//
// Arenas are files at fixed addresses of the heap's window, all made with the heap, empty, and
// mapped as large as they may become: what another process grows them by is there at once. A file
// grows with space reserved on the file system before it is first stored to, so no store meets a
// full one. Owns descriptors, mappings and the window.
// Where they are coherent files of a cluster, whoever takes an arena first makes its file, whose
// home is that node; others map it when they are about to touch it.
// Thread-safety: as ArenaSource; reserve_space() from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "alloc/arena_source.h"
#include "alloc/unique_fd.h"
#include "libbtd/backing.h"
#include "libbtd/heap_users.h"
#include "libbtd/reserve.h"
#include "libbtd/windows.h"

namespace btd {

class HeapFiles final : public ArenaSource {
 public:
  static constexpr std::uint64_t kStepBytes = 2 * 1024 * 1024;
  static constexpr std::uint32_t kMaxFiles = 64;
  struct Plan {
    std::string name;               // of the heap, for messages
    unsigned window = 0;            // kWindows: as arena.0 says
    std::uint64_t arena_bytes = 0;  // what one may grow to: a multiple of kStepBytes
    std::uint64_t max_bytes = 0;    // what all may take on the file system; 0: no limit
    bool flush = true;              // false: what is stored need only outlive the process
    bool fast_frees = true;         // false: btd_free() finds no segment at once
  };

  // What arena.0 says of itself.
  struct Identity {
    unsigned window = 0;
    std::uint64_t arena_bytes = 0;
  };
  // Errors: EINVAL no heap, or another version; EUCLEAN damaged.
  static Result<Identity> identify(int dirfd, const std::string& name);

  // Takes the window of an empty directory. Errors: EADDRINUSE.
  static Result<std::unique_ptr<HeapFiles>> create(UniqueFd dir, std::shared_ptr<HeapUsers> users,
                                                   const Plan& plan);
  // Errors: as identify(); EADDRINUSE; EUCLEAN one is missing.
  static Result<std::unique_ptr<HeapFiles>> open(UniqueFd dir, std::shared_ptr<HeapUsers> users,
                                                 Plan plan);
  // To be looked at, beside whoever uses it, maybe on another node. Errors: as open().
  static Result<std::unique_ptr<HeapFiles>> open_to_read(UniqueFd dir, Plan plan);
  ~HeapFiles() override;
  HeapFiles(const HeapFiles&) = delete;
  HeapFiles& operator=(const HeapFiles&) = delete;

  std::byte* base() override { return base_; }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return plan_.arena_bytes; }
  [[nodiscard]] std::uint32_t count() const override {
    return static_cast<std::uint32_t>(files_.size());
  }
  Status extend() override;
  Status provide(std::uint32_t index, bool is_full) override;
  [[nodiscard]] bool near(std::uint32_t index) override;
  [[nodiscard]] bool by_pages_of_nodes() const override { return node_.has_value(); }
  Status reserve_space(std::uint64_t off, std::uint64_t len) override;
  bool release_space(std::uint64_t off, std::uint64_t len) override;
  [[nodiscard]] std::uint64_t used_bytes(std::uint32_t arena) override;
  Persist& persist() override { return *persist_; }
  Users& users() override { return *users_; }
  std::atomic<std::uint64_t>* cells() override {
    return plan_.fast_frees && g_cells != nullptr ? g_cells + plan_.window * kWindowCells : nullptr;
  }

  [[nodiscard]] unsigned window() const { return plan_.window; }
  [[nodiscard]] const HeapUsers& processes() const { return *users_; }
  [[nodiscard]] HeapUsers& processes() { return *users_; }
  // Has later loads of [off, off + len) see what was released before, where each node has pages of
  // its own. Errors: what the home says.
  Status acquire(std::uint64_t off, std::uint64_t len);
  // Has what was stored there seen by those who acquire it.
  Status release(std::uint64_t off, std::uint64_t len);
  // Maps an arena that another node made, as a handler of signals may: the errno, or 0. Whoever
  // comes while another thread does it waits.
  int map_made(std::uint32_t index);
  // In a child after fork: closes what it inherited and forgets the mappings, which it has not.
  void forget();
  // Before a fork whose child is to keep what it inherits: from now on this process and the child
  // have a private view of the arenas there are, and the files stay as they are. Errors: ENOMEM.
  Status freeze();

 private:
  HeapFiles(UniqueFd dir, std::shared_ptr<HeapUsers> users, Plan plan);
  Status fetch(std::uint32_t index) override;
  Status make_arena(std::uint32_t index, bool is_full);
  Status give_to_emptiest(const std::string& name);
  // Maps it and notes its home: the errno, or 0.
  int map_coherent(std::uint32_t index);
  Status map_first();
  Status map_to_read();
  [[nodiscard]] static std::uint32_t arenas_of(std::uint64_t arena_bytes);
  static Result<std::unique_ptr<HeapFiles>> map_all(UniqueFd dir, std::shared_ptr<HeapUsers> users,
                                                    Plan plan);
  // All by descriptors of one kind, so that all are made durable in one way.
  Status map_arenas();
  // Maps one arena, by its backing file where there is a socket for that. False: it is not to be
  // had.
  Result<bool> map(std::uint32_t index, const std::optional<sockaddr_un>& socket);
  [[nodiscard]] Result<UniqueFd> open_arena(std::uint32_t index) const;
  Result<int> file_of(std::uint32_t index);
  [[nodiscard]] std::uint64_t disk_bytes() const;

  UniqueFd dir_;
  std::shared_ptr<HeapUsers> users_;
  Plan plan_;
  std::byte* base_ = nullptr;
  bool window_held_ = false;
  std::optional<Persist> persist_;  // chosen by the first mapping
  std::optional<Domain> domain_;    // of the files
  // This node's number where arenas are coherent files of a cluster.
  std::optional<unsigned> node_;
  std::atomic<std::uint64_t> mapping_{0};  // a bit for each arena that a thread maps now
  std::array<std::atomic<unsigned>, kMaxFiles> homes_{};
  std::mutex space_mutex_;       // files_; and one reservation at a time
  std::vector<UniqueFd> files_;  // of arenas that changed their space here
};

}  // namespace btd
