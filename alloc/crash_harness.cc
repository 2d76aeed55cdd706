#include "alloc/crash_harness.h"

#include <thread>

namespace btd {

std::string CrashHarness::Report::summary() const {
  std::string text = std::to_string(crashes) + " crashes (" + std::to_string(nested) +
                     " in recovery) at " + std::to_string(fences) + " fences, " +
                     std::to_string(failures.size()) + " failures";
  for (const std::string& failure : failures) text += "\n  " + failure;
  return text;
}

Status CrashHarness::make_regions() {
  for (auto* region : {&region_, &image_, &nested_image_}) {
    BTD_ASSIGN(*region, EmulatedNvram::create(options_.arena_bytes, options_.max_arenas));
  }
  return {};
}

bool CrashHarness::chosen() {
  if (enough()) return false;
  return options_.probability >= 1.0 ||
         std::uniform_real_distribution<>(0.0, 1.0)(random_) < options_.probability;
}

// On a thread of its own: what the interrupted call keeps in its thread is not the check's, as it
// would not be after a crash.
Status CrashHarness::run_apart(const Step& check, ArenaSource& region) {
  Status status;
  std::thread([&] { status = check(region); }).join();
  return status;
}

// Checks image_, and every crash in its recovery.
void CrashHarness::check_image(const Step& check, const std::string& where) {
  std::uint64_t fence = 0;
  if (options_.nested) {
    image_->on_fence([&] {
      ++fence;
      if (enough()) return;
      image_->crash_into(*nested_image_, random_());
      ++report_.crashes;
      ++report_.nested;
      const Status status = run_apart(check, *nested_image_);
      if (status) return;
      report_.failures.push_back(where + ", then at fence " + std::to_string(fence) +
                                 " of recovery: " + status.error().message);
    });
  }
  ++report_.crashes;
  const Status status = run_apart(check, *image_);
  image_->on_fence({});
  if (status) return;
  report_.failures.push_back(where + ": " + status.error().message);
}

void CrashHarness::crash_here(const Step& check) {
  for (unsigned i = 0; i < options_.seeds && !enough(); ++i) {
    const std::uint64_t seed = random_();
    region_->crash_into(*image_, seed);
    check_image(check, "crash at fence " + std::to_string(report_.fences) + ", image " +
                           std::to_string(i) + " (seed " + std::to_string(seed) + ")");
  }
}

CrashHarness::Report CrashHarness::run(const Step& setup, const Step& workload, const Step& check) {
  report_ = {};
  random_.seed(options_.seed);
  Status status = make_regions();
  if (status) status = setup(*region_);
  if (!status) {
    report_.failures.push_back("setup: " + status.error().message);
    return report_;
  }
  region_->arm(options_.mutation);
  region_->on_fence([&] {
    ++report_.fences;
    if (chosen()) crash_here(check);
  });
  status = workload(*region_);
  region_->on_fence({});
  report_.flushes = region_->flushes();
  if (!status) report_.failures.push_back("workload: " + status.error().message);
  ++report_.fences;  // the end counts as one
  if (!enough()) crash_here(check);
  return report_;
}

}  // namespace btd
