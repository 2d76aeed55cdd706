# shellcheck shell=sh
# The NICs' own flush over Soft-RoCE, into an NVDIMM. The judge is the kernel: a probe of what rdma_rxe
# does when a flush arrives that has to make durable.
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
# shellcheck source=tests/vm/guest/rdma.sh
. /guest/rdma.sh
TRACE=/sys/kernel/tracing
ADDRESS=10.9.0.1
NVRAM=/dev/dax0.0
# The memory of its device is pinned for a NIC; that of a file system on it may not be.
must ndctl create-namespace -f -e namespace0.0 -m devdax
wait_for "the DAX device $NVRAM" "[ -c $NVRAM ]"
must ip link add left type veth peer name right
must ip link set right up
start_rxe left $ADDRESS
must mount -t tracefs tracefs $TRACE
echo 'p:made_durable rdma_rxe:rxe_flush_pmem_iova at=%si length=%dx' >$TRACE/kprobe_events ||
  verdict skip "this kernel's rdma_rxe knows no flush"
must sh -c "echo 1 >$TRACE/events/kprobes/made_durable/enable"
export BTD_VERBS_NVRAM=$NVRAM
run_suite net_verbs_test $ADDRESS VerbsFlushTest.MakesNvramDurableWithoutAProcessor nvram
cat $TRACE/trace
fact flushed "$(sed -n 's/.*made_durable:.* at=0x\([0-9a-f]*\) length=0x\([0-9a-f]*\).*/\1+\2/p' $TRACE/trace | tr '\n' ' ')"
run_suite net_verbs_test $ADDRESS '*NativeFlush*:VerbsFlushTest.*'
verdict pass
