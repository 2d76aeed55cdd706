// Programs on several mounts of one coherent file: `litmus CASE SECONDS PATH...`, one process for
// each path. What they agree about beside the file goes through memory of this machine, so that the
// file alone is on trial. The exit code is 0, 1 with a sentence, or 2 where it could not be tried.
//
//   buffering   store own word, load the other's: at least one sees the other's store
//   message     data, then flag: who sees the flag sees the data; readers opened for reading only
//   counter     fetch_add on one word: none is lost, none comes twice
//   sharing     words of one page, each stored to by one process: none is lost
//   mixed       read, write, loads, stores and truncates one at a time, against a model
//   truncate    sizes beyond a part that all store to all the while
//   calls       words of one page by read(2) and write(2), beside stores to others of it
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 16;
constexpr std::size_t kBytes = kPages * kPage;
constexpr int kMostProcesses = 9;

using Word = std::atomic<std::uint64_t>;

// Of all processes, in memory that no file is behind.
struct Shared {
  pthread_mutex_t mutex;
  std::atomic<unsigned> arrived[2];
  std::atomic<bool> stop, failed;
  std::atomic<std::uint64_t> seen[kMostProcesses];
  std::atomic<std::uint64_t> done[kMostProcesses];
  std::uint64_t model_bytes;
  unsigned char model[kBytes];
};

Shared* shared;
int processes;

[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
  std::exit(2);
}

bool wrong(const std::string& what) {
  if (!shared->failed.exchange(true)) std::fprintf(stderr, "wrong: %s\n", what.c_str());
  shared->stop = true;
  return false;
}

