# shellcheck shell=sh
# Soft-RoCE in one of two guests. Parameters: btd_role, server or client.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/rdma.sh
. /guest/rdma.sh
if [ "${btd_role:?}" = server ]; then
  start_rxe eth0 10.9.0.1
  serve
  [ ! -x /bin/net_peer ] || net_peer 10.9.0.1:7000 &
  at serving
  wait
  verdict pass
fi
start_rxe eth0 10.9.0.2
run_clients 10.9.0.1
BTD_NET_PEER=10.9.0.1:7000 run_suite net_pair_test 10.9.0.2
verdict pass
