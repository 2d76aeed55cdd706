// KernelCache: tells the kernel what other nodes changed, so that it asks again.
//
// The kernel keeps names, attributes and listings for good, since every change that it does not
// make itself is told here. The words are said by a thread of its own: the kernel may have to wait
// for a request of ours before it takes one, and commits wait for whoever notes a change. Bounds:
// what waits is kept once each; beyond kMost the kernel is told to ask for everything anew.
//
// A name is told of by the notifier (notifier.h), a bounded number of them at a time: the kernel
// locks its directory, which a request that this worker has in hand may hold. So lookups under way
// end before, and what they found is forgotten too. But so does a rename, with what the kernel took
// a name for; and whoever asked for a change would see for a moment what was true before it. So
// where names of the directory wait to be told of, all names together are told of before the
// answer, by the kernel's epoch of them (Linux 6.16), which waits for nothing.
//
// A kernel that does not know an inode may have the answer to its first lookup under way, with what
// was true before the change. So whoever answers counts the lookup before it reads what it answers;
// and a counted inode is told of again until the kernel knows it. For the same reason nothing is
// said of an inode that is not counted, nor of names in such a directory: the kernel knows nothing
// of it, and what it asks for later is answered with what is true then.
//
// Who is granted a lock is to find what its last holder did to names, so a grant waits until all
// that etcd had by then has come here and was told. Thread-safety: any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>

#include "alloc/metastore.h"
#include "fs/daemon/state_table.h"
#include "fs/namespace/inode.h"

struct fuse_session;

namespace btd {

class NotifierClient;

class KernelCache {
 public:
  static constexpr std::size_t kMost = 1 << 16;
  static constexpr std::size_t kMostNames = 256;  // that the notifier is telling of

  // `patience`: of when_told().
  explicit KernelCache(const StateTable& state,
                       std::chrono::milliseconds patience = std::chrono::seconds(10))
      : state_(state), patience_(patience) {}
  ~KernelCache() { stop(); }
  KernelCache(const KernelCache&) = delete;
  KernelCache& operator=(const KernelCache&) = delete;

  // From now on the words are said, those that were noted before too. `forget`: the kernel may know
  // what no worker watched; it must ask for everything anew.
  void start(fuse_session* session, NotifierClient& notifier, bool forget);
  // Nothing is said, and no task runs, when this has returned.
  void stop();

  // A row of the namespace was changed by another node.
  void changed(const WatchEvent& event);
  // For who reads the attributes of many inodes before it counts them: how many changes were noted
  // so far. If there are more when all are counted, each is to be told of again.
  [[nodiscard]] std::uint64_t noted() const;
  void tell_again(InodeId id) { note({.id = id}); }
  // Those of a file that lies here, by another node: the kernel asks again before this returns, if
  // it knows the file. That waits for nothing.
  void attributes_changed(InodeId id);
  // A request that changes the name, or would have, is about to be answered.
  void before_answer(InodeId directory, std::string_view name);
  // Work of others that may block, in turn with the words.
  void then(std::function<void()> task);

  // All changes up to the revision were noted here.
  void reached(std::int64_t revision);
  // `then` is called when the kernel was told of all up to the revision: at once by the caller if
  // it was already; else later on a thread of this, with false if that takes too long.
  void when_told(std::int64_t revision, std::function<void(bool is_told)> then);
  // No `then` is called when this has returned.
  void end_asks();

  struct Counts {
    std::uint64_t told = 0, waiting = 0, all = 0;  // all: how often it had to ask for everything
    std::uint64_t asked = 0;                       // when_told() that is not so yet
    std::chrono::duration<double> oldest{};        // of these
  };
  [[nodiscard]] Counts counts() const;

 private:
  struct Word {
    InodeId id = 0;      // of the inode; of a name, its directory
    std::string name;    // empty: the inode itself
    bool pages = false;  // of a directory its listing, of a symbolic link its target
    auto operator<=>(const Word&) const = default;
  };

  using Clock = std::chrono::steady_clock;
  struct Late {
    Clock::time_point when;
    Clock::duration pause;  // before the next time
    Word word;
  };

  // A word that waits, by its number: they count from 1 as they are noted.
  struct Noted {
    Word word;
    std::uint64_t number = 0;
  };
  // All words of the revision have smaller numbers.
  struct Mark {
    std::int64_t revision = 0;
    std::uint64_t number = 0;
  };
  struct Ask {
    std::int64_t revision = 0;
    Clock::time_point begun;
    std::function<void(bool)> then;
    bool is_helped = false;
  };

  void note(Word word);
  std::uint64_t owe_locked();
  void settle_locked(std::uint64_t number);
  void advance_locked();
  void end_asks_locked();
  void help_asks(std::unique_lock<std::mutex>& lock);
  [[nodiscard]] Clock::time_point next_time_locked() const;
  [[nodiscard]] bool has_word_locked() const;
  [[nodiscard]] bool is_known(InodeId id) const;
  void run();
  void sleep(std::unique_lock<std::mutex>& lock);
  void run_one(std::deque<std::function<void()>>& tasks, std::unique_lock<std::mutex>& lock);
  void take_late();
  void repeat(const Word& word, Clock::duration pause);
  // False: the kernel does not know the inode yet, and will.
  [[nodiscard]] bool tell(const Word& word);
  void tell_next(std::unique_lock<std::mutex>& lock);
  void tell_name_locked(const Noted& noted);
  void told_locked(InodeId directory);
  [[nodiscard]] bool knows_names_of(InodeId directory) const;
  void tell_all();

  const StateTable& state_;
  const std::chrono::milliseconds patience_;
  fuse_session* session_ = nullptr;
  NotifierClient* notifier_ = nullptr;
  mutable std::mutex mutex_;
  std::condition_variable noted_;
  std::deque<Noted> words_;
  std::set<Word> waiting_;         // the same
  std::uint64_t last_number_ = 0;  // of a word
  std::set<std::uint64_t> owed_;   // the numbers of those that are not told; kAll where all_ is so
  std::deque<Mark> marks_;         // of revisions that are reached and not told, in their order
  std::int64_t told_ = 0;
  std::deque<Ask> asks_;
  std::deque<std::function<void()>> ended_;  // to be called for those
  bool is_ending_one_ = false, no_asks_ = false;
  std::deque<std::function<void()>> tasks_;
  std::deque<Late> late_;  // of the thread; few, and for a moment
  std::uint64_t noted_changes_ = 0;
  std::size_t names_ = 0;                            // that the notifier is telling of
  std::unordered_map<InodeId, std::size_t> untold_;  // names, by their directories
  bool all_ = false, stopping_ = false;
  std::atomic<bool> has_epochs_{true};  // of names, in the kernel
  Counts counts_;
  std::thread thread_;
};

}  // namespace btd