// A name that another mount made a moment ago may not be there yet.
int open_soon(const char* path, int flags) {
  for (int i = 0;; ++i) {
    const int fd = ::open(path, flags | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT || i == 200) return fd;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

struct File {
  File(const char* path, bool writes) : fd(open_soon(path, writes ? O_RDWR : O_RDONLY)) {
    if (fd < 0) refuse(path);
    void* at = mmap(nullptr, kBytes, PROT_READ | (writes ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) refuse("mmap");
    base = static_cast<unsigned char*>(at);
  }
  [[nodiscard]] Word& word(std::size_t page, std::size_t index = 0) const {
    return *reinterpret_cast<Word*>(base + page * kPage + index * sizeof(Word));
  }
  int fd;
  unsigned char* base;
};

// All processes meet at it; `round` counts from 0. False: it is over.
bool meet(std::uint64_t round) {
  auto& here = shared->arrived[round % 2];
  const auto all = static_cast<unsigned>(processes) * static_cast<unsigned>(round / 2 + 1);
  here.fetch_add(1);
  while (here.load() < all) {
    if (shared->failed) return false;
    sched_yield();
  }
  return !shared->failed;
}

// ---- cases: true is right

// Two threads that store and load see each other's stores in one order. All agree on when to stop.
bool buffering(int me, const File& file) {
  for (std::uint64_t round = 1;; ++round) {
    if (me < 2) {
      file.word(static_cast<std::size_t>(me)).store(round);
      shared->seen[me] = file.word(static_cast<std::size_t>(1 - me)).load();
    }
    if (!meet(2 * round - 2)) return false;
    if (shared->seen[0] < round && shared->seen[1] < round)
      return wrong("both loads of round " + std::to_string(round) + " missed the other's store");
    shared->done[me] = round;
    const bool is_over = shared->stop;
    if (me == 0) shared->done[kMostProcesses - 1] = is_over ? 1 : 0;
    if (!meet(2 * round - 1)) return false;
    if (shared->done[kMostProcesses - 1] != 0) return true;
  }
}

bool message(int me, const File& file) {
  for (std::uint64_t i = 1; !shared->stop; ++i) {
    if (me == 0) {
      file.word(0, i % 8).store(i, std::memory_order_release);
      file.word(0, 8).store(i, std::memory_order_release);
      file.word(1).store(i, std::memory_order_release);
    } else {
      const std::uint64_t flag = file.word(1).load(std::memory_order_acquire);
      const std::uint64_t data = file.word(0, 8).load(std::memory_order_acquire);
      const std::uint64_t old = shared->seen[me].exchange(flag);
      if (flag < old)
        return wrong("the flag went back from " + std::to_string(old) + " to " +
                     std::to_string(flag));
      if (data < flag)
        return wrong("flag " + std::to_string(flag) + ", data " + std::to_string(data));
      if (flag != old) ++shared->done[me];
      continue;
    }
    shared->done[me] = i;
  }
  return true;
}

bool counter(int me, const File& file) {
  std::uint64_t last = 0;
  for (std::uint64_t i = 1; !shared->stop; ++i) {
    const std::uint64_t before = file.word(0).fetch_add(1);
    if (i > 1 && before <= last) return wrong("fetch_add returned a value twice");
    last = before;
    shared->done[me] = i;
  }
  return true;
}

bool sharing(int me, const File& file) {
  Word& own = file.word(0, static_cast<std::size_t>(me));
  for (std::uint64_t i = 1; !shared->stop; ++i) {
    if (const std::uint64_t found = own.load(); found != i - 1)
      return wrong("stored " + std::to_string(i - 1) + ", loaded " + std::to_string(found));
    own.store(i);
    shared->done[me] = i;
  }
  return true;
}

// ---- mixed

// What is beyond the end is not touched: the size is the model's, under the mutex.
bool mixed_step(std::mt19937_64& random, const File& file) {
  const std::uint64_t size = shared->model_bytes;
  const std::uint64_t at = random() % size;
  const std::uint64_t length = std::min<std::uint64_t>(1 + random() % 9000, size - at);
  unsigned char bytes[9001];
  unsigned char* const model = shared->model + at;
  const auto fill = static_cast<int>(random() % 255 + 1);
  const std::string where = std::to_string(at) + "+" + std::to_string(length);
  switch (random() % 8) {
    case 0:
    case 1:
      std::memcpy(bytes, file.base + at, length);
      return std::memcmp(bytes, model, length) == 0 || wrong("loads are stale at " + where);
    case 2:
    case 3:
      std::memset(model, fill, length);
      std::memset(file.base + at, fill, length);
      return true;
    case 4: {
      const ssize_t n = pread(file.fd, bytes, length, static_cast<off_t>(at));
      if (n != static_cast<ssize_t>(length)) return wrong("a read is short at " + where);
      return std::memcmp(bytes, model, length) == 0 || wrong("a read is stale at " + where);
    }
    case 5: {
      std::memset(model, fill, length);
      std::memset(bytes, fill, length);
      const ssize_t n = pwrite(file.fd, bytes, length, static_cast<off_t>(at));
      return n == static_cast<ssize_t>(length) || wrong("a write is short at " + where);
    }
    case 6: {
      const std::uint64_t now = kPage + random() % (kBytes - kPage);
      if (ftruncate(file.fd, static_cast<off_t>(now)) != 0)
        return wrong(std::string("ftruncate: ") + std::strerror(errno));
      if (now < size) std::memset(shared->model + now, 0, size - now);
      shared->model_bytes = now;
      return true;
    }
    default: {
      struct stat facts{};
      if (fstat(file.fd, &facts) != 0) return wrong("fstat");
      return static_cast<std::uint64_t>(facts.st_size) == size ||
             wrong("the size is " + std::to_string(facts.st_size) + ", not " +
                   std::to_string(size));
    }
  }
}

bool mixed(int me, const File& file) {
  std::mt19937_64 random(static_cast<std::uint64_t>(me) + 1);
  for (std::uint64_t i = 1; !shared->stop; ++i) {
    if (pthread_mutex_lock(&shared->mutex) != 0) return wrong("another process died");
    const bool is_right = mixed_step(random, file);
    pthread_mutex_unlock(&shared->mutex);
    if (!is_right) return false;
    shared->done[me] = i;
  }
  return true;
}

// Its own words are in the first pages, in reach of every size: one of a page that is kept, and one
// of the page in which the end moves.
bool truncate(int me, const File& file) {
  std::mt19937_64 random(static_cast<std::uint64_t>(me) + 1);
  const auto own = static_cast<std::size_t>(me);
  for (std::uint64_t i = 1; !shared->stop; ++i) {
    for (const std::size_t page : {0, 1}) {
      if (const std::uint64_t found = file.word(page, own).load(); found != i - 1)
        return wrong("stored " + std::to_string(i - 1) + " into page " + std::to_string(page) +
                     ", loaded " + std::to_string(found));
      file.word(page, own).store(i);
    }
    const std::uint64_t size = kPage + 512 + random() % (kBytes - kPage - 512);
    if (i % 4 == 0 && ftruncate(file.fd, static_cast<off_t>(size)) != 0)
      return wrong(std::string("ftruncate: ") + std::strerror(errno));
    shared->done[me] = i;
  }
  return true;
}

bool calls(int me, const File& file) {
  const auto own = static_cast<std::size_t>(me);
  for (std::uint64_t i = 1; !shared->stop; ++i) {
    const auto at = static_cast<off_t>((own + 16) * sizeof(Word));
    std::uint64_t found = 0;
    if (pread(file.fd, &found, sizeof found, at) != sizeof found || found != i - 1)
      return wrong("wrote " + std::to_string(i - 1) + ", read " + std::to_string(found));
    if (file.word(0, own).load() != i - 1) return wrong("a store is lost beside calls");
    if (pwrite(file.fd, &i, sizeof i, at) != sizeof i) return wrong("a write failed");
    if (file.word(0, own + 16).load() != i) return wrong("a load missed a write");
    file.word(0, own).store(i);
    shared->done[me] = i;
  }
  return true;
}

// ---- all of it

using Case = bool (*)(int, const File&);

Case case_of(std::string_view name) {
  if (name == "buffering") return buffering;
  if (name == "message") return message;
  if (name == "counter") return counter;
  if (name == "sharing") return sharing;
  if (name == "mixed") return mixed;
  if (name == "truncate") return truncate;
  if (name == "calls") return calls;
  return nullptr;
}

void prepare(const char* path) {
  void* at =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) refuse("mmap");
  shared = new (at) Shared{};
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);  // who has it may die
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&shared->mutex, &attributes);
  shared->model_bytes = kBytes;
  const int fd = ::open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, kBytes) != 0) refuse(path);
  close(fd);
}

