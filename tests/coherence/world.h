// A small world for the model checker: a home, its clients, their kernels, the channels between.
//
// The kernel of each node is a model of what fs/coherence must live with: a READ holds its folio's
// lock until it is answered; an invalidation waits for locked folios and launders dirty ones; clean
// folios vanish at any time; a store to a cached folio tells nobody; FUSE requests, answers and
// invalidations overtake each other. Steps are either the environment's (somebody loads, stores,
// opens, reclaims) or the protocol's own.
//
// Contents are one byte. Unless `values`, it says whether they are the latest: a store makes all
// other copies stale, so that the space of states is finite however long programs run.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fs/coherence/client.h"
#include "fs/coherence/home.h"

namespace btd::coherence::model {

inline constexpr std::size_t kPages = 16;

// An instruction of a litmus test.
struct Instruction {
  enum class Do : std::uint8_t { kLoad, kStore } what = Do::kLoad;
  std::uint8_t page = 0;
  std::uint8_t value = 0;  // to store
};

// What there is, and what may happen.
struct Scope {
  std::uint8_t nodes = 2, pages = 1, openers = 1;
  std::uint8_t opening =
      0;  // nodes, from the first, that open and close files; others have one open
  std::uint8_t readers = 0;  // nodes, from the first, whose open file is for reading only
  bool reclaim = true;
  bool writeback = true;
  bool busy = false;  // invalidations fail without saying so
  bool mmap = false;  // mmap() drops the cache of the whole inode
  bool direct_write = false;
  bool direct_read = false;
  bool resize = false;  // between one page and all
  bool lose_node = false;
  bool refuse_store = false;  // home cannot store a write-back now
  std::size_t notices = 2;    // invalidations of a page of a node that are on the way at most
  bool values = false;
  std::vector<std::vector<Instruction>> programs;  // of each node; then nothing else is loaded
  // What a mutation changes of the world.
  bool unordered_to_client = false;
  bool unordered_to_home = false;
  bool ask_cachestat = false;  // which counts a locked folio that has no contents
  bool prompt_notify = false;  // no fault comes between a notice and its invalidation
  bool fence_early = false;    // the home is told while the node's programs run on
  Rules rules;
  HomeLimits limits{.residency = Time{0}, .units = {1, 2, 2}, .calm = Time{0}};
};

struct Folio {
  enum class State : std::uint8_t {
    kAbsent,
    kReading,  // locked, no contents
    kClean,
    kDirty,
    kWriteback,   // a WRITE is on the way; may be loaded, not stored to
    kLaundering,  // locked and unmapped; a WRITE is on the way
  } state = State::kAbsent;
  std::uint8_t content = 0;
};

// Between kernel and daemon, in no order.
struct Upcall {
  enum class Kind : std::uint8_t {
    kFill,
    kWrite,
    kOpen,
    kRelease,
    kDirectRead,
    kDirectWrite,
    kResize,
    kNotified,
    kChecked,
    kRefreshed,
    kRetryWrite,
  } kind = Kind::kFill;
  std::uint8_t page = 0;     // or the opener, or the new size in pages
  std::uint8_t value = 0;    // contents, or whether it is a writer, or whether it is cached
  std::uint64_t number = 0;  // of a notice, or a version
  friend auto operator<=>(const Upcall&, const Upcall&) = default;
};

struct Downcall {
  enum class Kind : std::uint8_t {
    kFilled,
    kWritten,
    kOpened,
    kDirectDone,
    kNotify,
    kCheck,
    kRefreshSize,
  } kind = Kind::kFilled;
  std::uint8_t page = 0;
  std::uint8_t value = 0;
  std::uint8_t error = 0;
  std::uint64_t number = 0;
  friend auto operator<=>(const Downcall&, const Downcall&) = default;
};

struct Invalidator {
  enum class For : std::uint8_t { kNotice, kMmap, kDirectWrite } purpose = For::kNotice;
  std::uint8_t page = 0;
  bool is_laundering = false;
  Notice notice = 0;
  friend auto operator<=>(const Invalidator&, const Invalidator&) = default;
};

struct DirectCall {
  enum class Kind : std::uint8_t { kNone, kRead, kWrite, kResize } kind = Kind::kNone;
  std::uint8_t page = 0;
  bool is_sent = false;
  bool saw_latest = false;  // home had the latest contents since it began
};

enum class Opener : std::uint8_t { kClosed, kOpeningRead, kOpeningWrite, kRead, kWrite };

template <class Message>
struct Wire {
  Message message;
  std::uint8_t content = 0;
};

struct Node {
  enum class Link : std::uint8_t { kUp, kCut, kFenced } link = Link::kUp;
  Client client;
  std::array<Folio, kPages> folios{};
  std::array<std::uint8_t, kPages> held{};  // contents of WRITEs that wait
  std::array<Opener, 2> openers{};
  std::uint8_t size = 0;  // the kernel's, in pages
  DirectCall direct;
  std::uint8_t counter = 0;  // of its program
  std::uint8_t loaded = 0;   // what its loads saw, two bits each
  std::vector<Upcall> up;
  std::vector<Downcall> down;
  std::vector<Invalidator> invalidators;
  std::vector<Wire<ToHome>> to_home;
  std::vector<Wire<ToClient>> to_client;
};

struct Step {
  enum class Kind : std::uint8_t {
    // The protocol's.
    kHomeTakes,
    kClientTakes,
    kDaemonTakes,
    kKernelTakes,
    kInvalidate,
    kFlushForRead,
    kApplied,
    kTimer,
    kFence,
    kInstruction,
    // The environment's.
    kFault,
    kStore,
    kReclaim,
    kWriteback,
    kOpenRead,
    kOpenWrite,
    kClose,
    kMmap,
    kDirectRead,
    kDirectWrite,
    kResize,
    kInvalidateBusy,
    kRefuseStore,
    kCut,
    kAcceptLoss,
  } kind = Kind::kTimer;
  std::uint8_t node = 0, at = 0, value = 0;
};
inline bool is_protocol(const Step& step) { return step.kind < Step::Kind::kFault; }
std::string text(const Step& step);

struct PendingApply {
  NodeSlot node = 0;
  bool is_resize = false;
  std::uint64_t bytes = 0;
  std::uint8_t page = 0;
};

class World {
 public:
  explicit World(const Scope& scope);

