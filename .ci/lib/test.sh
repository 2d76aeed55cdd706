# shellcheck shell=bash
# `bootstrap test`, `soak`, `vm` and `bench`.
#
# Every stage appends its counts to build/logs/results.tsv and every failure and skip to a list of
# its own; nothing counts as passed that did not run. Suites that mount run one at a time.

# CTest labels of the suites that mount, and so need root and /dev/fuse. All others are unit suites.
readonly MOUNT_LABELS='^(mount|posix|stress|cluster)$'
# The cases of tests/vm: they boot guests, one at a time.
readonly VM_LABEL='^vm$'
# Unit tests that run under ThreadSanitizer too: those whose name says that threads meet in them.
readonly THREAD_TESTS='[Tt]hread|[Cc]oncurren|[Pp]arallel|[Rr]ace'

RESULTS='' FAILURES='' SKIPS=''

# record SUITE PASSED FAILED SKIPPED
record() { printf '%s\t%d\t%d\t%d\n' "$@" >>"$RESULTS"; }
record_failure() { say "$1" >>"$FAILURES"; }
record_skip() { say "$1" >>"$SKIPS"; }

# check SUITE TITLE COMMAND...: one test that is a command.
check() {
  local suite=$1 title=$2
  if step "$title" "${@:3}"; then
    record "$suite" 1 0 0
  else
    record "$suite" 0 1 0
    record_failure "$suite: $title"
  fi
}

# run_ctest STAGE PRESET JOBS CTEST-ARGS...: the stage's tests, counted by label.
run_ctest() {
  local stage=$1 preset=$2 jobs=$3 junit=$BTD_ROOT/build/logs/$1.xml
  shift 3
  rm -f "$junit"
  BTD_STEP_TAIL=12 step "$stage" "${NO_ASLR[@]}" ctest --test-dir "$BTD_ROOT/build/$preset" \
    --output-junit "$junit" --output-on-failure --timeout 600 -j "$jobs" \
    --test-output-size-passed 1000000 --test-output-size-failed 1000000 "$@" || true
  python3 "$BTD_ROOT/.ci/lib/count_results.py" "$stage" "$BTD_ROOT/build/$preset" "$junit" \
    "$RESULTS" "$FAILURES" "$SKIPS"
}

# build_for_tests PRESET [TARGET]: false, and a failed test, where it does not build.
build_for_tests() {
  if step "Configure $1" configure "$1" && step "Build $1" build "$@"; then
    return 0
  fi
  record "build" 0 1 0
  record_failure "build: preset $1 does not build"
  return 1
}

test_release() {
  build_for_tests release || return 0
  begin_tidy
  run_ctest "unit suites" release "$BTD_JOBS" --label-exclude "$MOUNT_LABELS|$VM_LABEL"
  if ! is_root; then
    record "mount suites" 0 0 1
    record_skip "mount suites: they need root; run ./bootstrap test as root"
  elif [[ ! -c /dev/fuse ]]; then
    record "mount suites" 0 0 1
    record_skip "mount suites: this machine has no /dev/fuse; load the fuse module"
  else
    ensure_project || true
    begin_build asan-ubsan
    run_ctest "mount suites" release 1 --label-regex "$MOUNT_LABELS"
  fi
}

# Not under AddressSanitizer, where they take many times as long: of what crashes, what a recovery
# reads is damaged in other suites, too; and the fuzzers have it.
readonly LONG_TESTS='^(Heap[A-Za-z]*Crash|MapCrash|FormatCrash|JournalCrash|CoherenceCheck|CoherenceSchedules|NetSchedules|Seeds|Fuzz/Seeded)[.]'

# Real servers, whose deadlines a slow program may miss.
readonly SERVER_LABEL='^net-etcd$'

