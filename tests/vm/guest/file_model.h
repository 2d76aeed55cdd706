// SPDX-License-Identifier: BSD-3-Clause
// The file load as pure functions: operation i from what there is, and what there is after it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace btd::vm {

struct FileOperation {
  enum class Kind : std::uint8_t {
    kPut,        // a new file, written and synced beside, renamed to `name`
    kLink,       // `to` becomes another name of `name`
    kRename,     // `name` becomes `to`, over what is there
    kRemove,     // unlink or rmdir
    kMode,       // chmod
    kAttribute,  // setxattr
    kCut,        // ftruncate, then fsync
    kStore,      // a word of a mapping, then msync
    kSymlink,    // to a target that tells `number`
    kDirectory,  // mkdir
  };
  Kind kind = Kind::kPut;
  std::string name;
  std::string to;
  std::uint64_t number = 0;   // the operation's own
  std::uint64_t size = 0;     // of kPut and kCut
  bool is_directory = false;  // of kRemove
};

class FileModel {
 public:
  // Operation `number`; always changes something.
  [[nodiscard]] FileOperation choose(std::uint64_t number) const;
  void apply(const FileOperation& operation);
  // One line for each name; describe() of file_load.cc makes the same of a directory.
  [[nodiscard]] std::string text() const;

 private:
  struct Node {
    enum class Kind : std::uint8_t { kFile, kSymlink, kDirectory } kind = Kind::kFile;
    std::uint64_t version = 0;  // the operation that made it
    std::uint64_t size = 0;
    std::uint64_t word = 0;  // stored over its first 8 bytes, if not 0
    std::uint64_t attribute = 0;
    unsigned mode = 0;
    std::uint32_t crc = 0;  // of the contents
  };
  using Nodes = std::map<std::string, std::shared_ptr<Node>>;

  [[nodiscard]] FileOperation create(std::uint64_t number, std::string name,
                                     std::uint64_t dice) const;
  [[nodiscard]] FileOperation change(std::uint64_t number, const std::string& name,
                                     std::uint64_t dice) const;
  void update_crc(Node& node);

  Nodes nodes_;
};

// The bytes of the file that operation `version` put.
std::vector<char> file_contents(std::uint64_t version, std::uint64_t size);
unsigned mode_of(std::uint64_t number);
std::string target_of(std::uint64_t number);
std::string file_line(const std::string& name, const std::string& first_link, std::uint64_t size,
                      std::uint32_t crc, unsigned mode, std::uint64_t attribute);
std::string symlink_line(const std::string& name, const std::string& target);
std::string directory_line(const std::string& name);

}  // namespace btd::vm
