# shellcheck shell=sh
# Soft-RoCE in one guest.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/rdma.sh
. /guest/rdma.sh
must ip link add left type veth peer name right
must ip link set right up
start_rxe left 10.9.0.1
serve
run_clients 10.9.0.1
run_suite net_verbs_test 10.9.0.1 '-*NativeFlush*:VerbsFlushTest.*' # the case soft-roce-flush has those
verdict pass
