// The order of a check: superblock, heap, names, backing files; then once more while repairs were
// made.
#include "fs/check/check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "fs/check/backing_files.h"
#include "fs/check/findings.h"
#include "fs/check/names.h"
#include "fs/cluster/join.h"
#include "fs/pool/contents.h"
#include "fs/pool/emulate.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"
#include "fs/pool/superblock.h"

namespace btd {

namespace {

// Repairs bring up what follows from them; a pool that is not in order after this many rounds is
// one that they do not get in order.
constexpr int kMaxRounds = 16;

bool is_damage(int code) { return code == EUCLEAN || code == EIO; }

Result<media::Superblock> read_from(const std::string& pool, const char* name) {
  const UniqueFd fd(::open((pool + "/" + name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return fail(errno);
  return read_superblock(fd.get(), pool);
}

Status write_to(const std::string& pool, const char* name, const media::Superblock& superblock) {
  const UniqueFd fd(
      ::open((pool + "/" + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return cannot("write " + pool + "/" + name, errno);
  BTD_TRY(write_superblock(fd.get(), superblock, pool));
  if (::ftruncate(fd.get(), sizeof superblock) != 0 || ::fsync(fd.get()) != 0)
    return cannot("write " + pool + "/" + name, errno);
  const UniqueFd dir(::open(pool.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir || ::fsync(dir.get()) != 0) return cannot("sync " + pool, errno);
  return {};
}

// A pool whose superblock is gone has nothing to lock, so this comes before the lock. False: it is
// gone still.
Result<bool> restore_missing(const std::string& pool, Findings& findings) {
  BTD_TRY(emulation::attach(pool));
  const auto there = [&](const char* name) {
    return ::faccessat(AT_FDCWD, (pool + "/" + name).c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
  };
  if (there(kSuperblockName) || there(kNewSuperblockName)) return true;
  const auto copy = read_from(pool, kSuperblockCopyName);
  if (!copy) return true;  // no pool: taking the lock says so
  if (findings.repair()) BTD_TRY(write_to(pool, kSuperblockName, *copy));
  findings.problem("the superblock is missing; its copy is whole", findings.repair());
  return findings.repair();
}

// False: the superblock is damaged, and there is no going on.
Result<bool> check_superblock(const std::string& pool, const PoolLock& lock, Findings& findings) {
  const auto superblock = read_superblock(lock.fd(), pool);
  const auto copy = read_from(pool, kSuperblockCopyName);
  if (!superblock && !is_damage(superblock.error().code))
    return std::unexpected(superblock.error());
  if (!superblock && !copy) {
    findings.problem(superblock.error().message + "; that copy is damaged too");
    return false;
  }
  if (!superblock) {
    if (findings.repair()) BTD_TRY(write_to(pool, kSuperblockName, *copy));
    findings.problem(superblock.error().message, findings.repair());
    return findings.repair();
  }
  if (!copy || std::memcmp(&*copy, &*superblock, sizeof *copy) != 0) {
    if (findings.repair()) BTD_TRY(write_to(pool, kSuperblockCopyName, *superblock));
    findings.problem("the copy of the superblock is missing or damaged", findings.repair());
  }
  return true;
}

// The directories that hold the backing files can be made again; what was in them is lost.
// False: they are missing still.
Result<bool> check_data_directory(const std::string& pool, Findings& findings) {
  const std::string data = pool + "/data";
  if (::access(data.c_str(), F_OK) == 0 || errno != ENOENT) return true;
  if (findings.repair() && ::mkdir(data.c_str(), 0700) != 0) return cannot("create " + data, errno);
  findings.problem("the directory data is missing, and with it what the files held",
                   findings.repair());
  return findings.repair();
}

void forget_counts(CheckReport& report) {
  CheckReport fresh;
  fresh.findings = std::move(report.findings);
  fresh.notes = report.notes;
  fresh.repaired = report.repaired;
  fresh.uncorrected = report.uncorrected;
  report = std::move(fresh);
}

// False: the store cannot be read on.
Result<bool> check_heap(Pool& pool, Findings& findings) {
  findings.progress("heap", 0, 0);
  BTD_ASSIGN(const Structures found, pool.check_structures(findings.repair()));
  for (const std::string& sentence : found.damage) findings.problem(sentence);
  if (found.leaked_blocks != 0)
    findings.problem(std::to_string(found.leaked_blocks) + " blocks of the heap, " +
                         std::to_string(found.leaked_bytes) + " bytes, are used by nothing",
                     found.reclaimed);
  findings.counts().heap_blocks = found.blocks;
  findings.counts().heap_bytes = found.bytes;
  return found.damage.empty();
}

Status round(const std::string& path, Pool& pool, Findings& findings) {
  findings.begin_round();
  forget_counts(findings.counts());
  BTD_ASSIGN(const bool readable, check_heap(pool, findings));
  NamePass names(pool.meta(), findings);
  if (Status passed = names.run(); !passed) {
    if (!is_damage(passed.error().code)) return passed;
    if (readable) findings.problem("the namespace cannot be read: " + passed.error().message);
    return {};
  }
  // Names that could not be read would make their files look like leaks.
  if (!readable) return {};
  return check_backing_files(path, names, findings);
}

Status check_open_pool(const std::string& path, Pool& pool, Findings& findings) {
  for (int i = 0; i < kMaxRounds; ++i) {
    BTD_TRY(round(path, pool, findings));
    if (!findings.changed()) break;
  }
  return findings.repair() ? pool.close() : Status();
}

Status check_all(const std::string& path, Findings& findings) {
  BTD_ASSIGN(const bool there, restore_missing(path, findings));
  if (!there) return {};
  BTD_ASSIGN(PoolLock lock, PoolLock::acquire(path));
  findings.progress("superblock", 0, 0);
  BTD_ASSIGN(const bool known, check_superblock(path, lock, findings));
  if (!known) return {};
  BTD_ASSIGN(const bool complete, check_data_directory(path, findings));
  if (!complete) return {};
  auto pool = findings.repair() ? Pool::open(path, std::move(lock))
                                : Pool::open_read_only(path, std::move(lock));
  if (!pool) {
    if (!is_damage(pool.error().code)) return std::unexpected(pool.error());
    findings.problem(pool.error().message);
    return {};
  }
  findings.settle();
  BTD_TRY(cluster::judge_alone((*pool)->meta(), path));
  return check_open_pool(path, **pool, findings);
}

}  // namespace

Result<CheckReport> check_pool(const std::string& path, const CheckOptions& options) {
  CheckReport report;
  Findings findings(report, options);
  BTD_TRY(check_all(path, findings));
  findings.settle();
  return report;
}

}  // namespace btd
