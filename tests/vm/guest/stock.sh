# shellcheck shell=sh
# A kernel without FUSE passthrough: the mount works through the page cache and says why, and all that
# is promised of files and heaps holds.
. /guest/common.sh
. /guest/pool.sh
OPERATIONS=200

# do_and_verify NAME DIRECTORY: a load, and what is there of it after a remount.
verify() {
  power_load "$1" "$2" --acknowledged $OPERATIONS --ahead 0 >/tmp/said 2>/tmp/wrong ||
    verdict fail "$(head -n 1 /tmp/wrong)"
  fact "$1" $OPERATIONS
}

nvram
make_file_system ext4
mount_file_system ext4 dax
must btd format $POOL
must btd mount $POOL $MOUNT
fact nvram "$(status_line nvram)"
fact passthrough "$(status_line passthrough)"
at "loads on files and on a heap"
must power_load files $MOUNT/files --operations $OPERATIONS
must power_load heap $MOUNT/heaps --operations $OPERATIONS
dax_probe $MOUNT/probe stock >"$REPORTS" || verdict fail "dax_probe failed"
must btd umount $MOUNT
must btd mount $POOL $MOUNT
at "verify after a remount"
verify files $MOUNT/files
verify heap $MOUNT/heaps
must btd heap check $MOUNT/heaps/load
must btd umount $MOUNT
must btd check $POOL
# Last: what no kernel before 6.9 can do must end in errors, not in a mount that hangs.
must btd mount $POOL $MOUNT
kill -9 "$(btd status --json $MOUNT | sed -n '/"worker"/,/}/s/.*"pid": \([0-9]*\).*/\1/p')"
timeout 10 ls $MOUNT >/tmp/said 2>&1
fact worker_killed "ls ended with $? ($(tail -n 1 /tmp/said))"
verdict pass