// What is in the file afterwards, by each mount.
bool is_right_at_end(std::string_view name, const std::vector<const char*>& paths) {
  std::uint64_t sum = 0;
  for (int i = 0; i < processes; ++i) sum += shared->done[i];
  for (const char* path : paths) {
    const File file(path, false);
    if (name == "counter" && file.word(0) != sum)
      return wrong(std::to_string(sum) + " additions, the sum is " + std::to_string(file.word(0)) +
                   " at " + path);
    for (int i = 0; (name == "sharing" || name == "truncate" || name == "calls") && i < processes;
         ++i)
      if (file.word(0, static_cast<std::size_t>(i)) != shared->done[i])
        return wrong("the last store of process " + std::to_string(i) + " is not at " + path);
    if (name == "mixed" && std::memcmp(file.base, shared->model, shared->model_bytes) != 0)
      return wrong(std::string("other contents at ") + path);
  }
  return true;
}

int run(std::string_view name, double seconds, const std::vector<const char*>& paths) {
  const Case act = case_of(name);
  processes = static_cast<int>(paths.size());
  if (act == nullptr || processes < 2 || processes > kMostProcesses - 1) return 2;
  prepare(paths[0]);
  std::vector<pid_t> children;
  for (int me = 0; me < processes; ++me) {
    const pid_t pid = fork();
    if (pid == 0) {
      const bool only_reads = name == "message" && me != 0;
      const File file(paths[static_cast<std::size_t>(me)], !only_reads);
      std::exit(act(me, file) ? 0 : 1);
    }
    children.push_back(pid);
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < until && !shared->stop)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  shared->stop = true;
  bool is_right = true;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) is_right = false;
    if (WIFSIGNALED(status))
      std::fprintf(stderr, "wrong: a process was ended by signal %d\n", WTERMSIG(status));
  }
  is_right = is_right && is_right_at_end(name, paths);
  std::printf("%.*s:", static_cast<int>(name.size()), name.data());
  for (int i = 0; i < processes; ++i)
    std::printf(" %llu", static_cast<unsigned long long>(shared->done[i].load()));
  std::printf(" steps\n");
  return is_right ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  if (count < 5) return 2;
  return run(words[1], std::atof(words[2]), {words + 3, words + count});
}