test_sanitizers() {
  record_skip "suite of btd, asan-ubsan: its parsers are fuzzed under both; the rest takes minutes to build"
  record_skip "explorations, crash suites of the heap and the pool, seeds of the fuzzers, asan-ubsan: minutes each; ctest --preset asan-ubsan runs them"
  record_skip "a heap of which a node is cut off: a minute of waiting; tests/soak/run heap_away"
  record_skip "locks of a node that died: half a minute of waiting; tests/soak/run locks_dead_node"
  record_skip "suites of the etcd engine, sanitizers: a minute and a half of real servers; ctest --preset asan-ubsan -L net-etcd runs them under one"
  end_early_build
  if build_for_tests asan-ubsan; then
    run_ctest "unit suites, asan-ubsan" asan-ubsan "$BTD_JOBS" \
      --label-exclude "$MOUNT_LABELS|$VM_LABEL|^setup$|^fuzzer$|$SERVER_LABEL" --exclude-regex "$LONG_TESTS"
    # A few seconds for each decoder; `tests/soak/run fuzz` takes as long as it is told.
    run_ctest "fuzzers" asan-ubsan "$BTD_JOBS" --label-regex '^fuzzer$'
  fi
  if build_for_tests tsan thread_suites; then
    run_ctest "thread suites, tsan" tsan "$BTD_JOBS" \
      --label-exclude "$MOUNT_LABELS|$VM_LABEL|^setup$|$SERVER_LABEL" \
      --tests-regex "$THREAD_TESTS"
  fi
}

# Only libbtd and the programs that use it badly: a minute.
test_memcheck() {
  build_for_tests valgrind memcheck_suites || return 0
  run_ctest "suites, memcheck" valgrind "$BTD_JOBS" --label-regex '^memcheck$' --tests-regex told
}

# A machine without an emulator, or an archive without the kernels, skips it: the reason is told.
test_vm() {
  [[ -x $BTD ]] || return 0
  if [[ $(uname -m) != x86_64 ]]; then
    skip_vm "its guests are x86-64, as this machine is not"
  elif ! (install_packages "${VM_PACKAGES[@]}"); then
    skip_vm "its packages cannot be installed: ${VM_PACKAGES[*]}"
  elif ! ensure_kernels; then
    skip_vm "this machine's archive gives no kernel for it; what apt said is in $BTD_LOG"
  else
    run_ctest "virtual lab" release 1 --label-regex "$VM_LABEL"
  fi
}

skip_vm() {
  record "virtual lab" 0 0 1
  record_skip "virtual lab: $1"
}

