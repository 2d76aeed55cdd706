# shellcheck shell=sh
# Soft-RoCE, in one guest over a veth pair or in two over a network of QEMU.
#
# Each program has a port of its own, so that all servers can listen at once.
DEVICE=rxe0
ITERATIONS=300

# Busybox's own `ip`, which its shell prefers, makes no veth pairs.
ip() { /bin/ip "$@"; }

# start_rxe NETDEV ADDRESS: the device, and GID, the index of the address among its GIDs.
start_rxe() {
  must ip link set lo up
  must ip addr add "$2/24" dev "$1"
  must ip link set "$1" up
  must rdma link add $DEVICE type rxe netdev "$1"
  wanted=$(echo "$2" | awk -F . '{ printf "0000:0000:0000:0000:0000:ffff:%02x%02x:%02x%02x", $1, $2, $3, $4 }')
  wait_for "the address $2 as a GID of $DEVICE" "grep -qx $wanted /sys/class/infiniband/$DEVICE/ports/1/gids/*"
  GID=$(basename "$(grep -lx "$wanted" /sys/class/infiniband/$DEVICE/ports/1/gids/* | head -n 1)")
  wait_for "the port of $DEVICE" "grep -q ACTIVE /sys/class/infiniband/$DEVICE/ports/1/state"
}

# program NAME [ADDRESS]: the server, or the client of the server at ADDRESS.
program() {
  case $1 in
    ibv_rc_pingpong) timeout 60 "$1" -d $DEVICE -g "$GID" -n $ITERATIONS -e -p 18515 ${2:+"$2"} ;;
    ib_write_lat) timeout 60 "$1" -d $DEVICE -x "$GID" -n $ITERATIONS -F -p 18516 ${2:+"$2"} ;;
    ib_read_lat) timeout 60 "$1" -d $DEVICE -x "$GID" -n $ITERATIONS -F -p 18517 ${2:+"$2"} ;;
  esac
}

serve() {
  for name in ibv_rc_pingpong ib_write_lat ib_read_lat; do
    program $name >/tmp/server.$name 2>&1 &
  done
}

# run_clients ADDRESS: a server may not listen yet, so a client tries again for a while.
run_clients() {
  for name in ibv_rc_pingpong ib_write_lat ib_read_lat; do
    at "$name"
    wait_for "an answer to $name" "program $name $1 >/tmp/client.$name 2>&1"
    cat "/tmp/client.$name"
    fact "$name" "$(figure /tmp/client.$name)"
  done
}

# The figure that a user of these programs looks at: time of an iteration, or the typical latency.
figure() {
  awk '/usec\/iter/ { print $(NF - 1) " us" } $1 ~ /^[0-9]+$/ && NF > 8 { print $5 " us" }' "$1"
}

# run_suite PROGRAM ADDRESS [FILTER [NAME]]: a conformance suite of transports over verbs, where the
# build has it. It is told of the device, and of a peer in another machine (BTD_NET_PEER), by its
# environment. The fact is NAME.
run_suite() {
  [ -x "/bin/$1" ] || return 0
  at "$1" "${3:-}"
  BTD_VERBS_ADDRESS=$2 timeout 240 "$1" --gtest_filter="${3:-*}" >/tmp/suite 2>&1
  code=$?
  cat /tmp/suite
  fact "${4:-suite}" "$(grep -E '^\[  (PASSED|FAILED)  \]' /tmp/suite | head -n 1)"
  fact "${4:-suite}_skipped" "$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) tests*, .*/\1/p' /tmp/suite)"
  # Where no test ran, none passed.
  grep -q 'PASSED  \] 0 tests' /tmp/suite && verdict fail "$1 ran no test"
  [ $code = 0 ] || verdict fail "$1 ended with $code: $(grep -m 1 FAILED /tmp/suite)"
}
