# shellcheck shell=bash
# `bootstrap run` and `stop`: a mounted bartender on emulated NVRAM.

readonly BTD=$BTD_ROOT/build/release/bin/btd
readonly DEFAULT_MOUNT=/mnt/bartender

# A quarter of the RAM, 2 GiB at most.
default_size() {
  awk '/^MemTotal:/ { b = $2 * 1024 / 4; cap = 2 * 1024 ^ 3
                      printf "%dM", (b < cap ? b : cap) / 1048576 }' /proc/meminfo
}

is_mounted() { findmnt --noheadings --types fuse.bartender --mountpoint "$1" >/dev/null; }

cmd_run() {
  local pool=/var/lib/bartender mount=$DEFAULT_MOUNT size=''
  while (($#)); do
    case $1 in
      --pool | --mount | --size) (($# > 1)) || die 64 "$1 needs a value; ./bootstrap help shows it." ;;&
      --pool) pool=$2 ;;
      --mount) mount=$2 ;;
      --size) size=$2 ;;
      *) die 64 "'$1' is no option of run; ./bootstrap help lists them." ;;
    esac
    shift 2
  done
  is_root || can_root || die 77 "mounting needs root; run this as root, or install sudo."
  prepare run
  must_step "Configure" configure release
  must_step "Build btd" build release btd
  if is_mounted "$mount"; then
    say "Already mounted at $mount; the running daemon stays as it is."
  else
    [[ -c /dev/fuse ]] || as_root modprobe fuse 2>/dev/null ||
      die 69 "/dev/fuse is missing: load the fuse module, or give it to this container (--device /dev/fuse)."
    start_bartender "$pool" "$mount" "${size:-$(default_size)}"
  fi
  what_to_try "$mount"
}

start_bartender() {
  local pool=$1 mount=$2 size=$3
  as_root mkdir -p "$pool" "$mount"
  if ! as_root test -e "$pool/superblock"; then
    must_step "Format a pool with $size of RAM as emulated NVRAM" \
      as_root "$BTD" format "$pool" --emulate ram --size "$size"
  fi
  must_step "Mount $pool at $mount" as_root "$BTD" mount "$pool" "$mount"
}

what_to_try() {
  cat <<TRY

${BOLD}bartender is mounted at $1.${PLAIN} Try:
  export PATH=${BTD%/*}:\$PATH
  cp -a /usr/include $1/ && du -sh $1/include   # it is a file system
  btd ls $1/include/stdio.h                     # home, mode, size and extents of an allocation
  btd status $1                                 # the daemon, in its own words
  btd df $1
  ./bootstrap stop                                         # unmount
TRY
}

cmd_stop() {
  local mount=$DEFAULT_MOUNT
  [[ ${1:-} != --mount ]] || mount=${2:?--mount needs a directory}
  is_mounted "$mount" || { say "Nothing is mounted at $mount." && return; }
  start_log stop
  must_step "Unmount $mount" as_root "$BTD" umount "$mount"
  say "The pool keeps its contents until this machine stops; ./bootstrap run mounts it again."
}
