// WriterFirstLock: a shared lock under which a waiting writer goes before new readers.
//
// std::shared_mutex lets readers in as long as one is inside, so that a stream of reads would keep
// a commit out for ever. A thread that holds it shared must not take it again.
#pragma once

#include <pthread.h>

#include <cassert>

namespace btd {

class WriterFirstLock {
 public:
  WriterFirstLock() {
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&lock_, &attr);
    pthread_rwlockattr_destroy(&attr);
  }
  ~WriterFirstLock() { pthread_rwlock_destroy(&lock_); }
  WriterFirstLock(const WriterFirstLock&) = delete;
  WriterFirstLock& operator=(const WriterFirstLock&) = delete;

  // Names and meaning are those of std::shared_mutex, so that the standard guards work.
  void lock() { check(pthread_rwlock_wrlock(&lock_)); }
  void unlock() { check(pthread_rwlock_unlock(&lock_)); }
  void lock_shared() { check(pthread_rwlock_rdlock(&lock_)); }
  void unlock_shared() { check(pthread_rwlock_unlock(&lock_)); }

 private:
  static void check([[maybe_unused]] int error) { assert(error == 0); }

  pthread_rwlock_t lock_{};
};

}  // namespace btd
