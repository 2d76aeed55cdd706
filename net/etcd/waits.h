// What a store is waiting for just now, each wait with a name and a sentence, for health().
// Thread-safety: any thread. The mutex is a leaf.
#pragma once

#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "net/etcd/options.h"

namespace btd::net {

struct EtcdWait {
  std::string name;
  std::string explanation;
  EtcdClock::time_point since;
};

class EtcdWaits {
  struct Entry {
    std::string_view name, explanation;
    EtcdClock::time_point since;
  };

 public:
  // The wait lasts as long as this object. The views must outlive it.
  class Scope {
   public:
    Scope(EtcdWaits& waits, std::string_view name, std::string_view explanation) : waits_(waits) {
      const std::scoped_lock lock(waits_.mutex_);
      entry_ = waits_.entries_.insert(waits_.entries_.end(), {name, explanation, EtcdClock::now()});
    }
    ~Scope() {
      const std::scoped_lock lock(waits_.mutex_);
      waits_.entries_.erase(entry_);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    EtcdWaits& waits_;
    std::list<Entry>::iterator entry_;
  };

  [[nodiscard]] std::vector<EtcdWait> list() const {
    const std::scoped_lock lock(mutex_);
    std::vector<EtcdWait> out;
    for (const Entry& e : entries_)
      out.push_back({std::string(e.name), std::string(e.explanation), e.since});
    return out;
  }

 private:
  mutable std::mutex mutex_;
  std::list<Entry> entries_;
};

}  // namespace btd::net
