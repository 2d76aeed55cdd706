// bartender.hpp: failure-atomic memory in NVRAM, for C++17 and later.
//
// Header-only over bartender.h, whose contracts R, P and T hold here too. Pointers are plain
// pointers: a heap has the same addresses in every process. All names are in namespace btd.
//
// Errors: std::bad_alloc where there is no memory, else btd::error with the errno and a sentence
// that says what to do. Thread-safety: a function may be called from any thread; an object, unless
// it says otherwise, from one at a time, as in the standard library. Transactions do not isolate:
// lock what threads share.
//
// The library's own sources have a namespace btd too, with another `persistent`: no source includes
// both this and one of alloc/. The inline namespace keeps the two apart where they are linked.
#ifndef BARTENDER_HPP
#define BARTENDER_HPP

#if __cplusplus < 201703L
#error "bartender.hpp needs C++17 or later; C and older C++ include bartender.h."
#endif

#include <bartender.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>

namespace btd {
inline namespace v1 {

// What a call failed with: code() is the errno, what() ends with its words after the sentence.
class error : public std::system_error {
 public:
  using std::system_error::system_error;
};

namespace detail {

// Throws what errno and btd_strerror() say; std::bad_alloc where memory is missing.
[[noreturn]] inline void fail() {
  const int code = errno;
  if (code == ENOSPC || code == ENOMEM) throw std::bad_alloc();
  throw error(code, std::generic_category(), btd_strerror());
}

inline std::atomic<btd_cluster*> default_heap{nullptr};

// T(args...) where there is such a constructor, else T{args...}.
template <class T, class... Args>
T* construct(void* at, Args&&... args) {
  if constexpr (std::is_constructible_v<T, Args&&...>) {
    return ::new (at) T(std::forward<Args>(args)...);
  } else {
    return ::new (at) T{std::forward<Args>(args)...};
  }
}

}  // namespace detail

// ---- Heaps ----------------------------------------------------------------------------------

// An open heap: opened by the constructor, closed by the destructor (contract R: opening again
// after any crash finds it consistent). Converts to the handle that the C calls take. Opening a
// heap twice in a process counts; each object closes once.
class cluster {
 public:
  // The heap "default" of this user; see single_node in bartender.h. Throws error.
  cluster() {
    btd_config config{};
    config.single_node = 1;
    open(config);
  }
  // The heap `name` in `directory`, made if absent. Throws error, std::bad_alloc.
  explicit cluster(const char* directory, const char* name = nullptr) {
    btd_config config;
    btd_config_init(&config);
    config.directory = directory;
    config.heap = name;
    open(config);
  }
  // As configured. Throws error, std::bad_alloc.
  explicit cluster(btd_config config) { open(config); }

  cluster(cluster&& other) noexcept : heap_(std::exchange(other.heap_, nullptr)) {}
  cluster& operator=(cluster&& other) noexcept {
    std::swap(heap_, other.heap_);
    return *this;
  }
  cluster(const cluster&) = delete;
  cluster& operator=(const cluster&) = delete;
  // Cannot report: where the outcome matters, call close() first. A heap that cannot be closed,
  // since a transaction is open, stays open.
  ~cluster() {
    if (heap_ != nullptr) static_cast<void>(btd_cluster_destroy(forget()));
  }

  // Marks the heap clean; the object is empty then. Throws error (EBUSY a transaction is open, and
  // the object keeps the heap; EIO).
  void close() {
    if (heap_ == nullptr) return;
    btd_cluster* const heap = heap_;
    if (btd_cluster_destroy(heap) != 0) {
      if (errno != EBUSY) static_cast<void>(forget());
      detail::fail();
    }
    static_cast<void>(forget());
  }

  [[nodiscard]] btd_cluster* get() const noexcept { return heap_; }
  operator btd_cluster*() const noexcept { return heap_; }  // NOLINT(google-explicit-constructor)

  // Allocators made without a heap use this one from now on, until it is closed. Any thread.
  void make_default() const noexcept { detail::default_heap.store(heap_); }

 private:
  void open(btd_config& config) {
    heap_ = btd_cluster_create(&config);
    if (heap_ == nullptr) detail::fail();
  }
  // Empties the object. Another object of the same heap makes it the default again if need be.
  btd_cluster* forget() noexcept {
    btd_cluster* expected = heap_;
    detail::default_heap.compare_exchange_strong(expected, nullptr);
    return std::exchange(heap_, nullptr);
  }

  btd_cluster* heap_ = nullptr;
};

// The heap of cluster::make_default(), or null. Any thread.
[[nodiscard]] inline btd_cluster* default_cluster() noexcept { return detail::default_heap.load(); }

// Makes durable whatever plain stores left in blocks of contract R, for example in containers:
// flushes all of them, in time that grows with their sizes. Nobody changes the heap meanwhile.
// A process's death loses no store anyhow; the power's does. Throws error.
inline void sync(btd_cluster* heap) {
  const auto flush = [](const btd_object* object, void*) {
    return object->contract == 'R' ? btd_flush(object->at, object->bytes) : 0;
  };
  if (btd_foreach(heap, flush, nullptr) != 0 || btd_drain(heap) != 0) detail::fail();
}

// ---- Allocator (contract R) -----------------------------------------------------------------

// Gives containers their memory from a heap: std::vector, std::map, std::unordered_map, std::list,
// std::basic_string, those of Boost. The container may itself lie in the heap, as what
// root_or_make() returns: an allocator keeps no handle but the heap's address, so that a container
// found by another process goes on allocating where it did.
//
// Contract R is of the memory: after a crash no block is lost or torn from the heap, but a change
// of the container that was under way is as far as its stores got. Rebuild such a container, or
// keep it behind a ptr and change a copy. A clean close, and sync() where power may fail, keep all.
//
// It is not propagated by assignment or swap: elements then never move to another heap unnoticed.
// Swapping containers of two heaps is undefined, as the standard has it. Thread-safety: any thread.
template <class T>
class allocator {
 public:
  using value_type = T;
  using is_always_equal = std::false_type;
  using propagate_on_container_copy_assignment = std::false_type;
  using propagate_on_container_move_assignment = std::false_type;
  using propagate_on_container_swap = std::false_type;

  // Of the default heap as it is now; without one, allocate() throws.
  allocator() noexcept : allocator(default_cluster()) {}
  // Of this heap. Null: allocate() throws.
  allocator(btd_cluster* heap) noexcept  // NOLINT(google-explicit-constructor)
      : base_(heap == nullptr ? nullptr : btd_cluster_base(heap)) {}
  allocator(const cluster& heap) noexcept  // NOLINT(google-explicit-constructor)
      : allocator(heap.get()) {}
  template <class U>
  allocator(const allocator<U>& other) noexcept  // NOLINT(google-explicit-constructor)
      : base_(other.base_) {}

  // Throws std::bad_array_new_length, std::bad_alloc (the heap is full, not open, or none).
  [[nodiscard]] T* allocate(std::size_t count) {
    static_assert(alignof(T) <= 65536, "a heap aligns to at most 64 KiB");
    if (count > std::numeric_limits<std::size_t>::max() / sizeof(T)) {
      throw std::bad_array_new_length();
    }
    btd_cluster* const from = heap();
    void* const block = alignof(T) <= kPlainAlignment
                            ? btd_malloc(from, count * sizeof(T))
                            : btd_aligned_alloc(from, alignof(T), count * sizeof(T));
    if (block == nullptr) throw std::bad_alloc();
    return static_cast<T*>(block);
  }
  void deallocate(T* block, std::size_t /*count*/) noexcept { btd_free(block); }

  // The heap's handle in this process; null where it is not open.
  [[nodiscard]] btd_cluster* heap() const noexcept {
    return base_ == nullptr ? nullptr : btd_cluster_of(base_);
  }

  // Of the same heap.
  template <class U>
  friend bool operator==(const allocator& a, const allocator<U>& b) noexcept {
    return a.same(b);
  }
  template <class U>
  friend bool operator!=(const allocator& a, const allocator<U>& b) noexcept {
    return !a.same(b);
  }

 private:
  template <class>
  friend class allocator;
  static constexpr std::size_t kPlainAlignment = 16;

  template <class U>
  [[nodiscard]] bool same(const allocator<U>& other) const noexcept {
    return base_ == other.base_;
  }

  void* base_;  // where the heap's addresses begin
};

// ---- Variables (contract T) -----------------------------------------------------------------

// A variable in a heap. An assignment inside a transaction takes effect when that commits, and this
// thread reads it before; outside, it is failure-atomic and durable when it returns (contract P).
// T is trivially copyable. It takes whole words, so that neighbours never share one.
//
// On the stack, in DRAM and in a working copy of btd_tx_add() it is a plain variable. Construction
// is a plain store: construct by make_persistent() and its like, which persist the object.
// Where a working copy of what holds it exists, an assignment goes to the copy; but a T of more
// than 64 bytes is changed in one way or the other, else the commit fails with EINVAL.
//
// Throws error: EINVAL the memory is no block of the heap; ECANCELED the transaction was aborted.
// std::bad_alloc: a long assignment outside a transaction found no room for its shadow.
template <class T>
class persistent {
  static_assert(std::is_trivially_copyable_v<T>,
                "btd::persistent<T> needs a trivially copyable T: it is copied as bytes");
  static_assert(alignof(T) <= 64, "btd::persistent<T>: a block aligns to at most 64");

 public:
  using value_type = T;

  persistent() noexcept : persistent(T{}) {}
  persistent(const T& value) noexcept {
    put(bytes_, value);
  }  // NOLINT(google-explicit-constructor)
  persistent(const persistent& other) : persistent(other.get()) {}

  persistent& operator=(const T& value) {
    assign(value);
    return *this;
  }
  persistent& operator=(const persistent& other) {
    assign(other.get());
    return *this;
  }

  // The value, as this thread's transaction has it.
  [[nodiscard]] T get() const {
    T value{};
    btd_tx_read(static_cast<void*>(&value), bytes_, sizeof(T));
    return value;
  }
  operator T() const { return get(); }  // NOLINT(google-explicit-constructor)

  template <class U>
  persistent& operator+=(const U& by) {
    return *this = static_cast<T>(get() + by);
  }
  template <class U>
  persistent& operator-=(const U& by) {
    return *this = static_cast<T>(get() - by);
  }
  persistent& operator++() {
    T value = get();
    return *this = ++value;
  }
  persistent& operator--() {
    T value = get();
    return *this = --value;
  }
  T operator++(int) {
    const T before = get();
    ++*this;
    return before;
  }
  T operator--(int) {
    const T before = get();
    --*this;
    return before;
  }

 private:
  static constexpr std::size_t kBytes = (sizeof(T) + 7) / 8 * 8;

  static void put(std::byte* to, const T& value) noexcept {
    std::memcpy(to, static_cast<const void*>(&value), sizeof(T));
    if constexpr (kBytes > sizeof(T)) std::memset(to + sizeof(T), 0, kBytes - sizeof(T));
  }
  void assign(const T& value) {
    if (btd_cluster_of(this) == nullptr) return put(bytes_, value);
    std::byte whole[kBytes];
    put(whole, value);
    const bool stored = btd_tx_depth() == 0 ? btd_memcpy(bytes_, whole, kBytes) != nullptr
                                            : btd_tx_set(bytes_, whole, kBytes) == 0;
    if (!stored) detail::fail();
  }

  alignas(std::max<std::size_t>(alignof(T), 8)) std::byte bytes_[kBytes];
};

// A pointer variable in a heap: a persistent<T*> that is used like a T*. It stores the plain
// address, 8 bytes, and std::pointer_traits know it. What it points to is used by plain accesses.
template <class T>
class ptr : public persistent<T*> {
 public:
  using element_type = T;
  using difference_type = std::ptrdiff_t;
  template <class U>
  using rebind = ptr<U>;

  ptr() noexcept = default;
  ptr(std::nullptr_t) noexcept {}              // NOLINT(google-explicit-constructor)
  ptr(T* at) noexcept : persistent<T*>(at) {}  // NOLINT(google-explicit-constructor)
  ptr(const ptr&) = default;
  ptr& operator=(const ptr&) = default;
  ptr& operator=(T* at) {
    persistent<T*>::operator=(at);
    return *this;
  }

  [[nodiscard]] T* operator->() const { return this->get(); }
  [[nodiscard]] std::add_lvalue_reference_t<T> operator*() const { return *this->get(); }
  [[nodiscard]] std::add_lvalue_reference_t<T> operator[](std::ptrdiff_t i) const {
    return this->get()[i];
  }

  template <class U = T>
  [[nodiscard]] static ptr pointer_to(std::enable_if_t<!std::is_void_v<U>, U>& object) {
    return ptr(std::addressof(object));
  }
};

// ---- Transactions (contract T) ----------------------------------------------------------------

namespace detail {

// Aborts the transaction it began unless it committed.
class tx_scope {
 public:
  explicit tx_scope(btd_cluster* heap) {
    if (btd_tx_begin(heap) != 0) fail();
    depth_ = btd_tx_depth();
  }
  tx_scope(const tx_scope&) = delete;
  tx_scope& operator=(const tx_scope&) = delete;
  ~tx_scope() {
    while (depth_ != 0 && btd_tx_depth() >= depth_ && btd_tx_abort() == 0) {
    }
  }
  void commit() {
    if (btd_tx_depth() != depth_) {
      throw error(EINVAL, std::generic_category(),
                  "The body of btd::transaction() began or ended one by itself; throw to abort.");
    }
    depth_ = 0;
    if (btd_tx_commit() != 0) fail();
  }

 private:
  unsigned depth_ = 0;
};

}  // namespace detail

// Runs body() in a transaction: all that it changes through persistent variables, working copies
// and make_persistent()/destroy() takes effect when it returns, or, if it throws or a crash comes,
// nothing. Returns what body() returns. An exception of body() aborts and comes out as it was.
// Nested: the inner one joins the outer; one that throws aborts the outermost, which then, if it
// caught that, throws error with ECANCELED. What body() changed in DRAM stays changed.
// Throws error: EINVAL (another heap's transaction is open; working copies overlap), ECANCELED,
// E2BIG (too many changes for one transaction: 256 KiB of log), EIO; nothing changed but for EIO.
template <class Body>
std::invoke_result_t<Body&> transaction(btd_cluster* heap, Body&& body) {
  using R = std::invoke_result_t<Body&>;
  detail::tx_scope scope(heap);
  if constexpr (std::is_void_v<R>) {
    body();
    scope.commit();
  } else {
    R result = body();
    scope.commit();
    return std::forward<R>(result);
  }
}

namespace detail {

// Makes a block of this transaction, stored to in its place, part of it. What a constructor
// assigned to persistent members is with the transaction already, and goes to its place first.
inline void enter(void* block, std::size_t bytes) {
  btd_tx_read(block, block, bytes);
  void* const copy = btd_tx_add(block, bytes);
  if (copy == nullptr) fail();
  std::memcpy(copy, block, bytes);
}

}  // namespace detail

// ---- Objects ----------------------------------------------------------------------------------

// Makes a T in the heap of this thread's transaction: it is there when that commits, and was never
// there if it does not. Constructed in its place, so that its members may be read there at once;
// changed by persistent members or a working copy from then on. Link it by a ptr.
// T needs no destructor, for it would not run at an abort: hold no container by value (that is what
// make_recoverable() is for). Throws error (EINVAL no transaction is open), std::bad_alloc, and
// what the constructor throws.
template <class T, class... Args>
[[nodiscard]] T* make_persistent(Args&&... args) {
  static_assert(std::is_trivially_destructible_v<T>,
                "btd::make_persistent<T>: T needs a trivial destructor; see make_recoverable()");
  static_assert(alignof(T) <= 16, "btd::make_persistent<T>: a block aligns to 16");
  void* const block = btd_tx_alloc(sizeof(T));
  if (block == nullptr) detail::fail();
  try {
    T* const made = detail::construct<T>(block, std::forward<Args>(args)...);
    detail::enter(block, sizeof(T));
    return made;
  } catch (...) {
    static_cast<void>(btd_tx_free(block));
    throw;
  }
}

// Frees, at commit, what make_persistent() made. Null does nothing. Throws error (EINVAL no
// transaction is open, or it is no such object).
template <class T>
void destroy(T* object) {
  static_assert(std::is_trivially_destructible_v<T>,
                "destroy() is for make_persistent()'s objects");
  if (object != nullptr && btd_tx_free(object) != 0) detail::fail();
}
template <class T>
void destroy(const ptr<T>& object) {
  destroy(object.get());
}

// Makes a T of contract R: it survives as long as a root reaches it, and is reclaimed without its
// destructor after a crash if none does. For containers, and what holds them. The object itself is
// persisted; what its members allocated is theirs to persist, see sync(). Throws std::bad_alloc,
// error, and what the constructor throws.
template <class T, class... Args>
[[nodiscard]] T* make_recoverable(btd_cluster* heap, Args&&... args) {
  T* const block = allocator<T>(heap).allocate(1);
  try {
    T* const made = detail::construct<T>(block, std::forward<Args>(args)...);
    if (btd_persist(made, sizeof(T)) != 0) detail::fail();
    return made;
  } catch (...) {
    btd_free(block);
    throw;
  }
}

// Destructs and frees what make_recoverable() made, at once. Null does nothing. Take it from its
// root first. Throws nothing that the destructor does not.
template <class T>
void destroy_recoverable(T* object) {
  if (object == nullptr) return;
  object->~T();
  btd_free(object);
}

// What the root `name` points to, or null where there is none. The caller knows its type; waits
// until what a crash left is reclaimed. Throws error.
template <class T>
[[nodiscard]] T* root(btd_cluster* heap, const char* name) {
  void* const found = btd_root(heap, name);
  if (found == nullptr && errno != ENOENT) detail::fail();
  return static_cast<T*>(found);
}

// The same; where there is none, makes it by make_recoverable() first: whole or, after a crash, not
// at all. One thread at a time for one name. Throws as make_recoverable().
template <class T, class... Args>
[[nodiscard]] T* root_or_make(btd_cluster* heap, const char* name, Args&&... args) {
  if (T* const found = root<T>(heap, name); found != nullptr) return found;
  T* const made = make_recoverable<T>(heap, std::forward<Args>(args)...);
  if (btd_set_root(heap, name, made) != 0) {
    const int code = errno;
    destroy_recoverable(made);
    errno = code;
    detail::fail();
  }
  return made;
}

}  // namespace v1
}  // namespace btd

#endif  // BARTENDER_HPP
