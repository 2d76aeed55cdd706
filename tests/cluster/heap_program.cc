// A program with a heap, told what to do by lines on its standard input: one command a line, one
// answer a line, "ok ..." or "error ERRNO SENTENCE". Addresses are hexadecimal. heap.py runs some
// on the nodes of a cluster.
#include <bartender.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Words = std::vector<std::string>;

btd_cluster* g_heap = nullptr;

std::string failed() {
  return "error " + std::to_string(errno) + " " + strerrorname_np(errno) + " " + btd_strerror();
}
std::string ok(const std::string& text = "") { return text.empty() ? "ok" : "ok " + text; }
std::string answer(bool good) { return good ? ok() : failed(); }

std::string hex(const void* at) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", at);
  return text;
}
void* address(const std::string& text) {
  return reinterpret_cast<void*>(std::strtoull(text.c_str(), nullptr, 16));
}
std::uint64_t number(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 0); }

unsigned char pattern(std::uint64_t seed, std::uint64_t i) {
  return static_cast<unsigned char>((seed * 31 + i) * 2654435761U >> 13);
}
void fill(void* at, std::uint64_t bytes, std::uint64_t seed) {
  auto* const to = static_cast<unsigned char*>(at);
  for (std::uint64_t i = 0; i < bytes; ++i) to[i] = pattern(seed, i);
}
std::string check(const void* at, std::uint64_t bytes, std::uint64_t seed) {
  const auto* const from = static_cast<const volatile unsigned char*>(at);
  for (std::uint64_t i = 0; i < bytes; ++i) {
    if (from[i] != pattern(seed, i))
      return "error 0 BAD byte " + std::to_string(i) + " of " + std::to_string(bytes) + " at " +
             hex(at);
  }
  return ok();
}

// open DIRECTORY NAME ARENA_MIB [process] [touch] [manual]
std::string open(const Words& w) {
  btd_config config;
  btd_config_init(&config);
  config.directory = w.at(1).c_str();
  config.heap = w.at(2).c_str();
  config.arena_bytes = number(w.at(3)) << 20;
  for (std::size_t i = 4; i < w.size(); ++i) {
    if (w[i] == "process") config.durability = BTD_PROCESS;
    if (w[i] == "touch") config.map_on_touch = 1;
    if (w[i] == "manual") config.gc = BTD_GC_MANUAL;
    if (w[i] == "reader") config.reader = 1;
  }
  g_heap = btd_cluster_create(&config);
  return g_heap != nullptr ? ok(hex(btd_cluster_base(g_heap))) : failed();
}

// several COUNT SEED: blocks of many sizes, each filled: ADDRESS:BYTES:SEED ...
std::string several(const Words& w) {
  std::mt19937_64 random(number(w.at(2)));
  std::string made;
  for (std::uint64_t i = 0; i < number(w.at(1)); ++i) {
    const std::uint64_t bytes =
        random() % 50 == 0 ? 50'000 + random() % 100'000 : 1 + random() % 2000;
    void* const block = btd_malloc(g_heap, bytes);
    if (block == nullptr) return failed();
    const std::uint64_t seed = random() % 1000;
    fill(block, bytes, seed);
    made += " " + hex(block) + ":" + std::to_string(bytes) + ":" + std::to_string(seed);
  }
  return "ok" + made;
}

// look ADDRESS:BYTES:SEED ...
std::string look(const Words& w) {
  for (std::size_t i = 1; i < w.size(); ++i) {
    const std::size_t a = w[i].find(':');
    const std::size_t b = w[i].find(':', a + 1);
    void* const at = address(w[i].substr(0, a));
    const std::uint64_t bytes = number(w[i].substr(a + 1, b - a - 1));
    if (btd_map(at, bytes) != 0) return failed();
    const std::string seen = check(at, bytes, number(w[i].substr(b + 1)));
    if (seen != "ok") return seen;
  }
  return ok();
}

std::string free_all(const Words& w) {
  for (std::size_t i = 1; i < w.size(); ++i) {
    errno = 0;
    btd_free(address(w[i]));
    if (errno != 0) return failed();
  }
  return ok();
}

// A list by contract T, under a mutex: what each node is to see whole.
struct List {
  btd_mutex mutex;
  std::uint64_t pad[7];
  std::uint64_t length;
  struct Node* head;
};
struct Node {
  Node* next;
  std::uint64_t value;
};

