#include "fs/daemon/kernel_cache.h"

#include <fuse_lowlevel.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "fs/daemon/notifier_client.h"
#include "fs/namespace/layout.h"

namespace btd {

namespace {

// A reply takes microseconds from the worker to the kernel's inode, longer on a busy machine.
constexpr auto kFirstPause = std::chrono::microseconds(100);
constexpr auto kLastPause = std::chrono::seconds(1);
// A name whose directory is locked for longer is told of by the epoch, where somebody waits for
// that.
constexpr auto kStuck = std::chrono::milliseconds(50);
constexpr std::uint64_t kAll = 0;  // the number that is before all words'

std::string_view name_in(const std::optional<std::string>& entry) {
  if (!entry || entry->size() <= sizeof(rows::EntryRow)) return {};
  return std::string_view(*entry).substr(sizeof(rows::EntryRow));
}

bool is_directory(const std::optional<std::string>& inode) {
  rows::InodeRow row{};
  return inode && rows::parse(*inode, row) && S_ISDIR(row.mode);
}

}  // namespace

void KernelCache::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  noted_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void KernelCache::start(fuse_session* session, NotifierClient& notifier, bool forget) {
  const std::scoped_lock lock(mutex_);
  session_ = session;
  notifier_ = &notifier;
  all_ = all_ || forget;
  if (all_) owed_.insert(kAll);
  thread_ = std::thread([this] { run(); });
}

void KernelCache::changed(const WatchEvent& event) {
  const std::string_view key = event.key;
  constexpr std::size_t kInodeKey = 1 + sizeof(InodeId), kEntryKey = kInodeKey + 8;
  if (key.starts_with('i') && key.size() == kInodeKey) {
    note({.id = rows::number_at(key, 1),
          .pages = is_directory(event.value) || is_directory(event.previous)});
  } else if (key.starts_with('d') && key.size() == kEntryKey) {
    const InodeId directory = rows::number_at(key, 1);
    const std::string_view now = name_in(event.value), before = name_in(event.previous);
    if (!now.empty()) note({.id = directory, .name = std::string(now)});
    if (!before.empty() && before != now) note({.id = directory, .name = std::string(before)});
  }
}

bool KernelCache::is_known(InodeId id) const {
  return id == kRootId || state_.find(id).has_value();
}

std::uint64_t KernelCache::owe_locked() {
  owed_.insert(++last_number_);
  return last_number_;
}

void KernelCache::settle_locked(std::uint64_t number) {
  owed_.erase(number);
  advance_locked();
}

// Who counts an inode after this looked reads what is true now, or finds the change counted.
void KernelCache::note(Word word) {
  const std::scoped_lock lock(mutex_);
  ++noted_changes_;
  if (!is_known(word.id)) return;
  // Nothing to wait for: whoever notes it says it, which is one hand-over less.
  if (!word.name.empty() && notifier_ != nullptr && !stopping_ && names_ < kMostNames) {
    ++untold_[word.id];
    return tell_name_locked({word, owe_locked()});
  }
  if (words_.size() >= kMost) {
    for (const Noted& each : words_) {
      if (!each.word.name.empty()) told_locked(each.word.id);
      owed_.erase(each.number);
    }
    words_.clear();
    waiting_.clear();
    all_ = true;
    owed_.insert(kAll);
  } else if (waiting_.insert(word).second) {
    if (!word.name.empty()) ++untold_[word.id];
    words_.push_back({std::move(word), owe_locked()});
  }
  noted_.notify_all();
}

void KernelCache::attributes_changed(InodeId id) {
  {
    const std::scoped_lock lock(mutex_);
    ++noted_changes_;
    if (session_ == nullptr || stopping_) return;
  }
  if (is_known(id) && !tell({.id = id})) note({.id = id});
}

void KernelCache::told_locked(InodeId directory) {
  const auto found = untold_.find(directory);
  if (found != untold_.end() && --found->second == 0) untold_.erase(found);
}

// Without an epoch, the name is told of when the answer has been given: the notifier waits for it.
void KernelCache::before_answer(InodeId directory, std::string_view name) {
  {
    const std::scoped_lock lock(mutex_);
    if (session_ == nullptr || (!all_ && !untold_.contains(directory))) return;
  }
  if (has_epochs_.load() && fuse_lowlevel_notify_increment_epoch(session_) == 0) return;
  has_epochs_.store(false);
  note({.id = directory, .name = std::string(name)});
}

void KernelCache::then(std::function<void()> task) {
  const std::scoped_lock lock(mutex_);
  tasks_.push_back(std::move(task));
  noted_.notify_all();
}

// --- Who waits for the words ---

void KernelCache::reached(std::int64_t revision) {
  const std::scoped_lock lock(mutex_);
  const Mark mark{revision, last_number_ + 1};
  const bool is_same = !marks_.empty() && marks_.back().number == mark.number;
  if (is_same || marks_.size() >= kMost) {
    marks_.back() = mark;
  } else {
    marks_.push_back(mark);
  }
  advance_locked();
}

void KernelCache::advance_locked() {
  const std::int64_t before = told_;
  while (!marks_.empty() && (owed_.empty() || *owed_.begin() >= marks_.front().number)) {
    told_ = std::max(told_, marks_.front().revision);
    marks_.pop_front();
  }
  if (told_ != before && !asks_.empty()) end_asks_locked();
}

void KernelCache::when_told(std::int64_t revision, std::function<void(bool is_told)> then) {
  {
    const std::scoped_lock lock(mutex_);
    if (no_asks_) return;
    if (revision > told_) {
      asks_.push_back({.revision = revision, .begun = Clock::now(), .then = std::move(then)});
      return noted_.notify_all();  // it looks at the time from now on
    }
  }
  then(true);
}

void KernelCache::end_asks() {
  std::unique_lock lock(mutex_);
  no_asks_ = true;
  asks_.clear();
  ended_.clear();
  noted_.wait(lock, [this] { return !is_ending_one_; });
}

// They are answered on this object's thread, for that holds no lock of whoever told the last word.
void KernelCache::end_asks_locked() {
  const auto late = Clock::now() - patience_;
  std::erase_if(asks_, [&](Ask& ask) {
    const bool is_told = ask.revision <= told_;
    if (!is_told && ask.begun > late) return false;
    ended_.push_back([then = std::move(ask.then), is_told] { then(is_told); });
    return true;
  });
  noted_.notify_all();
}

// What is reached and not told for long waits for directories that requests have locked.
void KernelCache::help_asks(std::unique_lock<std::mutex>& lock) {
  const auto stuck = Clock::now() - kStuck;
  bool is_any = false;
  for (Ask& ask : asks_) {
    if (ask.is_helped || ask.begun > stuck) continue;
    ask.is_helped = true;
    is_any = true;
  }
  if (!is_any || marks_.empty() || !has_epochs_.load()) return;
  const std::uint64_t number = last_number_;
  lock.unlock();
  const bool is_told = fuse_lowlevel_notify_increment_epoch(session_) == 0;
  lock.lock();
  if (!is_told) return;
  std::set<std::uint64_t> others;  // of inodes
  for (const Noted& noted : words_)
    if (noted.word.name.empty()) others.insert(noted.number);
  std::erase_if(owed_, [&](std::uint64_t owed) {
    return owed != kAll && owed <= number && !others.contains(owed);
  });
  advance_locked();
}

KernelCache::Counts KernelCache::counts() const {
  const std::scoped_lock lock(mutex_);
  Counts counts = counts_;
  counts.waiting = words_.size();
  counts.asked = asks_.size();
  if (!asks_.empty()) counts.oldest = Clock::now() - asks_.front().begun;
  return counts;
}

std::uint64_t KernelCache::noted() const {
  const std::scoped_lock lock(mutex_);
  return noted_changes_;
}

KernelCache::Clock::time_point KernelCache::next_time_locked() const {
  auto next = Clock::time_point::max();
  for (const Late& late : late_) next = std::min(next, late.when);
  for (const Ask& ask : asks_)
    next = std::min(next, ask.begun + (ask.is_helped ? patience_ : kStuck));
  return next;
}

bool KernelCache::has_word_locked() const {
  return !words_.empty() && (words_.front().word.name.empty() || names_ < kMostNames);
}

void KernelCache::sleep(std::unique_lock<std::mutex>& lock) {
  const auto awake = [this, asked = asks_.size()] {
    return stopping_ || all_ || has_word_locked() || !tasks_.empty() || !ended_.empty() ||
           asks_.size() > asked;
  };
  const auto until = next_time_locked();
  if (until == Clock::time_point::max()) return noted_.wait(lock, awake);
  noted_.wait_until(lock, until, awake);
}

void KernelCache::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    sleep(lock);
    if (stopping_) return;
    if (!asks_.empty()) {
      help_asks(lock);
      end_asks_locked();
    }
    lock.unlock();
    take_late();
    lock.lock();
    if (!ended_.empty()) {
      is_ending_one_ = true;
      run_one(ended_, lock);
      is_ending_one_ = false;
      noted_.notify_all();
    } else if (std::exchange(all_, false)) {
      ++counts_.all;
      lock.unlock();
      tell_all();
      lock.lock();
      if (!all_) settle_locked(kAll);
    } else if (has_word_locked()) {
      tell_next(lock);
    } else if (!tasks_.empty()) {
      run_one(tasks_, lock);
    }
  }
}

