# shellcheck shell=bash
# What every command of bootstrap uses: messages, the log, root, the lock.
# It may write build/logs and nothing else.

BTD_LOG=""
BTD_JOBS=${BTD_JOBS:-$(nproc)}

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  readonly BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
  readonly BOLD='' GREEN='' RED='' YELLOW='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
title() { printf '%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }
warn() { printf '%swarning:%s %s\n' "$YELLOW" "$PLAIN" "$*" >&2; }

# die CODE SENTENCE: ends bootstrap. Codes are those of sysexits.h.
die() {
  printf '%sbootstrap:%s %s\n' "$RED" "$PLAIN" "$2" >&2
  exit "$1"
}

# Two runs in one checkout would build over each other. The lock is on this script itself, so it
# leaves no file behind; descriptor 9 is closed for every child that may outlive us.
take_lock() {
  exec 9<"$BTD_ROOT/bootstrap"
  flock --nonblock 9 ||
    die 75 "another bootstrap runs in this checkout; wait for it to end and try again."
}

start_log() {
  mkdir -p "$BTD_ROOT/build/logs"
  BTD_LOG=$BTD_ROOT/build/logs/$1.log
  : >"$BTD_LOG"
}

# step TITLE COMMAND...: runs it with its output in the log; says how long it took. Returns the
# command's status and shows the end of its output where it failed.
step() {
  local title=$1 begin=$SECONDS status=0 from
  shift
  from=$(($(wc -c <"$BTD_LOG") + 1))
  printf '  %-58s ' "$title"
  { printf '\n=== %s\n' "$title" && printf '$' && printf ' %q' "$@" && printf '\n'; } >>"$BTD_LOG"
  "$@" >>"$BTD_LOG" 2>&1 9>&- || status=$?
  if ((status == 0)); then
    printf '%sok%s  %4d s\n' "$GREEN" "$PLAIN" $((SECONDS - begin))
  else
    printf '%sfailed%s (status %d) %d s\n' "$RED" "$PLAIN" "$status" $((SECONDS - begin))
    tail -c "+$from" "$BTD_LOG" | tail -n "${BTD_STEP_TAIL:-25}" | sed 's/^/    | /'
    say "    The whole log: $BTD_LOG"
  fi
  return "$status"
}

must_step() {
  step "$@" || die 70 "\"$1\" failed; its last lines are above, all of them in $BTD_LOG."
}

is_root() { [[ $(id -u) == 0 ]]; }

# can_root: whether as_root will work without asking for a password nobody is there to type.
can_root() {
  is_root && return
  command -v sudo >/dev/null || return
  [[ -t 0 ]] || sudo -n true 2>/dev/null
}

as_root() {
  if is_root; then "$@"; else sudo -E "$@"; fi
}

# Only what this checkout made: a BTD_DEPS elsewhere is left alone.
cmd_clean() {
  rm -rf "${BTD_ROOT:?}/build"
  say "Removed build/."
  [[ ${1:-} == --all ]] || return 0
  rm -rf "${BTD_ROOT:?}/.deps"
  say "Removed .deps/."
}
