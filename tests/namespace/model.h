// A namespace in plain maps, to compare the real one with; and random operations for both.
#pragma once

#include <map>
#include <random>
#include <string>
#include <vector>

#include "fs/namespace/namespace.h"

namespace btd::testing {

// One operation on a namespace, as data, so that it can be done to both sides and printed.
struct Operation {
  enum Kind {
    kCreate,
    kMkdir,
    kSymlink,
    kNameless,
    kLink,
    kUnlink,
    kRmdir,
    kRename,
    kChange,
    kSetXattr,
    kRemoveXattr,
    kEraseOrphan,
    kKinds
  };
  Kind kind = kCreate;
  InodeId a = 0, b = 0;  // directory or inode; second directory
  std::string name, other;
  unsigned number = 0;  // mode, flags or value

  [[nodiscard]] std::string text() const;
};

// The same calls with the same answers, written as simply as can be. No times.
class Model {
 public:
  Model();
  // 0, or the errno; `id` is what a creating operation takes for its inode.
  int apply(const Operation& op, InodeId id);
  [[nodiscard]] std::string dump() const;
  void clear_xattrs(InodeId id);
  // An operation that has a fair chance to succeed.
  [[nodiscard]] Operation random(std::mt19937_64& random) const;

 private:
  struct Node {
    std::uint32_t mode = 0, uid = 0, gid = 0, flags = 0;
    std::uint32_t nlink = 0;
    std::string target;
    std::map<std::string, std::string> xattrs;
    std::map<std::string, InodeId> entries;
  };
  int insert(const Operation& op, InodeId id, std::uint32_t type);
  int unlink(const Operation& op, bool directory);
  int rename(const Operation& op);
  [[nodiscard]] bool lies_below(InodeId dir, InodeId id) const;
  void drop(InodeId id);
  [[nodiscard]] bool live_dir(InodeId id) const;

  std::map<InodeId, Node> nodes_;
};

// The errno of the operation on the real namespace.
int apply(Namespace& ns, const Operation& op, InodeId id, const RequestTag& tag);
// Everything that Model::dump tells, read from the real namespace.
std::string dump(const Namespace& ns);

}  // namespace btd::testing
