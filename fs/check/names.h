// NamePass: one look at all rows of the namespace, and their repair.
//
// gather_*() read every row once, in key order, and judge each by itself; judge_*() compare what
// they say of each other. No row changes during that: repairs are put off to the end of the pass,
// where each is one commit that leaves the store better than before and looks at the rows as they
// are then. What follows from a repair is found by the next pass. Memory: 64 bytes an inode, and at
// most kMaxRepairs repairs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/check/findings.h"
#include "fs/namespace/layout.h"

namespace btd {

class NamePass {
 public:
  NamePass(MetaStore& store, Findings& findings) : store_(store), findings_(findings) {}
  NamePass(const NamePass&) = delete;
  NamePass& operator=(const NamePass&) = delete;

  // Finds, and repairs if that is asked for. Errors: the store cannot be read or changed.
  Status run();

  // For the backing files, after run().
  enum class Owner {
    kFile,      // a regular file has this id
    kNone,      // nothing has it
    kUnsettled  // nothing has it, as a crash may leave it: the next mount removes it
  };
  [[nodiscard]] Owner owner_of(InodeId id) const;

 private:
  struct Node {
    InodeId id = 0;
    InodeId parent = 0;        // of a directory: the one that names it; 0: none
    std::uint64_t cookie = 0;  // of that entry
    std::uint64_t size = 0;    // of a directory: the parent that its row says
    std::uint32_t mode = 0;
    std::uint32_t nlink = 0;
    std::uint32_t names = 0;
    std::uint32_t subdirs = 0;
    std::uint32_t target_bytes = 0;
    bool has_target = false;
    bool orphan = false;
    bool gone = false;  // its rows were removed by this pass
    enum class Mark : std::uint8_t { kNew, kOnPath, kDone } mark = Mark::kNew;
  };
  // Puts into the batch what repairs, from the rows as they are now.
  using Build = std::function<Status(Batch&)>;
  struct Repair {
    Severity severity = Severity::kProblem;
    std::string sentence;
    Build build;
  };
  struct Entry {
    InodeId dir = 0;
    std::uint64_t cookie = 0;
    InodeId child = 0;
    std::uint32_t type = 0;
    std::string_view name, key, value;
  };
  struct Recent {
    InodeId dir = 0;
    std::uint64_t cookie = 0;
    std::string name;
  };
  static constexpr std::size_t kMaxRepairs = 100'000;

  Status gather();
  Status gather_format();
  Status gather_inodes();
  Status gather_entries();
  Status gather_targets();
  Status gather_xattrs();
  Status gather_orphans();
  Status gather_results();
  Status gather_unknown();
  Status scan(char kind, const MetaStore::Visitor& visit);
  void take_entry(const Entry& entry);
  bool judge_name(const Entry& entry);
  bool judge_ends(const Entry& entry);
  void count_entry(const Entry& entry);

  void judge();
  void judge_root();
  void judge_limit();
  void judge_loops();
  void judge_inode(const Node& node);
  void judge_nameless(Node& node);
  void judge_symlink(const Node& node);

  [[nodiscard]] Node* find(InodeId id);
  [[nodiscard]] const Node* find(InodeId id) const;

  void wrong(std::string sentence, Build build, Severity severity = Severity::kProblem);
  void wrong_row(std::string sentence, std::string_view key);  // to be removed
  [[nodiscard]] Build set_inode(InodeId id, std::function<void(rows::InodeRow&)> change);
  [[nodiscard]] Build reconnect(const Node& node);
  [[nodiscard]] Build remove_inode(InodeId id);
  Status put_entry(Batch& batch, InodeId dir, std::string_view name, InodeId child,
                   std::uint32_t type);
  Result<InodeId> lost_and_found();
  Result<std::optional<InodeId>> look_up_directory(InodeId dir, std::string_view name, bool& taken);
  Status make_repairs();

  MetaStore& store_;
  Findings& findings_;
  std::vector<Node> nodes_;  // by id
  std::vector<Repair> repairs_;
  rows::IdsRow ids_{};
  bool has_ids_ = false;
  std::uint64_t hash_key_ = 0;
  std::uint64_t rows_seen_ = 0, rows_total_ = 0;
  std::vector<Recent> recent_;  // the last entries seen, to find a name that is there twice
};

}  // namespace btd