void KernelCache::run_one(std::deque<std::function<void()>>& tasks,
                          std::unique_lock<std::mutex>& lock) {
  const auto task = std::move(tasks.front());
  tasks.pop_front();
  lock.unlock();
  task();
  lock.lock();
}

void KernelCache::tell_next(std::unique_lock<std::mutex>& lock) {
  const Noted noted = std::move(words_.front());
  words_.pop_front();
  waiting_.erase(noted.word);
  if (!noted.word.name.empty()) return tell_name_locked(noted);
  ++counts_.told;
  lock.unlock();
  if (!tell(noted.word)) repeat(noted.word, kFirstPause);
  lock.lock();
  settle_locked(noted.number);
}

void KernelCache::take_late() {
  const auto now = Clock::now();
  for (std::size_t left = late_.size(); left > 0; --left) {
    const Late late = std::move(late_.front());
    late_.pop_front();
    if (late.when > now) {
      late_.push_back(late);
    } else if (!tell(late.word)) {
      repeat(late.word, 2 * late.pause);
    }
  }
}

// One that is still unknown then is of a lookup that nobody waited for.
void KernelCache::repeat(const Word& word, Clock::duration pause) {
  if (pause <= kLastPause) late_.push_back({Clock::now() + pause, pause, word});
}

// What the kernel does not know it need not forget: ENOENT.
bool KernelCache::tell(const Word& word) {
  const int result = fuse_lowlevel_notify_inval_inode(session_, word.id, word.pages ? 0 : -1, 0);
  if (result != 0 && result != -ENOENT)
    spdlog::debug("telling the kernel of a change: {}", strerrordesc_np(-result));
  if (result != -ENOENT) return true;
  const auto counted = state_.find(word.id);
  return !counted || counted->nlookup == 0;
}

