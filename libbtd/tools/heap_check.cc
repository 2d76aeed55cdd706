#include "libbtd/tools/heap_check.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "alloc/unique_fd.h"
#include "libbtd/cluster.h"
#include "libbtd/tools/census.h"
#include "libbtd/tools/heap_image.h"
#include "libbtd/tools/reach.h"

namespace btd {
namespace {

std::string counted(std::uint64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

class HeapCheck {
 public:
  HeapCheck(const std::string& path, const HeapCheckOptions& options)
      : path_(path), options_(options) {}

  Result<HeapReport> run() {
    Result<std::unique_ptr<HeapImage>> image = HeapImage::open(path_);
    if (!image) {
      if (image.error().code != EUCLEAN) return std::unexpected(std::move(image).error());
      add(Severity::kProblem, image.error().message);
      return std::move(report_);
    }
    image_ = *std::move(image);
    BTD_TRY(image_->idle());
    show("headers");
    check_state();
    show("journal");
    if (const Status replayed = image_->replay(); !replayed) {
      // Another version in a later arena, say: that is no damage.
      if (replayed.error().code != EUCLEAN && replayed.error().code != EIO)
        return std::unexpected(replayed.error());
      add(Severity::kProblem, replayed.error().message);
      check_segments(replayed.error().message);
      return std::move(report_);
    }
    check_journal();
    check_segments({});
    image_->heap().check([&](const std::string& sentence) { add(Severity::kProblem, sentence); });
    show("roots and types");
    check_names();
    show("objects");
    count_objects();
    return std::move(report_);
  }

 private:
  void show(std::string_view phase) const {
    if (options_.progress) options_.progress(phase);
  }

  void add(Severity severity, std::string sentence) {
    ++(severity == Severity::kNote ? report_.notes : report_.uncorrected);
    if (report_.findings.size() == HeapReport::kMaxFindings) return;
    report_.findings.push_back({.severity = severity, .sentence = std::move(sentence)});
  }

  void check_state() {
    report_.arenas = image_->arenas();
    const std::optional<HeapState>& state = image_->state();
    if (state && !state->clean) {
      add(Severity::kNote,
          image_->bits_hold()
              ? "The heap was not closed; the next open recovers it."
              : "The heap was not closed before the machine stopped; the next open recovers it. "
                "Until then it is not known which unreached objects were freed.");
    }
  }

  void check_journal() {
    const Journal::Recovery replayed = image_->heap().stats().recovery;
    if (replayed.records == 0) return;
    add(Severity::kNote, "The journal has " + counted(replayed.records, "record") +
                             " that are not home; the next open replays them.");
  }

  // `said`: the sentence of the open that failed, which named one of them already.
  void check_segments(const std::string& said) {
    for_each_segment(*image_, [&](const SegmentUse& segment) {
      report_.segments += segment.span;
      if (segment.kind != SegmentUse::Kind::kDamaged) return;
      const std::string which = "The header of segment " + std::to_string(segment.index) +
                                " of arena " + std::to_string(segment.arena) + " is damaged (" +
                                segment.damage + ")";
      if (said.starts_with(which)) return;
      add(Severity::kProblem, which + "; restore the heap from a backup.");
    });
  }

  void check_names() {
    const auto problem = [&](const std::string& sentence) { add(Severity::kProblem, sentence); };
    if (const Status checked = image_->names().check(problem); !checked)
      problem(checked.error().message);
    const auto roots = image_->names().roots();
    if (!roots) return problem(roots.error().message);
    report_.roots = roots->size();
    for (const auto& [name, pointer] : *roots) {
      const std::uint64_t at = pointer - image_->address();
      const bool block = image_->heap().contains(at, 1) &&
                         image_->heap().slot_of(at).segment != nullptr &&
                         (!image_->bits_hold() || image_->heap().block_of(at).segment != nullptr);
      if (pointer != 0 && !block) {
        problem("The root " + name +
                " points to no allocated block: it was freed while the root was set; set the root "
                "anew, or take it away.");
      }
    }
    const auto types = image_->names().layouts();
    if (!types) return problem(types.error().message);
    for (const auto& type : *types) report_.types += type == nullptr ? 0 : 1;
    check_types(*types);
  }

  void check_types(const TypeLayouts& types) {
    std::array<bool, 256> told{};
    for_each_segment(*image_, [&](const SegmentUse& segment) {
      const std::uint8_t type = segment.word.type;
      if (segment.kind == SegmentUse::Kind::kFree || type <= kTypeNoPointers || told.at(type) ||
          types.at(type) != nullptr)
        return;
      told.at(type) = true;
      add(Severity::kProblem, "There are objects of type " + std::to_string(type) +
                                  ", which is not registered; every word of them counts as a "
                                  "pointer until it is.");
    });
  }

  void count_objects() {
    const auto own = image_->names().own_blocks();
    if (!own) return add(Severity::kProblem, own.error().message);
    image_->heap().for_each_block([&](const Slot& slot) {
      if (own->contains(slot.offset())) return;
      const bool recoverable = slot.segment->recoverable();
      ++(recoverable ? report_.recoverable_blocks : report_.transactional_blocks);
      (recoverable ? report_.recoverable_bytes : report_.transactional_bytes) += slot.bytes();
    });
    const Status found = for_each_leak(*image_, [&](const Slot& slot, Leak kind) {
      const bool taken = kind == Leak::kRecoverable;
      ++(taken ? report_.unreached_blocks : report_.lost_blocks);
      (taken ? report_.unreached_bytes : report_.lost_bytes) += slot.bytes();
    });
    if (!found) return add(Severity::kProblem, found.error().message);
    if (report_.unreached_blocks != 0) {
      add(Severity::kNote, "No root reaches " + counted(report_.unreached_blocks, "object") +
                               " of contract R, " + std::to_string(report_.unreached_bytes) +
                               " bytes; `btd heap gc` reclaims them.");
    }
    if (report_.lost_blocks != 0) {
      add(Severity::kNote, "No root reaches " + counted(report_.lost_blocks, "block") + ", " +
                               std::to_string(report_.lost_bytes) +
                               " bytes, that are of contract P or T or hang on such; they stay "
                               "until the program frees them (see `btd heap leaks`).");
    }
  }

  const std::string path_;
  const HeapCheckOptions& options_;
  HeapReport report_;
  std::unique_ptr<HeapImage> image_;
};

}  // namespace

Result<std::uint64_t> reclaim_heap(const std::string& path) {
  {
    BTD_ASSIGN(const auto image, HeapImage::open(path));
    BTD_TRY(image->idle());  // the sentence names the process
  }
  Settings settings = place_of(path);
  settings.recover_at_open = false;
  settings.create = false;
  BTD_ASSIGN(btd_cluster* const cluster, open_cluster(settings));
  const Status reclaimed = reclaim(*cluster);
  const std::uint64_t bytes = cluster->heap->stats().reclaimed_bytes;
  const Status closed = close_cluster(cluster);
  BTD_TRY(reclaimed);
  BTD_TRY(closed);
  return bytes;
}

Result<HeapReport> check_heap(const std::string& path, const HeapCheckOptions& options) {
  BTD_ASSIGN(HeapReport before, HeapCheck(path, options).run());
  if (!options.repair || before.uncorrected != 0) return before;
  const bool unclean = before.notes > (before.lost_blocks != 0 ? 1U : 0U);
  if (!unclean) return before;
  BTD_TRY(reclaim_heap(path));
  BTD_ASSIGN(HeapReport after, HeapCheck(path, options).run());
  std::vector<Finding> mended;
  for (Finding& finding : before.findings) {
    bool stays = false;
    for (const Finding& left : after.findings) stays |= left.sentence == finding.sentence;
    if (stays) continue;
    finding.repaired = true;
    mended.push_back(std::move(finding));
  }
  after.repaired = mended.size();
  after.findings.insert(after.findings.begin(), std::make_move_iterator(mended.begin()),
                        std::make_move_iterator(mended.end()));
  return after;
}

}  // namespace btd
