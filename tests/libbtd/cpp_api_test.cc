// bartender.hpp as programs use it: this one source is built as C++17, 20 and 23.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bartender.hpp>
#include <filesystem>
#include <functional>
#include <list>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#if __has_include(<boost/container/flat_map.hpp>)
#include <boost/container/flat_map.hpp>
#include <boost/container/map.hpp>
#include <boost/container/string.hpp>
#include <boost/container/vector.hpp>
#define HAS_BOOST 1
#endif

namespace {

template <class T>
using Vector = std::vector<T, btd::allocator<T>>;
using String = std::basic_string<char, std::char_traits<char>, btd::allocator<char>>;
template <class K, class V>
using Map = std::map<K, V, std::less<>, btd::allocator<std::pair<const K, V>>>;

class CppApi : public testing::Test {
 protected:
  CppApi() {
    char path[] = "/dev/shm/libbtd_cpp.XXXXXX";
    directory_ = mkdtemp(path);
    open();
  }
  ~CppApi() override {
    heap_.reset();
    std::filesystem::remove_all(directory_);
  }

  void open() {
    btd_config config;
    btd_config_init(&config);
    config.directory = directory_.c_str();
    config.arena_bytes = std::uint64_t{64} << 20;
    heap_.emplace(config);
    heap_->make_default();
  }
  void reopen() {
    heap_->close();
    open();
  }
  // The heap is left by a process that dies in the middle.
  void crash_in(const std::function<void()>& body) {
    heap_->close();
    const pid_t child = fork();
    if (child == 0) {
      open();
      body();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    open();
  }

  std::string directory_;
  std::optional<btd::cluster> heap_;
};

TEST_F(CppApi, ContainersSurviveAReopen) {
  struct Everything {
    Vector<int> numbers;
    std::list<long, btd::allocator<long>> list;
    Map<int, String> names;
    std::unordered_map<int, int, std::hash<int>, std::equal_to<>,
                       btd::allocator<std::pair<const int, int>>>
        squares;
    String text;
  };
  auto* const made = btd::root_or_make<Everything>(*heap_, "everything");
  made->numbers.resize(100'000);
  std::iota(made->numbers.begin(), made->numbers.end(), 0);
  made->list.assign({3, 2, 1});
  for (int i = 0; i < 1000; ++i) {
    made->names.emplace(i, std::string(40, static_cast<char>('a' + i % 26)).c_str());
    made->squares[i] = i * i;
  }
  made->text = "a text that is too long for the string's own buffer";
  const int* const data = made->numbers.data();
  btd::sync(*heap_);
  reopen();

  auto* const found = btd::root<Everything>(*heap_, "everything");
  ASSERT_EQ(found, made);
  EXPECT_EQ(found->numbers.data(), data);
  EXPECT_EQ(std::accumulate(found->numbers.begin(), found->numbers.end(), 0L), 4'999'950'000L);
  EXPECT_EQ(found->list.front(), 3);
  EXPECT_EQ(found->names.at(27), std::string(40, 'b').c_str());
  EXPECT_EQ(found->squares.at(999), 998'001);
  EXPECT_EQ(found->text, "a text that is too long for the string's own buffer");
  // They go on where they were: the allocator inside found its heap again.
  for (int i = 0; i < 1000; ++i) found->names.erase(i);
  found->numbers.push_back(1);
  EXPECT_EQ(btd_cluster_of(found->numbers.data()), heap_->get());
  btd::destroy_recoverable(found);
  ASSERT_EQ(btd_set_root(*heap_, "everything", nullptr), 0);
  EXPECT_EQ(btd_check(*heap_, nullptr, nullptr), 0);
}

TEST_F(CppApi, ContainersWorkAfterADeathBetweenChanges) {
  crash_in([&] {
    auto* const names = btd::root_or_make<Map<int, String>>(*heap_, "names");
    for (int i = 0; i < 1000; ++i)
      names->emplace(i, std::string(static_cast<std::size_t>(i % 60), 'x').c_str());
  });
  auto* const names = btd::root<Map<int, String>>(*heap_, "names");
  ASSERT_NE(names, nullptr);
  ASSERT_EQ(names->size(), 1000U);
  for (const auto& [number, name] : *names)
    EXPECT_EQ(name.size(), static_cast<unsigned>(number) % 60U);
  names->clear();
}

#ifdef HAS_BOOST
TEST_F(CppApi, BoostContainersSurviveAReopen) {
  namespace bc = boost::container;
  using Text = bc::basic_string<char, std::char_traits<char>, btd::allocator<char>>;
  struct Everything {
    bc::flat_map<int, Text, std::less<>, btd::allocator<std::pair<int, Text>>> flat;
    bc::map<int, int, std::less<int>, btd::allocator<std::pair<const int, int>>> tree;
    bc::vector<int, btd::allocator<int>> numbers;
  };
  auto* const made = btd::root_or_make<Everything>(*heap_, "boost");
  for (int i = 0; i < 500; ++i) {
    made->flat.emplace(500 - i, Text(50, 'q'));
    made->tree.emplace(i, -i);
    made->numbers.push_back(i);
  }
  reopen();
  auto* const found = btd::root<Everything>(*heap_, "boost");
  ASSERT_EQ(found, made);
  EXPECT_EQ(found->flat.size(), 500U);
  EXPECT_EQ(found->flat.at(7), Text(50, 'q'));
  EXPECT_EQ(found->tree.at(77), -77);
  EXPECT_EQ(found->numbers.back(), 499);
  btd::destroy_recoverable(found);
}
#else
TEST_F(CppApi, BoostContainersSurviveAReopen) {
  GTEST_SKIP() << "Boost.Container is not installed (libboost-dev)";
}
#endif

TEST_F(CppApi, AnAllocatorThrowsWhereThereIsNoMemory) {
  EXPECT_THROW((void)btd::allocator<char>(*heap_).allocate(std::size_t{1} << 50), std::bad_alloc);
  EXPECT_THROW((void)btd::allocator<long>(*heap_).allocate(SIZE_MAX / 4),
               std::bad_array_new_length);
  EXPECT_THROW((void)btd::allocator<int>(static_cast<btd_cluster*>(nullptr)).allocate(1),
               std::bad_alloc);
  struct alignas(256) Wide {
    char bytes[256];
  };
  Vector<Wide> wide(3);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(wide.data()) % 256, 0U);
}

TEST_F(CppApi, AllocatorsOfOneHeapAreEqualAndOfTwoAreNot) {
  btd_config config;
  btd_config_init(&config);
  config.directory = directory_.c_str();
  config.heap = "other";
  config.arena_bytes = std::uint64_t{64} << 20;
  btd::cluster other(config);
  EXPECT_EQ(btd::allocator<int>(*heap_), btd::allocator<char>());
  EXPECT_NE(btd::allocator<int>(*heap_), btd::allocator<int>(other));
  // Elements move over, not the memory: each container stays in its heap.
  Vector<int> here({1, 2, 3}, *heap_);
  Vector<int> there(btd::allocator<int>{other});
  there = std::move(here);
  EXPECT_EQ(btd_cluster_of(there.data()), other.get());
  EXPECT_EQ(there[2], 3);
}

struct Point {
  long x;
  long y;
  int z;
};
struct Account {
  btd::persistent<long> balance{100};
  btd::persistent<int> changes;
  btd::persistent<Point> place;
  btd::ptr<Account> next;
};

TEST_F(CppApi, AnAssignmentOutsideATransactionIsDurable) {
  crash_in([&] {
    auto* const account = btd::root_or_make<Account>(*heap_, "account");
    account->balance = 7;
    account->balance += 3;
    account->changes++;
    account->place = Point{1, 2, 3};
    account->next = account;
  });
  auto* const account = btd::root<Account>(*heap_, "account");
  EXPECT_EQ(account->balance, 10);
  EXPECT_EQ(account->changes, 1);
  EXPECT_EQ(account->place.get().z, 3);
  EXPECT_EQ(account->next, account);
  EXPECT_EQ(account->next->balance, 10);
}

TEST_F(CppApi, ATransactionReadsItsOwnWritesAndNobodyElseDoes) {
  auto* const account = btd::root_or_make<Account>(*heap_, "account");
  btd::transaction(*heap_, [&] {
    account->balance = 1;
    account->place = Point{4, 5, 6};
    account->balance += 1;
    EXPECT_EQ(account->balance, 2);
    EXPECT_EQ(account->place.get().y, 5);
    std::thread([&] {
      EXPECT_EQ(account->balance, 100);
      EXPECT_EQ(account->place.get().y, 0);
    }).join();
    // A working copy of all of it takes over what was set, and what is set from now on.
    auto* const copy = static_cast<Account*>(btd_tx_add(account, sizeof(Account)));
    ASSERT_NE(copy, nullptr);
    EXPECT_EQ(copy->balance, 2);
    copy->changes = 9;
    EXPECT_EQ(account->changes, 9);
    account->balance = 3;
    EXPECT_EQ(copy->balance, 3);
    EXPECT_EQ(account->balance, 3);
  });
  EXPECT_EQ(account->balance, 3);
  EXPECT_EQ(account->changes, 9);
  EXPECT_EQ(account->place.get().z, 6);
}

TEST_F(CppApi, PiecesOfWordsAddUp) {
  auto* const bytes = static_cast<char*>(btd_calloc(*heap_, 1, 64));
  btd_memcpy(bytes, "abcdefghijklmnopqrstuvwxyz", 26);
  btd::transaction(*heap_, [&] {
    EXPECT_EQ(btd_tx_set(bytes + 1, "12", 2), 0);
    EXPECT_EQ(btd_tx_set(bytes + 2, "34567890", 8), 0);
    char seen[26];
    btd_tx_read(seen, bytes, sizeof seen);
    EXPECT_EQ(std::memcmp(seen, "a134567890klmnopqrstuvwxyz", 26), 0);
    ASSERT_NE(btd_tx_add(bytes + 8, 8), nullptr);
    btd_tx_read(seen, bytes + 3, 10);
    EXPECT_EQ(std::memcmp(seen, "4567890klm", 10), 0);
    EXPECT_EQ(std::memcmp(bytes, "abcdefghij", 10), 0);
  });
  EXPECT_STREQ(bytes, "a134567890klmnopqrstuvwxyz");
  btd_free(bytes);
}

TEST_F(CppApi, AnExceptionAbortsAndComesOut) {
  auto* const account = btd::root_or_make<Account>(*heap_, "account");
  const auto used = [&] {
    btd_statistics stats;
    EXPECT_EQ(btd_stats(*heap_, &stats), 0);
    return stats.allocated_bytes;
  };
  const std::uint64_t before = used();
  EXPECT_THROW(btd::transaction(*heap_,
                                [&] {
                                  account->balance = 1;
                                  account->next = btd::make_persistent<Account>();
                                  throw std::runtime_error("no");
                                }),
               std::runtime_error);
  EXPECT_EQ(btd_tx_depth(), 0U);
  EXPECT_EQ(btd_tx_result(), ECANCELED);
  EXPECT_EQ(account->balance, 100);
  EXPECT_EQ(account->next, nullptr);
  EXPECT_EQ(used(), before);
}

TEST_F(CppApi, AnInnerAbortIsNotLost) {
  auto* const account = btd::root_or_make<Account>(*heap_, "account");
  try {
    btd::transaction(*heap_, [&] {
      account->balance = 1;
      try {
        btd::transaction(*heap_, [&] {
          account->balance = 2;
          throw std::runtime_error("inner");
        });
      } catch (const std::runtime_error&) {
      }
    });
    FAIL() << "the outer one committed";
  } catch (const btd::error& error) {
    EXPECT_EQ(error.code().value(), ECANCELED);
  }
  EXPECT_EQ(account->balance, 100);
  EXPECT_EQ(btd_tx_depth(), 0U);
}

TEST_F(CppApi, ATransactionReturnsWhatItsBodyReturns) {
  auto* const account = btd::root_or_make<Account>(*heap_, "account");
  EXPECT_EQ(btd::transaction(*heap_, [&] { return account->balance.get(); }), 100);
  auto& same = btd::transaction(*heap_, [&]() -> Account& { return *account; });
  EXPECT_EQ(&same, account);
  EXPECT_EQ(*btd::transaction(*heap_, [] { return std::make_unique<int>(4); }), 4);
}

TEST_F(CppApi, ABodyThatEndsTheTransactionIsToldSo) {
  EXPECT_THROW(btd::transaction(*heap_, [] { (void)btd_tx_commit(); }), btd::error);
  EXPECT_THROW(btd::transaction(*heap_, [&] { (void)btd_tx_begin(*heap_); }), btd::error);
  EXPECT_EQ(btd_tx_depth(), 0U);
}

struct Node {
  explicit Node(long n) : number(n), plain(n) { number += 1; }
  btd::persistent<long> number;
  long plain;
  btd::ptr<Node> next;
};

TEST_F(CppApi, ObjectsAreThereWhenTheirTransactionCommits) {
  crash_in([&] {
    auto* const head = btd::root_or_make<btd::ptr<Node>>(*heap_, "head");
    btd::transaction(*heap_, [&] {
      for (long i = 0; i < 3; ++i) {
        Node* const node = btd::make_persistent<Node>(i);
        EXPECT_EQ(node->plain, i);
        EXPECT_EQ(node->number, i + 1);
        node->next = *head;
        *head = node;
        EXPECT_EQ((*head)->number, i + 1);
      }
    });
    EXPECT_THROW((void)btd::make_persistent<Node>(1), btd::error);
    ASSERT_EQ(btd_tx_begin(*heap_), 0);
    *head = btd::make_persistent<Node>(99);
  });
  auto* const head = btd::root<btd::ptr<Node>>(*heap_, "head");
  long expected = 3;
  for (btd::ptr<Node> at = *head; at; at = at->next) {
    EXPECT_EQ(at->number, expected--);
    EXPECT_EQ(at->plain, expected);
  }
  EXPECT_EQ(expected, 0);
  btd::transaction(*heap_, [&] {
    while (*head) {
      const btd::ptr<Node> gone = *head;
      *head = gone->next;
      btd::destroy(gone);
    }
  });
  EXPECT_EQ(*head, nullptr);
  int left = 0;
  const auto count = [](const btd_object* object, void* to) {
    *static_cast<int*>(to) += object->contract == 'T' ? 1 : 0;
    return 0;
  };
  ASSERT_EQ(btd_foreach(*heap_, count, &left), 0);
  EXPECT_EQ(left, 0);
}

struct Large {
  btd::persistent<int> numbers[700];
};

TEST_F(CppApi, LargeObjectsGoInWhole) {
  auto* const head = btd::root_or_make<btd::ptr<Large>>(*heap_, "large");
  btd::transaction(*heap_, [&] {
    *head = btd::make_persistent<Large>();
    for (int i = 0; i < 700; ++i) (*head)->numbers[i] = i;
    EXPECT_EQ((*head)->numbers[699], 699);
  });
  for (int i = 0; i < 700; ++i) ASSERT_EQ((*head)->numbers[i], i);
}

TEST_F(CppApi, AVariableInDramIsPlain) {
  btd::persistent<int> local = 4;
  btd::transaction(*heap_, [&] {
    local = 5;
    EXPECT_EQ(local, 5);
  });
  EXPECT_EQ(local, 5);
  btd::ptr<int> none;
  EXPECT_FALSE(none);
  static_assert(sizeof(btd::ptr<int>) == sizeof(int*));
  static_assert(std::is_same_v<std::pointer_traits<btd::ptr<int>>::element_type, int>);
}

TEST_F(CppApi, ErrorsCarryErrnoAndASentence) {
  try {
    btd::cluster heap("/nonexistent/directory");
    FAIL();
  } catch (const btd::error& error) {
    EXPECT_EQ(error.code().value(), ENOENT);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/directory"), std::string::npos);
  }
}

TEST_F(CppApi, AClusterThatCannotCloseKeepsItsHeap) {
  ASSERT_EQ(btd_tx_begin(*heap_), 0);
  EXPECT_THROW(heap_->close(), btd::error);
  EXPECT_NE(heap_->get(), nullptr);
  ASSERT_EQ(btd_tx_abort(), 0);
  heap_->close();
  EXPECT_EQ(heap_->get(), nullptr);
  EXPECT_EQ(btd::default_cluster(), nullptr);
}

}  // namespace
