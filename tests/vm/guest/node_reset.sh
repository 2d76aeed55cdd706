# shellcheck shell=sh
# One of two machines: "memory" lends its NVDIMM over both engines, and is reset by the host; "reader"
# works on it all the time. Parameters: btd_role.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/rdma.sh
. /guest/rdma.sh
MIB2=$((2 << 20))

# A NIC can hold on to memory of a device of DAX; to that of a file system's it can't.
dax_device() {
  wait_for "the NVDIMM" '[ -e /sys/bus/nd/devices/namespace0.0/mode ]'
  # The drivers probe beside us; after a reset the medium itself says what it is.
  wait_for "a block device or one of DAX" '[ -b /dev/pmem0 ] || [ -c /dev/dax0.0 ]'
  [ -c /dev/dax0.0 ] || must ndctl create-namespace -f -e namespace0.0 -m devdax
  wait_for /dev/dax0.0 '[ -c /dev/dax0.0 ]'
}

lend() {
  reset_load serve "$1" "10.9.0.1:$2" /dev/dax0.0 "$3" >"/tmp/$1" 2>&1
  verdict fail "$(tail -n 1 "/tmp/$1")"
}

work() {
  reset_load work "$1" "10.9.0.1:$2" --more 100 --seconds 150 --reports "$REPORTS" 2>"/tmp/$1" && return
  cat "/tmp/$1"
  verdict fail "$(tail -n 1 "/tmp/$1")"
}

if [ "${btd_role:?}" = memory ]; then
  dax_device
  start_rxe eth0 10.9.0.1
  lend tcp 7001 0 &
  lend verbs 7002 $MIB2 &
  at serving
  wait
fi
start_rxe eth0 10.9.0.2
work tcp 7001 &
work verbs 7002 &
wait
verdict pass
