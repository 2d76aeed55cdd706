# shellcheck shell=sh
# Writes of several sizes, with a copy and without, from one guest to another. Parameters: btd_role,
# server or client; btd_rounds; btd_sizes, with commas.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
must ip link set lo up
must ip link set eth0 up
wait_for "the cable of eth0" "grep -q 1 /sys/class/net/eth0/carrier"
if [ "${btd_role:?}" = server ]; then
  must ip addr add 10.9.0.1/24 dev eth0
  tcp_engine serve 10.9.0.1:7000 default none &
  at serving
  wait
  verdict fail 'the server ended'
fi
must ip addr add 10.9.0.2/24 dev eth0
wait_for "the other guest" "ping -c 1 -W 1 10.9.0.1"
round=0
while [ $round -lt "${btd_rounds:?}" ]; do
  for size in $(echo "${btd_sizes:?}" | tr , ' '); do
    for setting in none zero; do
      at "round $round, $size, $setting"
      least=none
      [ $setting = none ] || least=65536
      said=$(tcp_engine write "$size" 8 1 default 1 $least 10.9.0.1:7000) ||
        verdict fail "tcp_engine ended with $?"
      fact "${setting}_${size}_$round" "$said"
    done
  done
  round=$((round + 1))
done
verdict pass
