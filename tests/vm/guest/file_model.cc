// SPDX-License-Identifier: BSD-3-Clause
#include "tests/vm/guest/file_model.h"

#include <cstring>

#include "tests/stress/stress_util.h"

namespace btd::vm {

namespace {

constexpr std::uint64_t kNames = 24;
constexpr std::uint64_t kLargest = 24 * 1024;
constexpr std::uint64_t kSmallest = 16;
// A cut inside of a page is not atomic on DAX: the file system zeroes the rest of the page at once,
// and may lose the size.
constexpr std::uint64_t kPage = 4096;

std::string name_of(std::uint64_t i) { return "n" + std::to_string(i); }

}  // namespace

std::vector<char> file_contents(std::uint64_t version, std::uint64_t size) {
  stress::Random random(version);
  std::vector<char> bytes(size);
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random.Next();
    std::memcpy(bytes.data() + at, &word, std::min(sizeof(word), bytes.size() - at));
  }
  return bytes;
}

unsigned mode_of(std::uint64_t number) { return 0600U | (number % 0100U); }
std::string target_of(std::uint64_t number) { return "target-" + std::to_string(number); }

std::string file_line(const std::string& name, const std::string& first_link, std::uint64_t size,
                      std::uint32_t crc, unsigned mode, std::uint64_t attribute) {
  return name + " file " + first_link + ' ' + std::to_string(size) + ' ' + std::to_string(crc) +
         ' ' + std::to_string(mode) + ' ' + std::to_string(attribute) + '\n';
}
std::string symlink_line(const std::string& name, const std::string& target) {
  return name + " symlink " + target + '\n';
}
std::string directory_line(const std::string& name) { return name + " directory\n"; }

FileOperation FileModel::choose(std::uint64_t number) const {
  stress::Random random(number * 2 + 1);
  std::string name = name_of(random.Below(kNames));
  const std::uint64_t dice = random.Next();
  return nodes_.contains(name) ? change(number, name, dice) : create(number, std::move(name), dice);
}

FileOperation FileModel::create(std::uint64_t number, std::string name, std::uint64_t dice) const {
  using Kind = FileOperation::Kind;
  FileOperation o{.kind = Kind::kPut,
                  .name = std::move(name),
                  .number = number,
                  .size = kSmallest + dice / 64 % kLargest};
  if (dice % 8 == 0) o.kind = Kind::kSymlink;
  if (dice % 8 == 1) o.kind = Kind::kDirectory;
  if (dice % 8 != 2) return o;
  for (const auto& [other, node] : nodes_) {
    if (node->kind != Node::Kind::kFile) continue;
    o.kind = Kind::kLink;
    o.to = std::exchange(o.name, other);
    break;
  }
  return o;
}

FileOperation FileModel::change(std::uint64_t number, const std::string& name,
                                std::uint64_t dice) const {
  using Kind = FileOperation::Kind;
  const Node& node = *nodes_.at(name);
  FileOperation o{.kind = Kind::kRemove,
                  .name = name,
                  .number = number,
                  .is_directory = node.kind == Node::Kind::kDirectory};
  const std::string to = name_of(dice / 64 % kNames);
  const auto there = nodes_.find(to);
  // Not over a directory, and not over another name of the same file: that renames nothing.
  const bool may_rename = there == nodes_.end() ||
                          (there->second->kind != Node::Kind::kDirectory &&
                           node.kind != Node::Kind::kDirectory && there->second.get() != &node);
  const std::uint64_t kind = dice % 8;
  if (kind < 2 && may_rename) {
    o.kind = Kind::kRename;
    o.to = to;
  }
  if (node.kind != Node::Kind::kFile || kind < 3) return o;
  if (kind == 3) {
    o.kind = Kind::kPut;
    o.size = kSmallest + dice / 64 % kLargest;
  } else if (kind == 4 && node.mode != mode_of(number)) {
    o.kind = Kind::kMode;
  } else if (kind == 5) {
    o.kind = Kind::kAttribute;
  } else if (kind == 6 && node.size > kPage) {
    o.kind = Kind::kCut;
    o.size = (node.size - 1) / kPage * kPage;
  } else {
    o.kind = Kind::kStore;
  }
  return o;
}

void FileModel::update_crc(Node& node) {
  std::vector<char> bytes = file_contents(node.version, node.size);
  if (node.word != 0) std::memcpy(bytes.data(), &node.word, sizeof(node.word));
  node.crc = stress::Crc32(bytes.data(), bytes.size());
}

void FileModel::apply(const FileOperation& o) {
  using Kind = FileOperation::Kind;
  switch (o.kind) {
    case Kind::kPut: {
      auto node = std::make_shared<Node>();
      node->version = o.number;
      node->size = o.size;
      node->mode = mode_of(o.number);
      update_crc(*node);
      nodes_[o.name] = node;
      break;
    }
    case Kind::kLink:
      nodes_[o.to] = nodes_.at(o.name);
      break;
    case Kind::kRename:
      nodes_[o.to] = nodes_.at(o.name);
      nodes_.erase(o.name);
      break;
    case Kind::kRemove:
      nodes_.erase(o.name);
      break;
    case Kind::kMode:
      nodes_.at(o.name)->mode = mode_of(o.number);
      break;
    case Kind::kAttribute:
      nodes_.at(o.name)->attribute = o.number;
      break;
    case Kind::kCut:
      nodes_.at(o.name)->size = o.size;
      update_crc(*nodes_.at(o.name));
      break;
    case Kind::kStore:
      nodes_.at(o.name)->word = o.number;
      update_crc(*nodes_.at(o.name));
      break;
    case Kind::kSymlink:
    case Kind::kDirectory: {
      auto node = std::make_shared<Node>();
      node->kind = o.kind == Kind::kSymlink ? Node::Kind::kSymlink : Node::Kind::kDirectory;
      node->version = o.number;
      nodes_[o.name] = node;
      break;
    }
  }
}

std::string FileModel::text() const {
  std::map<const Node*, std::string> first_links;
  std::string text;
  for (const auto& [name, node] : nodes_) {
    switch (node->kind) {
      case Node::Kind::kFile: {
        const std::string& first = first_links.emplace(node.get(), name).first->second;
        text += file_line(name, first, node->size, node->crc, node->mode, node->attribute);
        break;
      }
      case Node::Kind::kSymlink:
        text += symlink_line(name, target_of(node->version));
        break;
      case Node::Kind::kDirectory:
        text += directory_line(name);
        break;
    }
  }
  return text;
}

}  // namespace btd::vm
