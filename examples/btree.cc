// A B+tree that survives kill -9.
//
//   btree DIRECTORY put KEY VALUE | get KEY | remove KEY | show
//   btree DIRECTORY work        changes it at random until killed
//   btree DIRECTORY verify      compares it with a model, and looks for leaks
//
// Every change is one transaction (contract T). Nodes are changed as working copies: edit() gives
// one, view() reads a node as the transaction has it. A node is removed when it is empty, as
// databases do it (Johnson & Shasha, "B-trees with inserts and deletes", 1993), so that no
// rebalancing is needed.
#include <bartender.hpp>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <optional>
#include <string>

#include "crash_test.h"

namespace {

using Key = std::uint64_t;
using Value = std::uint64_t;

constexpr std::uint32_t kMaxKeys = 31;

// Eight lines. An inner node has a child more than keys; child i has the keys below keys[i].
struct Node {
  std::uint32_t leaf;
  std::uint32_t count;  // of keys
  Key keys[kMaxKeys];
  union {
    Value values[kMaxKeys + 1];
    Node* children[kMaxKeys + 1];
  };
};
static_assert(sizeof(Node) == 512);

// The root object. Its members are changed by assignment.
struct Tree {
  btd::ptr<Node> root;
  btd::persistent<std::uint64_t> size;
  btd::persistent<std::uint64_t> operations;
};

[[noreturn]] void broken(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

const Node& view(const Node* node) { return *static_cast<const Node*>(btd_tx_get(node)); }

Node& edit(Node* node) {
  void* const copy = btd_tx_add(node, sizeof(Node));
  if (copy == nullptr) throw btd::error(errno, std::generic_category(), btd_strerror());
  return *static_cast<Node*>(copy);
}

template <class T>
void insert_at(T* array, std::uint32_t count, std::uint32_t at, T value) {
  std::memmove(array + at + 1, array + at, (count - at) * sizeof(T));
  array[at] = value;
}
template <class T>
void remove_at(T* array, std::uint32_t count, std::uint32_t at) {
  std::memmove(array + at, array + at + 1, (count - at - 1) * sizeof(T));
}

// The first key that is not below `key`; in an inner node, the child to go to.
std::uint32_t lower_bound(const Node& node, Key key) {
  return static_cast<std::uint32_t>(std::lower_bound(node.keys, node.keys + node.count, key) -
                                    node.keys);
}
std::uint32_t child_of(const Node& node, Key key) {
  return static_cast<std::uint32_t>(std::upper_bound(node.keys, node.keys + node.count, key) -
                                    node.keys);
}

std::optional<Value> find(const Tree& tree, Key key) {
  const Node* node = tree.root;
  if (node == nullptr) return {};
  while (!view(node).leaf) node = view(node).children[child_of(view(node), key)];
  const Node& leaf = view(node);
  const std::uint32_t at = lower_bound(leaf, key);
  if (at == leaf.count || leaf.keys[at] != key) return {};
  return leaf.values[at];
}

// The right half of a node that was full; `separator` is the least key there.
struct Split {
  Node* right = nullptr;
  Key separator = 0;
};

Split split(Node* node) {
  Node& left = edit(node);
  Node* const made = btd::make_persistent<Node>();
  Node& right = edit(made);
  const std::uint32_t half = kMaxKeys / 2;
  const Key separator = left.keys[half];
  right.leaf = left.leaf;
  // The middle key stays with a leaf's right half, and moves up from an inner node.
  const std::uint32_t from = left.leaf ? half : half + 1;
  right.count = kMaxKeys - from;
  std::memcpy(right.keys, left.keys + from, right.count * sizeof(Key));
  std::memcpy(right.values, left.values + from, (right.count + 1) * sizeof(Value));
  left.count = half;
  return {made, separator};
}

// Puts into a subtree. True: the key is new.
bool put_below(Node* node, Key key, Value value) {
  for (;;) {
    if (view(node).leaf) break;
    const std::uint32_t at = child_of(view(node), key);
    Node* child = view(node).children[at];
    // Full nodes are split on the way down, so that there is room for what comes up.
    if (view(child).count == kMaxKeys) {
      const Split half = split(child);
      Node& inner = edit(node);
      insert_at(inner.keys, inner.count, at, half.separator);
      insert_at(inner.children, inner.count + 1, at + 1, half.right);
      ++inner.count;
      if (key >= half.separator) child = half.right;
    }
    node = child;
  }
  Node& leaf = edit(node);
  const std::uint32_t at = lower_bound(leaf, key);
  if (at < leaf.count && leaf.keys[at] == key) {
    leaf.values[at] = value;
    return false;
  }
  insert_at(leaf.keys, leaf.count, at, key);
  insert_at(leaf.values, leaf.count, at, value);
  ++leaf.count;
  return true;
}

void put(Tree& tree, Key key, Value value) {
  if (!tree.root) {
    Node leaf{};
    leaf.leaf = 1;
    tree.root = btd::make_persistent<Node>(leaf);
  }
  if (view(tree.root).count == kMaxKeys) {
    const Split half = split(tree.root);
    Node top{};
    top.count = 1;
    top.keys[0] = half.separator;
    top.children[0] = tree.root;
    top.children[1] = half.right;
    tree.root = btd::make_persistent<Node>(top);
  }
  if (put_below(tree.root, key, value)) ++tree.size;
}

enum class Removed { kNothing, kKey, kWholeNode };

Removed remove_below(Node* node, Key key) {
  if (view(node).leaf) {
    const std::uint32_t at = lower_bound(view(node), key);
    if (at == view(node).count || view(node).keys[at] != key) return Removed::kNothing;
    if (view(node).count == 1) {
      btd::destroy(node);
      return Removed::kWholeNode;
    }
    Node& leaf = edit(node);
    remove_at(leaf.keys, leaf.count, at);
    remove_at(leaf.values, leaf.count, at);
    --leaf.count;
    return Removed::kKey;
  }
  const std::uint32_t at = child_of(view(node), key);
  const Removed below = remove_below(view(node).children[at], key);
  if (below != Removed::kWholeNode) return below;
  if (view(node).count == 0) {
    btd::destroy(node);
    return Removed::kWholeNode;
  }
  Node& inner = edit(node);
  remove_at(inner.children, inner.count + 1, at);
  remove_at(inner.keys, inner.count, at == 0 ? 0 : at - 1);
  --inner.count;
  return Removed::kKey;
}

void remove(Tree& tree, Key key) {
  if (!tree.root) return;
  const Removed removed = remove_below(tree.root, key);
  if (removed == Removed::kNothing) return;
  --tree.size;
  if (removed == Removed::kWholeNode) {
    tree.root = nullptr;
    return;
  }
  while (!view(tree.root).leaf && view(tree.root).count == 0) {
    Node* const top = tree.root;
    tree.root = view(top).children[0];
    btd::destroy(top);
  }
}

// Walks a subtree whose keys are in [from, to]: calls visit(key, value) in order, returns how many
// nodes it has. Every leaf is `depth` below.
template <class Visit>
std::uint64_t walk(const Node* node, Key from, Key to, int depth, Visit&& visit) {
  if ((node->leaf != 0) != (depth == 0)) broken("the leaves are not all at one depth");
  for (std::uint32_t i = 0; i < node->count; ++i) {
    const bool ordered = i == 0 || node->keys[i - 1] < node->keys[i];
    if (!ordered || node->keys[i] < from || node->keys[i] > to) broken("keys are out of order");
  }
  if (node->leaf) {
    for (std::uint32_t i = 0; i < node->count; ++i) visit(node->keys[i], node->values[i]);
    return 1;
  }
  std::uint64_t nodes = 1;
  for (std::uint32_t i = 0; i <= node->count; ++i) {
    nodes += walk(node->children[i], i == 0 ? from : node->keys[i - 1],
                  i == node->count ? to : node->keys[i] - 1, depth - 1, visit);
  }
  return nodes;
}

template <class Visit>
std::uint64_t walk(const Tree& tree, Visit&& visit) {
  if (!tree.root) return 0;
  int depth = 0;
  for (const Node* node = tree.root; !node->leaf; node = node->children[0]) ++depth;
  return walk(tree.root, 0, UINT64_MAX, depth, visit);
}

// Operation i: puts or removes one of some thousand keys; now the one, now the other is likelier,
// so that the tree grows and shrinks.
struct Operation {
  bool puts;
  Key key;
  Value value;
};
Operation operation(std::uint64_t i) {
  const std::uint64_t dice = random_of(i);
  const bool growing = i / 8192 % 2 == 0;
  return {(dice & 3U) < (growing ? 3U : 1U), (dice >> 8U) % 4096, dice};
}

void work(btd_cluster* heap, Tree& tree, std::uint64_t* acknowledged) {
  for (std::uint64_t i = tree.operations;; ++i) {
    const Operation next = operation(i);
    btd::transaction(heap, [&] {
      if (next.puts) {
        put(tree, next.key, next.value);
      } else {
        remove(tree, next.key);
      }
      tree.operations = i + 1;
    });
    acknowledge(acknowledged, i + 1);
  }
}

void verify(btd_cluster* heap, const Tree& tree, std::uint64_t* acknowledged) {
  check_operations(acknowledged, tree.operations);
  std::map<Key, Value> model;
  for (std::uint64_t i = 0; i < tree.operations; ++i) {
    const Operation next = operation(i);
    if (next.puts) {
      model[next.key] = next.value;
    } else {
      model.erase(next.key);
    }
  }
  auto expected = model.begin();
  const std::uint64_t nodes = walk(tree, [&](Key key, Value value) {
    if (expected == model.end() || *expected != std::pair<const Key, Value>(key, value)) {
      broken("key " + std::to_string(key) + " is not as it should be");
    }
    if (find(tree, key) != value) broken("key " + std::to_string(key) + " is not found");
    ++expected;
  });
  if (expected != model.end() || tree.size != model.size()) broken("keys are missing");
  check_blocks(heap, nodes);
  acknowledge(acknowledged, tree.operations);
  std::printf("intact after %" PRIu64 " operations: %zu keys in %" PRIu64 " nodes, no leak\n",
              tree.operations.get(), model.size(), nodes);
}

int run(int argc, char** argv) {
  btd::cluster heap(argv[1], "btree");
  Tree& tree = *btd::root_or_make<Tree>(heap, "tree");
  const std::string command = argv[2];
  const auto number = [&](int i) { return std::strtoull(argv[i], nullptr, 10); };
  if (command == "put" && argc == 5) {
    btd::transaction(heap, [&] { put(tree, number(3), number(4)); });
  } else if (command == "remove" && argc == 4) {
    btd::transaction(heap, [&] { remove(tree, number(3)); });
  } else if (command == "get" && argc == 4) {
    const std::optional<Value> found = find(tree, number(3));
    if (!found) broken("there is no such key");
    std::printf("%" PRIu64 "\n", *found);
  } else if (command == "show") {
    walk(tree, [](Key key, Value value) { std::printf("%" PRIu64 " %" PRIu64 "\n", key, value); });
  } else if (command == "work") {
    work(heap, tree, acknowledged_word(argv[1]));
  } else if (command == "verify") {
    verify(heap, tree, acknowledged_word(argv[1]));
  } else {
    broken("btree knows no " + command);
  }
  heap.close();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr,
                 "usage: btree DIRECTORY put KEY VALUE | get KEY | remove KEY | show | work | "
                 "verify\n");
    return 2;
  }
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "btree: %s\n", error.what());
    return 1;
  }
}