std::string make_list(const Words& w) {
  auto* const list = static_cast<List*>(btd_calloc(g_heap, 1, sizeof(List)));
  if (list == nullptr || btd_persist(list, sizeof *list) != 0 ||
      btd_set_root(g_heap, w.at(1).c_str(), list) != 0)
    return failed();
  return ok(hex(list));
}

// push ROOT COUNT FIRST
std::string push(const Words& w) {
  auto* const list = static_cast<List*>(btd_root(g_heap, w.at(1).c_str()));
  if (list == nullptr) return failed();
  for (std::uint64_t i = 0; i < number(w.at(2)); ++i) {
    if (btd_mutex_lock(&list->mutex) < 0) return failed();
    int result = btd_tx_begin(g_heap);
    auto* const node = static_cast<Node*>(result == 0 ? btd_tx_alloc(sizeof(Node)) : nullptr);
    if (node == nullptr) return failed();
    auto* const fresh = static_cast<Node*>(btd_tx_add(node, sizeof *node));
    if (fresh == nullptr) return failed();
    *fresh = {.next = list->head, .value = number(w.at(3)) + i};
    const std::uint64_t length = list->length + 1;
    if (btd_tx_set(&list->head, &node, sizeof node) != 0 ||
        btd_tx_set(&list->length, &length, sizeof length) != 0 || btd_tx_commit() != 0)
      return failed();
    if (btd_mutex_unlock(&list->mutex) != 0) return failed();
  }
  return ok();
}

// pop ROOT COUNT: frees blocks of T, whoever allocated them
std::string pop(const Words& w) {
  auto* const list = static_cast<List*>(btd_root(g_heap, w.at(1).c_str()));
  if (list == nullptr) return failed();
  for (std::uint64_t i = 0; i < number(w.at(2)); ++i) {
    if (btd_mutex_lock(&list->mutex) < 0) return failed();
    Node* const node = list->head;
    const std::uint64_t length = list->length - 1;
    if (btd_map(node, sizeof *node) != 0 || btd_tx_begin(g_heap) != 0 ||
        btd_tx_set(&list->head, &node->next, sizeof node) != 0 ||
        btd_tx_set(&list->length, &length, sizeof length) != 0 || btd_tx_free(node) != 0 ||
        btd_tx_commit() != 0)
      return failed();
    if (btd_mutex_unlock(&list->mutex) != 0) return failed();
  }
  return ok();
}

// list ROOT: its length and the sum of its values
std::string walk(const Words& w) {
  auto* const list = static_cast<List*>(btd_root(g_heap, w.at(1).c_str()));
  if (list == nullptr || btd_map(list, sizeof *list) != 0) return failed();
  std::uint64_t count = 0;
  std::uint64_t sum = 0;
  for (Node* node = list->head; node != nullptr; node = node->next) {
    if (btd_map(node, sizeof *node) != 0) return failed();
    ++count;
    sum += node->value;
  }
  if (count != list->length) return "error 0 BAD length " + std::to_string(list->length);
  return ok(std::to_string(count) + " " + std::to_string(sum));
}

// count MUTEX WORD TIMES: plain increments under the mutex
std::string count(const Words& w) {
  auto* const mutex = static_cast<btd_mutex*>(address(w.at(1)));
  auto* const word = static_cast<volatile std::uint64_t*>(address(w.at(2)));
  if (btd_map(mutex, 8) != 0 || btd_map(address(w.at(2)), 8) != 0) return failed();
  for (std::uint64_t i = 0; i < number(w.at(3)); ++i) {
    if (btd_mutex_lock(mutex) < 0) return failed();
    *word = *word + 1;
    if (btd_mutex_unlock(mutex) != 0) return failed();
  }
  return ok();
}

std::string stats() {
  btd_statistics s{};
  if (btd_stats(g_heap, &s) != 0) return failed();
  return ok(std::to_string(s.arenas) + " " + std::to_string(s.allocated_bytes) + " " +
            std::to_string(s.was_clean) + " " + std::to_string(s.recovering));
}

std::string locked(int result) {
  return result < 0 ? failed() : ok(result == BTD_MUTEX_OWNER_DIED ? "died" : "free");
}

