# shellcheck shell=sh
# One life of a machine whose power is cut: recovers, verifies what was acknowledged before, and works
# until it is killed. Parameters: btd_fs; btd_first and btd_last, of the first and the last life;
# btd_files and btd_heap, how many operations of each load were acknowledged.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/pool.sh
. /guest/pool.sh
HEAPS=$MOUNT/heaps

# load NAME DIRECTORY ACKNOWLEDGED: verifies, then works where there is a life after this one.
load() {
  power_load "$1" "$2" --acknowledged "$3" --operations "${btd_last:+0}${btd_last:-1000000000}" \
    --reports "$REPORTS" 2>"/tmp/$1" && [ -n "$btd_last" ] && return
  cat "/tmp/$1"
  verdict fail "$(head -n 1 "/tmp/$1")"
}

nvram
[ -z "$btd_first" ] || make_file_system "${btd_fs:?}"
at recover
mount_file_system "$btd_fs" dax
if [ -n "$btd_first" ]; then
  must btd format "$POOL"
else
  must btd check "$POOL"
  fact check "$(tail -n 1 /tmp/said)"
fi
must btd mount "$POOL" "$MOUNT"
if [ -d "$HEAPS/load" ]; then
  must btd heap check "$HEAPS/load"
  fact heap_check "$(tail -n 1 /tmp/said)"
fi
load files "$MOUNT/files" "${btd_files:?}" &
load heap "$HEAPS" "${btd_heap:?}" &
wait
must btd umount "$MOUNT"
must btd check "$POOL"
verdict pass