bool KernelCache::knows_names_of(InodeId directory) const {
  if (directory == kRootId) return true;
  const auto known = state_.find(directory);
  return known && known->nlookup != 0;
}

// Of a directory that the kernel does not know it knows no name: who looks one up there was counted
// for the directory before, and finds what is true now.
void KernelCache::tell_name_locked(const Noted& noted) {
  const Word& word = noted.word;
  ++counts_.told;
  if (!knows_names_of(word.id)) {
    told_locked(word.id);
    return settle_locked(noted.number);
  }
  ++names_;
  notifier_->post({.kind = KernelWord::Kind::kForgetName, .inode = word.id, .name = word.name},
                  [this, directory = word.id, number = noted.number](int error, std::size_t) {
                    if (error != 0 && error != ENOENT)
                      spdlog::debug("telling the kernel of a name: {}", strerrordesc_np(error));
                    const std::scoped_lock lock(mutex_);
                    told_locked(directory);
                    settle_locked(number);
                    if (--names_ == kMostNames - 1) noted_.notify_all();
                  });
}

void KernelCache::tell_all() {
  if (const int result = fuse_lowlevel_notify_increment_epoch(session_); result != 0)
    spdlog::warn(
        "the kernel can't be told to look all names up again ({}); names that other nodes "
        "changed meanwhile may be old until it does",
        strerrordesc_np(-result));
  // Not of pages: a page that a program waits for is locked, as a directory can be. A listing goes
  // with its directory's time, and a file's pages when it is opened.
  std::vector<InodeId> known{kRootId};
  state_.for_each([&](const StateEntry& entry) { known.push_back(entry.id); });
  for (const InodeId id : known)
    if (const Word word{.id = id}; !tell(word)) repeat(word, kFirstPause);
}

}  // namespace btd
