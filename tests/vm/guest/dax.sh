# shellcheck shell=sh
# A mount on a pool on DAX: what its mappings are, what it says of itself, and a heap on it that is
# killed. Then, as a control, the same pool without DAX. Parameter: btd_fs.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/pool.sh
. /guest/pool.sh
HEAP=$MOUNT/heaps

# serve PREFIX OPTIONS: mounts both, and reports what is there.
serve() {
  mount_file_system "${btd_fs:?}" "$2"
  [ -d "$POOL" ] || must btd format "$POOL"
  must btd mount "$POOL" "$MOUNT"
  fact "$1_nvram" "$(status_line nvram)"
  fact "$1_passthrough" "$(status_line passthrough)"
  dax_probe "$MOUNT/probe" "$1" >"$REPORTS" || verdict fail "dax_probe failed on $btd_fs"
}

end_service() {
  must btd umount "$MOUNT"
  must btd check "$POOL"
  must umount "$NV"
}

# A heap is killed while it works, opened again, and looked at from outside.
heap() {
  power_load heap "$HEAP" --operations 1000000 >/tmp/acks &
  load=$!
  # shellcheck disable=SC2016  # it is evaluated each time
  wait_for "the 200th operation on the heap" '[ "$(wc -l </tmp/acks)" -gt 200 ]'
  kill -9 $load || verdict fail "the load on the heap ended by itself"
  wait $load
  # The last line may be one that the kill cut.
  acknowledged=$(grep -c '^@btd ack heap [0-9]*$' /tmp/acks)
  fact heap_acknowledged "$acknowledged"
  must btd heap check "$HEAP/load"
  fact heap_check "$(tail -n 1 /tmp/said)"
  power_load heap "$HEAP" --acknowledged "$((acknowledged - 1))" --ahead 2 >"$REPORTS" ||
    verdict fail "the heap is not as it was acknowledged"
  must btd heap check "$HEAP/load"
}

nvram
make_file_system "$btd_fs"
at "mount with DAX"
serve dax dax
[ -z "$btd_heap" ] || heap
end_service
[ -n "$btd_heap" ] || {
  at "mount without DAX"
  serve plain ''
  end_service
}
verdict pass
