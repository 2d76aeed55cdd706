# shellcheck shell=sh
# A kernel without FUSE passthrough: the mount works through the page cache and says why, and all that
# is promised of files and heaps holds.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/pool.sh
. /guest/pool.sh
OPERATIONS=200

# verify NAME DIRECTORY: what a load did is there.
verify() {
  power_load "$1" "$2" --acknowledged $OPERATIONS --ahead 0 >/tmp/said 2>/tmp/wrong ||
    verdict fail "$(head -n 1 /tmp/wrong)"
  fact "$1" $OPERATIONS
}

nvram
make_file_system ext4
mount_file_system ext4 dax
must btd format "$POOL"
must btd mount "$POOL" "$MOUNT"
fact nvram "$(status_line nvram)"
fact passthrough "$(status_line passthrough)"
at "loads on files and on a heap"
must power_load files "$MOUNT/files" --operations $OPERATIONS
must power_load heap "$MOUNT/heaps" --operations $OPERATIONS
dax_probe "$MOUNT/probe" stock >"$REPORTS" || verdict fail "dax_probe failed"
must btd umount "$MOUNT"
must btd mount "$POOL" "$MOUNT"
at "verify after a remount"
verify files "$MOUNT/files"
verify heap "$MOUNT/heaps"
must btd heap check "$MOUNT/heaps/load"
must btd umount "$MOUNT"
must btd check "$POOL"

# Such a kernel does not send lost requests again, so a mount whose worker is killed ends: programs have
# errors at once instead of waiting for good, and what was acknowledged is there after the next mount.
at "kill the worker"
must btd mount "$POOL" "$MOUNT"
fact gives_up "$(status_line transport)"
(
  power_load files "$MOUNT/files" --acknowledged $OPERATIONS --operations 1000000 >/tmp/acks 2>/tmp/wrong
  echo $? >/tmp/ended
) &
wait_for "the 50th operation of the load" "[ \$(wc -l </tmp/acks) -gt 50 ]"
kill -9 "$(btd status --json "$MOUNT" | sed -n '/"worker"/,/}/s/.*"pid": \([0-9]*\).*/\1/p')"
wait_for "the end of a program whose request was lost" "[ -s /tmp/ended ]"
fact worker_killed "$(tail -n 1 /tmp/wrong)"
wait_for "the end of the daemon" "! pidof btd"
umount -l "$MOUNT" 2>/dev/null
acknowledged=$((OPERATIONS + $(grep -c '^@btd ack' /tmp/acks)))
must btd check "$POOL"
must btd mount "$POOL" "$MOUNT"
power_load files "$MOUNT/files" --acknowledged $acknowledged --ahead 1 >/tmp/said 2>/tmp/wrong ||
  verdict fail "$(head -n 1 /tmp/wrong)"
fact acknowledged $acknowledged
must btd umount "$MOUNT"
verdict pass
