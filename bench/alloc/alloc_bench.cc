// alloc_bench: one workload of bench/alloc under one allocator, which BTD_BENCH_POLICY names, as a
// line of JSON.
//   alloc_NAME --list            the workloads that this allocator can run
//   alloc_NAME WORKLOAD [--threads N] [--seconds S] [--objects N] [--bytes N] [--rounds N]
//              [--dir DIR] [--shape tree|scattered|typed|list] [--gc-threads N] [--verify]
#include <dlfcn.h>
#include <unistd.h>

#include <string_view>

#include BTD_BENCH_POLICY
#include "bench/alloc/durable.h"
#include "bench/alloc/local.h"
#include "bench/alloc/processes.h"
#include "bench/alloc/remote.h"
#include "bench/alloc/restart.h"
#include "bench/alloc/space.h"

namespace {

using namespace btd::bench;
using A = Policy;

enum class Needs { kLittle, kMany, kSpace };  // many: millions of objects; space: and to ask for it
// kOld: the workload opens what is there by itself; kTheirs: its processes open and close it.
enum class Pool { kNew, kOld, kTheirs };
enum class End { kReturns, kKilled };  // whether the process kills itself afterwards

struct Workload {
  std::string_view name;
  Outcome (*run)();
  Needs needs = Needs::kLittle;
  Pool pool = Pool::kNew;
  End end = End::kReturns;
};

template <class P>
std::vector<Workload> workloads() {
  std::vector<Workload> all = {{"threadtest", threadtest<P>},
                               {"shbench", shbench<P>},
                               {"larson", larson<P>},
                               {"prod-con", prod_con<P>},
                               {"xmalloc-test", xmalloc_test<P>},
                               {"linux-scalability", linux_scalability<P>},
                               {"fastalloc", fastalloc<P>},
                               {"alloc_free", alloc_free<P>},
                               {"alloc_free_alloc", alloc_free_alloc<P>},
                               {"linkedlist", linkedlist<P>},
                               {"churn", churn<P>, Needs::kSpace},
                               {"space", space<P>, Needs::kSpace},
                               {"fragment", fragment<P>, Needs::kSpace},
                               {"lines", lines<P>, Needs::kMany}};
  if constexpr (!P::kSlotsInPool) all.push_back({"mstress", mstress<P>});
  if constexpr (P::kPersistent && P::kSlotsInPool) {
    all.push_back({"publish-list", publish_list<P>});
    all.push_back({"publish32", [] { return publish32<P>(false); }});
    all.push_back({"publish32-link", [] { return publish32<P>(true); }});
    all.push_back({"tx", [] { return tx<P>(false); }});
    all.push_back({"tx-content", [] { return tx<P>(true); }});
    all.push_back({"recovery", recovery<P>});
  }
  if constexpr (P::kPersistent && !P::kSlotsInPool) {
    all.push_back({"fill", fill<P>, Needs::kMany, Pool::kNew, End::kKilled});
    all.push_back({"hold", hold<P>, Needs::kMany});
    all.push_back({"reopen", reopen<P>, Needs::kMany, Pool::kOld, End::kKilled});
    if constexpr (requires { P::gc(); }) all.push_back({"gc", P::gc, Needs::kMany, Pool::kOld});
  }
  if constexpr (P::kPersistent) {
    const auto add = [&](std::string_view name, Outcome (*run)()) {
      all.push_back({.name = name, .run = run, .pool = Pool::kTheirs});
    };
    add("oneproc", [] { return processes<P>(1, Pools::kOne); });
    add("twoproc-own", [] { return processes<P>(2, Pools::kOwn); });
    if constexpr (P::kManyProcesses) add("twoproc", [] { return processes<P>(2, Pools::kOne); });
  }
  return all;
}

void parse(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view key = argv[i];
    if (key == "--verify") {
      options.verify = true;
      continue;
    }
    if (!key.starts_with("--")) {
      options.workload = key;
      continue;
    }
    if (i + 1 == argc) fail("the option " + std::string(key) + " needs a value");
    const char* value = argv[++i];
    const auto number = [&] { return std::strtoull(value, nullptr, 10); };
    if (key == "--threads") {
      options.threads = std::max(1U, static_cast<unsigned>(number()));
    } else if (key == "--seconds") {
      options.seconds = std::strtod(value, nullptr);
    } else if (key == "--objects") {
      options.objects = number();
    } else if (key == "--bytes") {
      options.bytes = number();
    } else if (key == "--rounds") {
      options.rounds = number();
    } else if (key == "--dir") {
      options.dir = value;
    } else if (key == "--shape") {
      options.shape = value;
    } else if (key == "--gc-threads") {
      options.gc_threads = static_cast<unsigned>(number());
    } else {
      fail("there is no option " + std::string(key));
    }
  }
}

void print(const Outcome& out) {
  Dl_info where{};
  const bool known = dladdr(A::function(), &where) != 0 && where.dli_fname != nullptr;
  std::printf(
      "{\"workload\": \"%s\", \"allocator\": \"%s\", \"contract\": \"%s\", \"library\": \"%s\", ",
      options.workload.c_str(), BTD_BENCH_NAME, A::kContract, known ? where.dli_fname : "");
  std::printf(
      "\"threads\": %u, \"ops\": %.0f, \"seconds\": %.9f, \"lines\": %llu, \"fences\": %llu",
      options.threads, out.ops, out.seconds, static_cast<unsigned long long>(out.counted.lines),
      static_cast<unsigned long long>(out.counted.fences));
  for (const auto& [name, value] : out.more) std::printf(", \"%s\": %.6g", name.c_str(), value);
  std::puts("}");
}

// On tmpfs libpmem would call msync for each persist unless told that this is persistent memory;
// it reads that when it is loaded.
void force_pmem(char** argv) {
  if (!A::kPersistent || std::getenv("PMEM_IS_PMEM_FORCE") != nullptr) return;
  setenv("PMEM_IS_PMEM_FORCE", "1", 1);
  execv("/proc/self/exe", argv);
  fail("this program cannot start itself again");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) fail("name a workload, or --list");
  const auto all = workloads<A>();
  if (std::string_view(argv[1]) == "--list") {
    for (const auto& w : all) std::printf("%s\n", std::string(w.name).c_str());
    return 0;
  }
  force_pmem(argv);
  parse(argc, argv);
  const auto found = std::find_if(all.begin(), all.end(),
                                  [](const auto& w) { return w.name == options.workload; });
  if (found == all.end()) fail(BTD_BENCH_NAME " does not run " + options.workload);
  if (A::kPersistent && options.dir.empty()) fail("name a directory for the pool with --dir");
  options.needs_space = found->needs == Needs::kSpace;
  options.many_objects = found->needs != Needs::kLittle;
  if (found->pool == Pool::kNew) A::open(true);
  const Outcome out = found->run();
  print(out);
  if (found->end == End::kKilled) die_at_once();
  if (found->pool != Pool::kTheirs) A::close();
  return 0;
}
