// Several users of one heap in one process: what the kernel's locks tell real processes, faked.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "alloc/heap.h"

namespace btd::test {

// What the heaps of these tests have, so that lanes are full soon.
inline constexpr Heap::Options kSmallLanes{.lanes = 3, .lane_bytes = 16 * 1024};

// Who lives, and who has which arena. Thread-safe.
class Registry {
 public:
  // Called with each question whether a user lives, after the answer stands. Set before threads
  // start.
  std::function<void(unsigned asker, unsigned user)> on_question;

  void come(unsigned user) {
    const std::lock_guard lock(mutex_);
    alive_.insert(user);
  }
  void die(unsigned user) {
    const std::lock_guard lock(mutex_);
    alive_.erase(user);
    std::erase_if(owners_, [user](const auto& entry) { return entry.second == user; });
  }
  [[nodiscard]] bool lives(unsigned user) const {
    const std::lock_guard lock(mutex_);
    return alive_.contains(user);
  }
  [[nodiscard]] std::size_t living() const {
    const std::lock_guard lock(mutex_);
    return alive_.size();
  }
  bool own(std::uint32_t arena, unsigned user) {
    const std::lock_guard lock(mutex_);
    return owners_.emplace(arena, user).first->second == user;
  }
  void disown(std::uint32_t arena) {
    const std::lock_guard lock(mutex_);
    owners_.erase(arena);
  }

 private:
  mutable std::mutex mutex_;
  std::set<unsigned> alive_;
  std::map<std::uint32_t, unsigned> owners_;
};

class FakeUsers : public Users {
 public:
  FakeUsers(Registry& registry, unsigned self) : registry_(registry), self_(self) {
    registry_.come(self);
  }
  [[nodiscard]] unsigned self() const override { return self_; }
  bool alive(unsigned user) override {
    const bool lives = registry_.lives(user);
    if (registry_.on_question) registry_.on_question(self_, user);
    return lives;
  }
  bool alone() override { return registry_.living() == 1; }
  bool own(std::uint32_t arena) override { return registry_.own(arena, self_); }
  void disown(std::uint32_t arena) override { registry_.disown(arena); }

 private:
  Registry& registry_;
  const unsigned self_;
};

// The same memory, as one user sees it. Who drops it dies.
class View : public ArenaSource {
 public:
  View(ArenaSource& all, Registry& registry, unsigned self)
      : all_(all), users_(registry, self), registry_(registry) {}
  ~View() override { registry_.die(users_.self()); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  std::byte* base() override { return all_.base(); }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return all_.arena_bytes(); }
  [[nodiscard]] std::uint32_t count() const override { return all_.count(); }
  Status extend() override { return all_.extend(); }
  Persist& persist() override { return all_.persist(); }
  Users& users() override { return users_; }

 private:
  ArenaSource& all_;
  FakeUsers users_;
  Registry& registry_;
};

struct User {
  std::unique_ptr<View> view;
  std::unique_ptr<Heap> heap;

  User(ArenaSource& source, Registry& registry, unsigned self)
      : view(std::make_unique<View>(source, registry, self)) {}
  Status open() {
    BTD_ASSIGN(heap, Heap::open(*view, Heap::Own::kFew));
    return {};
  }
};

// A heap of 512 KiB arenas that nobody has open, and its users as a test wants them.
template <class Source>
class SeveralUsers : public testing::Test {
 protected:
  explicit SeveralUsers(std::uint32_t max_arenas) : max_arenas_(max_arenas) {}
  // May be called again, for a heap that is new.
  void SetUp() override {
    source_ = std::move(*Source::create(512 * 1024, max_arenas_));
    auto heap = Heap::format(*source_, kSmallLanes);
    ASSERT_TRUE(heap) << heap.error().message;
    ASSERT_TRUE((*heap)->close());
  }
  std::unique_ptr<User> user(unsigned number) {
    auto made = std::make_unique<User>(*source_, registry_, number);
    const Status opened = made->open();
    EXPECT_TRUE(opened) << opened.error().message;
    return made;
  }

  const std::uint32_t max_arenas_;
  std::unique_ptr<Source> source_;
  Registry registry_;
};

}  // namespace btd::test
