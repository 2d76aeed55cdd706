// The files of a program's heap, as `btd heap` looks at them.
#include <bartender.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "alloc/unique_fd.h"
#include "libbtd/tools/heap_check.h"
#include "tests/fuzz/damage.h"
#include "tests/fuzz/target.h"

namespace btd::fuzz {

namespace {

class HeapFiles {
 public:
  static HeapFiles& the_one() {
    static HeapFiles files;
    return files;
  }
  HeapFiles(const HeapFiles&) = delete;
  HeapFiles& operator=(const HeapFiles&) = delete;
  ~HeapFiles() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  [[nodiscard]] std::string path() const { return directory_ + "/fuzzed"; }
  [[nodiscard]] const std::vector<std::size_t>& lines() const { return lines_; }

  void damage(Input input) {
    for_each_change(input, lines_, [this](std::size_t at, Input bytes) {
      write(at, bytes);
      harmed_.push_back({at, bytes.size()});
    });
  }
  void mend() {
    for (const auto& [at, size] : harmed_) write(at, input_of(good_).subspan(at, size));
    harmed_.clear();
  }

 private:
  HeapFiles() {
    directory_ = (std::filesystem::temp_directory_path() / "btd-fuzz-XXXXXX").string();
    check(::mkdtemp(directory_.data()) != nullptr);
    make_heap();
    const std::string arena = path() + "/arena.0";
    std::ostringstream bytes;
    bytes << std::ifstream(arena, std::ios::binary).rdbuf();
    good_ = bytes.str();
    lines_ = used_lines(good_);
    arena_.reset(::open(arena.c_str(), O_WRONLY | O_CLOEXEC));
    check(arena_ && !lines_.empty());
  }
  void make_heap() const {
    btd_config config;
    btd_config_init(&config);
    config.directory = directory_.c_str();
    config.heap = "fuzzed";
    config.arena_bytes = 32 << 20;
    btd_cluster* const heap = btd_cluster_create(&config);
    check(heap != nullptr);
    // A chain: each block's first word points to the next.
    auto* const first = static_cast<void**>(btd_malloc(heap, 64));
    check(first != nullptr);
    *first = nullptr;
    void** last = first;
    for (std::size_t i = 0; i < 60; ++i) {
      void* const made = btd_malloc_to(last, i * 50 + 16);
      check(made != nullptr);
      last = static_cast<void**>(made);
      *last = nullptr;
    }
    check(btd_set_root(heap, "first", first) == 0);
    check(btd_cluster_destroy(heap) == 0);
  }
  void write(std::size_t at, Input bytes) const {
    check(::pwrite(arena_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)) ==
          static_cast<ssize_t>(bytes.size()));
  }

  std::string directory_, good_;
  UniqueFd arena_;
  std::vector<std::size_t> lines_;
  std::vector<std::pair<std::size_t, std::size_t>> harmed_;
};

void run(Input input) {
  HeapFiles& files = HeapFiles::the_one();
  files.damage(input);
  const auto report = check_heap(files.path(), {});
  files.mend();
  if (!report) return check(!report.error().message.empty());
  check(!input.empty() || (report->uncorrected == 0 && report->notes == 0));
}

}  // namespace

Target heap_target() {
  return {.run = run, .seeds = changes_of(HeapFiles::the_one().lines()), .most_bytes = 256};
}

}  // namespace btd::fuzz