const std::map<std::string, std::function<std::string(const Words&)>> kCommands = {
    {"open", open},
    {"close",
     [](const Words&) {
       const int closed = btd_cluster_destroy(g_heap);
       g_heap = nullptr;
       return answer(closed == 0);
     }},
    {"malloc",
     [](const Words& w) {
       void* const block = btd_malloc(g_heap, number(w.at(1)));
       return block != nullptr ? ok(hex(block)) : failed();
     }},
    {"calloc",
     [](const Words& w) {
       void* const block = btd_calloc(g_heap, 1, number(w.at(1)));
       return block != nullptr ? ok(hex(block)) : failed();
     }},
    {"fill",
     [](const Words& w) {
       fill(address(w.at(1)), number(w.at(2)), number(w.at(3)));
       return ok();
     }},
    {"check",
     [](const Words& w) { return check(address(w.at(1)), number(w.at(2)), number(w.at(3))); }},
    {"several", several},
    {"look", look},
    {"free", free_all},
    {"map", [](const Words& w) { return answer(btd_map(address(w.at(1)), number(w.at(2))) == 0); }},
    {"acquire",
     [](const Words& w) { return answer(btd_acquire(address(w.at(1)), number(w.at(2))) == 0); }},
    {"release",
     [](const Words& w) { return answer(btd_release(address(w.at(1)), number(w.at(2))) == 0); }},
    {"tx_alloc",
     [](const Words& w) {
       void* const block = btd_tx_begin(g_heap) == 0 ? btd_tx_alloc(number(w.at(1))) : nullptr;
       return block != nullptr && btd_tx_commit() == 0 ? ok(hex(block)) : failed();
     }},
    {"tx_set",
     [](const Words& w) {
       const std::uint64_t value = number(w.at(2));
       return answer(btd_tx_begin(g_heap) == 0 &&
                     btd_tx_set(address(w.at(1)), &value, sizeof value) == 0 &&
                     btd_tx_commit() == 0);
     }},
    {"persist",
     [](const Words& w) { return answer(btd_persist(address(w.at(1)), number(w.at(2))) == 0); }},
    {"set_root",
     [](const Words& w) {
       return answer(btd_set_root(g_heap, w.at(1).c_str(), address(w.at(2))) == 0);
     }},
    {"root",
     [](const Words& w) {
       void* const found = btd_root(g_heap, w.at(1).c_str());
       return found != nullptr ? ok(hex(found)) : failed();
     }},
    {"usable",
     [](const Words& w) {
       errno = 0;
       const std::size_t bytes = btd_usable_size(address(w.at(1)));
       return bytes != 0 ? ok(std::to_string(bytes)) : failed();
     }},
    {"make_list", make_list},
    {"push", push},
    {"pop", pop},
    {"list", walk},
    {"count", count},
    {"add",
     [](const Words& w) {
       const std::atomic_ref word(*static_cast<std::uint64_t*>(address(w.at(1))));
       for (std::uint64_t i = 0; i < number(w.at(2)); ++i) word.fetch_add(1);
       return ok();
     }},
    {"word",
     [](const Words& w) {
       return ok(std::to_string(*static_cast<volatile std::uint64_t*>(address(w.at(1)))));
     }},
    {"lock",
     [](const Words& w) {
       return locked(btd_mutex_lock(static_cast<btd_mutex*>(address(w.at(1)))));
     }},
    {"trylock",
     [](const Words& w) {
       return locked(btd_mutex_trylock(static_cast<btd_mutex*>(address(w.at(1)))));
     }},
    {"timedlock",
     [](const Words& w) {
       return locked(btd_mutex_timedlock(static_cast<btd_mutex*>(address(w.at(1))),
                                         static_cast<unsigned>(number(w.at(2)))));
     }},
    {"unlock",
     [](const Words& w) {
       return answer(btd_mutex_unlock(static_cast<btd_mutex*>(address(w.at(1)))) == 0);
     }},
    {"stats", [](const Words&) { return stats(); }},
    {"gc", [](const Words&) { return answer(btd_gc(g_heap) == 0); }},
    {"checkpoint", [](const Words&) { return answer(btd_checkpoint(g_heap) == 0); }},
    {"problems",
     [](const Words&) {
       std::string said;
       const long found = btd_check(
           g_heap,
           [](const char* sentence, void* to) {
             *static_cast<std::string*>(to) += std::string(sentence) + " ";
           },
           &said);
       if (found == 0) return ok();
       return found < 0 ? failed() : "error 0 BAD " + said;
     }},
};

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream parts(line);
    Words words;
    for (std::string word; parts >> word;) words.push_back(word);
    const auto found = words.empty() ? kCommands.end() : kCommands.find(words[0]);
    std::cout << (found == kCommands.end() ? "error 0 BAD command" : found->second(words))
              << std::endl;
  }
  // What a test did not close is as after a kill: exit() would close it.
  _exit(0);
}
