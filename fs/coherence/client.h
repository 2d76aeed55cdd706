// Client: one node's side of one coherent allocation, between its kernel and the home.
//
// Pages are in client_page.h. This adds what concerns the whole inode: the open files, which decide
// what a fill asks for; the WRITEs that the kernel waits for; the size.
//
// The kernel never tells of the first store to a page, so the open files are the intent: while one
// is open for writing, fills ask for ownership; and the first such OPEN is not answered before all
// shared pages are gone from the kernel's cache.
//
// Assumes: the allocation is opened FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE with DIRECT_IO_ALLOW_MMAP
// and without readahead; messages are sent in the order of the actions; Notify and CheckCached run
// on threads that may block and answer no FUSE request, on as many as there are. Not thread-safe.
#pragma once

#include <map>
#include <variant>
#include <vector>

#include "fs/coherence/client_page.h"
#include "fs/coherence/messages.h"
#include "fs/coherence/types.h"

namespace btd::coherence {

namespace client_event {
// A READ of the page cache (its lock_owner is 0).
struct FillRead {
  Request request = 0;
  PageRange range;
};
// A WRITE of the page cache: msync, writeback, munmap or an invalidation that launders.
struct PageWrite {
  Request request = 0;
  Page first = 0;
  std::uint64_t bytes = 0;
};
struct Open {
  Request request = 0;
  bool is_writer = false;
};
// The last reference to a file open for writing went: no mapping of it is left.
struct ReleaseWriter {};
// read(2), write(2), truncate: `message` is a DirectRead, DirectWrite or Resize.
struct Direct {
  ToHome message;
};
struct Notified {
  Page page = 0;
  Notice notice = 0;
};
struct Checked {
  Page page = 0;
  Notice notice = 0;
  bool is_cached = false;
};
// The kernel has the size of SizeChange `version`.
struct SizeRefreshed {
  Version version = 0;
};
struct Arrived {
  ToClient message;
};
// Time to ask again, after a Retry.
struct RetryFill {
  Page page = 0;
};
struct RetryWrite {
  Request request = 0;
};
// The lease expired or the cluster removed this node: nothing here is valid any more.
struct Fenced {};
}  // namespace client_event

using ClientEvent =
    std::variant<client_event::FillRead, client_event::PageWrite, client_event::Open,
                 client_event::ReleaseWriter, client_event::Direct, client_event::Notified,
                 client_event::Checked, client_event::SizeRefreshed, client_event::Arrived,
                 client_event::RetryFill, client_event::RetryWrite, client_event::Fenced>;

namespace client_action {
// A write-back's or direct write's tail are the bytes that its `request` came with.
struct Send {
  ToHome message;
};
// With the grant's or Done's tail if `error` is 0.
struct Answer {
  Request request = 0;
  int error = 0;
};
// notify_inval_inode on the elastic pool, then Notified.
struct Notify {
  Page page = 0;
  Notice notice = 0;
};
// mincore by a process that serves no request, then Checked.
struct CheckCached {
  Page page = 0;
  Notice notice = 0;
};
// Have the kernel fetch the attributes (fstatat on an O_PATH descriptor), then SizeRefreshed.
struct RefreshSize {
  Version version = 0;
};
// Later say RetryFill or RetryWrite.
struct RetryFill {
  Page page = 0;
};
struct RetryWrite {
  Request request = 0;
};
struct Report {
  enum class What : std::uint8_t {
    kWriteRefused,  // home says that we do not own what our kernel laundered
    kWriteLost,     // fenced: the kernel's WRITE failed
    kOddRead,       // a second fill READ of a page
    kOddRecall,     // a second recall of a page
  } what = What::kWriteRefused;
  Page page = 0;
};
}  // namespace client_action

using ClientAction =
    std::variant<client_action::Send, client_action::Answer, client_action::Notify,
                 client_action::CheckCached, client_action::RefreshSize, client_action::RetryFill,
                 client_action::RetryWrite, client_action::Report>;

struct ClientOutput {
  std::vector<ClientAction> actions;
  std::vector<ClientReason> reasons;
};

struct ClientState {
  std::uint64_t bytes = 0;
  std::uint32_t writers = 0;  // files open for writing, and OPENs of them that wait
  bool is_fenced = false;
  Notice last_notice = 0;
  std::map<Page, ClientPage> pages;  // those that are not kInvalid
  std::vector<Request> opens;        // that wait until no shared page is cached
  std::vector<WriteBack> writes;     // that home has not stored; their kernel waits
};

class Client {
 public:
  Client(const Rules& rules, std::uint64_t bytes) : rules_(&rules) { state_.bytes = bytes; }

  ClientOutput on(const ClientEvent& event);

  [[nodiscard]] const ClientState& state() const { return state_; }
  [[nodiscard]] ClientState& state() { return state_; }

 private:
  struct Step;          // one event's output, and the functions that make it
  const Rules* rules_;  // outlives this
  ClientState state_;
};

}  // namespace btd::coherence
