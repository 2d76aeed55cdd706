# shellcheck shell=sh
# Latency over Soft-RoCE: perftest, the bare baseline and the verbs engine in turn, so that whatever
# else the machine does meets all of them. Facts are "ROUND/PROGRAM/BYTES MICROSECONDS", the typical
# time.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/rdma.sh
. /guest/rdma.sh
ADDRESS=10.9.0.1

# side CORE PROGRAM BYTES [ADDRESS]: the server, or the client of the server at ADDRESS.
side() {
  timeout 60 taskset -c "$1" "$2" -d $DEVICE -x "$GID" -s "$3" -n "${btd_iterations:?}" -F -C -p "$port" ${4:+"$4"}
}

# perftest PROGRAM BYTES: its server and its client, once. In cycles (-C), since its own guess of
# their length is off by up to a half under emulation; the kernel's is the one of the other clocks.
perftest() {
  port=$((port + 1))
  side 0 "$1" "$2" >/tmp/server 2>&1 &
  wait_for "an answer to $1" "side 1 $1 $2 $ADDRESS >/tmp/client 2>&1"
  cat /tmp/client
  fact "$round/$1/$2" "$(awk -v mhz="$MHZ" '$1 ~ /^[0-9]+$/ && NF > 8 { printf "%.2f", $5 / mhz }' /tmp/client)"
  wait $!
}

# ours PROGRAM: one that prints a line for each measure: name, bytes, typical time.
ours() {
  BTD_VERBS_ADDRESS=$ADDRESS must timeout 120 "$1" "$btd_iterations"
  while read -r name bytes typical rest; do fact "$round/$name/$bytes" "$typical"; done </tmp/said
}

visit() {
  at "round $round: $1"
  case $1 in
    perftest) for bytes in 64 4096; do for name in ib_read_lat ib_write_lat; do perftest $name $bytes; done; done ;;
    *) ours "$1" ;;
  esac
}

# Who spins gives way at once to the kernel's threads, which are the NIC here.
must chrt -i -p 0 $$
must ip link add left type veth peer name right
must ip link set right up
start_rxe left $ADDRESS
fact clock "$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
MHZ=$(awk '/^cpu MHz/ { print $NF; exit }' /proc/cpuinfo)
port=18600
round=0
while [ $round -lt "${btd_rounds:?}" ]; do
  case $((round % 2)) in
    0) order='perftest verbs_bare verbs_bench' ;;
    1) order='verbs_bench verbs_bare perftest' ;;
  esac
  for who in $order; do visit "$who"; done
  round=$((round + 1))
done
verdict pass