  void protocol_steps(std::vector<Step>& steps) const;
  void environment_steps(std::vector<Step>& steps) const;
  [[nodiscard]] bool is_enabled(const Step& step) const;
  // Does it, and notes what is wrong.
  void take(const Step& step);

  // Nothing is on the way: no request, no message, no transaction.
  [[nodiscard]] bool is_quiet() const;
  [[nodiscard]] const std::string& violation() const { return violation_; }
  [[nodiscard]] bool is_program_done() const;
  [[nodiscard]] const Node& node(std::size_t index) const { return nodes_[index]; }

  // Renumbers what only equality and order matter of, and sorts what has no order.
  void normalise();
  [[nodiscard]] std::string encode() const;

  Time now{};

 private:
  void wrong(const std::string& what) {
    if (violation_.empty()) violation_ = what;
  }
  // Kernel, in world_kernel.cc.
  void start_write(Node& node, std::uint8_t page);
  void invalidate(Node& node, std::size_t index, bool is_busy);
  void finish(Node& node, std::size_t index);
  void kernel_takes(Node& node, std::size_t index);
  void written(Node& node, const Downcall& call);
  void refresh_size(Node& node, const Downcall& call);
  void flush_for_read(Node& node);
  void store(Node& node, std::uint8_t page, std::uint8_t value);
  void run_instruction(Node& node, const Instruction& instruction);
  [[nodiscard]] bool is_kernel_ready(const Node& node, const Downcall& call) const;
  [[nodiscard]] bool can_invalidate(const Node& node, const Invalidator& invalidator) const;
  [[nodiscard]] bool can_flush(const Node& node) const;
  [[nodiscard]] bool can_run(const Node& node, const Instruction& instruction) const;
  [[nodiscard]] bool can_fault(const Node& node, std::uint8_t page) const;
  [[nodiscard]] bool is_environment_enabled(const Step& step) const;
  void take_environment(const Step& step);
  void open(Node& node, std::uint8_t opener, bool is_writer);

  // Daemon and home, in world.cc.
  void daemon_takes(Node& node, const Upcall& call);
  void client_does(Node& node, const ClientOutput& output, std::uint8_t content);
  void answer(Node& node, const client_action::Answer& answer, std::uint8_t content);
  void home_does(const HomeEvent& event, std::uint8_t content);
  void home_sends(const home_action::Send& send);
  void home_takes(Node& node, std::size_t index, bool refuse);
  void applied(std::size_t index);
  [[nodiscard]] bool is_late(const Node& node, const ToClient& message) const;
  void fence(Node& node);
  // All copies but the one that the caller makes are stale.
  void make_stale(std::uint8_t page);
  void new_contents_at_home(std::uint8_t page);

  // In world_check.cc.
  void check();
  void check_page(std::uint8_t page);
  [[nodiscard]] bool is_cut_off(std::uint8_t page) const;
  void check_quiet();
  void check_sizes();

  [[nodiscard]] NodeSlot slot(const Node& node) const {
    return static_cast<NodeSlot>(&node - nodes_.data());
  }

  const Scope* scope_;  // outlives this
  Home home_;
  std::vector<Node> nodes_;
  std::array<std::uint8_t, kPages> stored_{}, latest_{};
  std::vector<PendingApply> applying_;
  std::string violation_;
};

bool is_usable(const Folio& folio);
bool has_writer(const Node& node);
bool has_opener(const Node& node);

}  // namespace btd::coherence::model