sources() { git -C "$BTD_ROOT" ls-files --cached --others --exclude-standard -- "$@"; }
format_is_clean() {
  (cd "$BTD_ROOT" && sources '*.cc' '*.h' '*.c' | xargs clang-format-19 --dry-run --Werror)
}
man_pages_are_clean() { (cd "$BTD_ROOT" && mandoc -T lint -W warning man/*.[1-9]); }
scripts_are_clean() {
  (cd "$BTD_ROOT" && { printf '%s\n' bootstrap .ci/run && sources '*.sh'; } | sort -u | xargs shellcheck -x)
}

# clang-tidy takes long: a test looks at what changed lately (`./bootstrap lint` at all), beside the
# suites, after everybody else; it is waited for at the end.
readonly TIDY_COMMITS=10
TIDY='' EARLY=''
# Only where a processor has nothing else to do, if this machine lets us.
IDLY=(nice -n 19)
if chrt --idle 0 true 2>/dev/null; then IDLY=(chrt --idle 0 "${IDLY[@]}"); fi
begin_tidy() {
  "${IDLY[@]}" python3 "$BTD_ROOT/.ci/lib/tidy.py" "$BTD_ROOT" "$BTD_ROOT/build/release" "$BTD_JOBS" \
    "$TIDY_COMMITS" >"$BTD_ROOT/build/logs/tidy.log" 2>&1 9>&- &
  TIDY=$!
  trap end_background EXIT
}
end_background() {
  local process
  for process in $TIDY $EARLY; do kill "$process" 2>/dev/null || true; done
}

# The suites that mount, and guests, leave processors idle: the next build begins there, after everybody
# else.
begin_build() {
  configure "$1" >"$BTD_ROOT/build/logs/build-$1.log" 2>&1 9>&- || return 0 # said when it is waited for
  # Ninja itself, for it ends what it has begun when it is told to end.
  "${IDLY[@]}" "${NO_ASLR[@]}" ninja -C "$BTD_ROOT/build/$1" -j "$BTD_JOBS" >>"$BTD_ROOT/build/logs/build-$1.log" 2>&1 9>&- &
  EARLY=$!
}
# What is left of it is built as any other; what it was at is begun again.
end_early_build() {
  [[ -n $EARLY ]] || return 0
  kill "$EARLY" 2>/dev/null || true
  wait "$EARLY" 2>/dev/null || true
  EARLY=''
}
tidy_is_clean() {
  local status=0
  [[ -n $TIDY ]] || return 1 # there is no build to look at
  wait "$TIDY" || status=$?
  cat "$BTD_ROOT/build/logs/tidy.log"
  return "$status"
}

cmd_test() {
  prepare test "${TEST_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
  RESULTS=$BTD_ROOT/build/logs/results.tsv
  FAILURES=$BTD_ROOT/build/logs/failures.txt
  SKIPS=$BTD_ROOT/build/logs/skips.txt
  : | tee "$RESULTS" "$FAILURES" >"$SKIPS"
  check lint "clang-format" format_is_clean
  check lint "Man pages (mandoc -T lint)" man_pages_are_clean
  check lint "Shell scripts (shellcheck)" scripts_are_clean
  test_release
  test_vm
  test_sanitizers
  test_memcheck
  check lint "clang-tidy, of what changed lately" tidy_is_clean
  verdict
}

all_is_tidy() {
  python3 "$BTD_ROOT/.ci/lib/tidy.py" "$BTD_ROOT" "$BTD_ROOT/build/release" "$BTD_JOBS"
}

cmd_lint() {
  prepare lint "${TEST_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
  must_step "Configure" configure release
  must_step "Build" build release
  must_step "clang-format" format_is_clean
  must_step "Man pages (mandoc -T lint)" man_pages_are_clean
  must_step "Shell scripts (shellcheck)" scripts_are_clean
  must_step "clang-tidy" all_is_tidy
}

# The counts of each suite, then what failed, what could not run, and one last line.
verdict() {
  local passed failed skipped
  printf '\n%s%-34s %8s %8s %8s%s\n' "$BOLD" suite passed failed skipped "$PLAIN"
  awk -F '\t' '{ p[$1] += $2; f[$1] += $3; s[$1] += $4; if (!seen[$1]++) order[++n] = $1 }
    END { for (i = 1; i <= n; i++) printf "%-34s %8d %8d %8d\n", order[i], p[order[i]], f[order[i]], s[order[i]] }' \
    "$RESULTS"
  if [[ -s $FAILURES ]]; then
    title "Failed:"
    sed 's/^/  /' "$FAILURES"
  fi
  if [[ -s $SKIPS ]]; then
    title "Could not run, and why:"
    sed 's/^/  /' "$SKIPS"
  fi
  say "The log: $BTD_LOG"
  IFS=$'\t' read -r passed failed skipped < <(
    awk -F '\t' '{ p += $2; f += $3; s += $4 } END { printf "%d\t%d\t%d\n", p, f, s }' "$RESULTS"
  )
  say "$passed passed, $failed failed, $skipped skipped"
  ((failed == 0 && passed > 0))
}

cmd_vm() {
  prepare vm "${VM_PACKAGES[@]}"
  must_step "Configure" configure release
  must_step "Build" build release
  "$BTD_ROOT/tests/vm/run" "$@" 9>&-
}

# run_script KIND PATH ARGS...: builds the release and hands over to a script of the checkout.
run_script() {
  local kind=$1 script=$BTD_ROOT/$2
  shift 2
  [[ -x $script ]] || die 69 "this checkout has no $kind (${script#"$BTD_ROOT"/})."
  is_root || die 77 "the $kind mount; run them as root."
  must_step "Configure" configure release
  must_step "Build" build release
  "$script" "$@" 9>&-
}

cmd_bench() {
  prepare bench "${BENCH_PACKAGES[@]}"
  run_script benchmarks bench/run "$@"
}

cmd_soak() {
  prepare soak "${TEST_PACKAGES[@]}"
  run_script soaks tests/soak/run "$@"
}
