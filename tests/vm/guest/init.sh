#!/bin/sh
# The guest's first process: brings up what every case needs, runs the case that the kernel's
# command line names, reports its verdict, and turns the machine off.
export PATH=/bin
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs shm /dev/shm
stty -F /dev/ttyS1 raw -echo
# shellcheck source=tests/vm/guest/common.sh
. /guest/common.sh
at up
while read -r module; do
  insmod "/modules/$module.ko" || verdict fail "the module $module cannot be loaded"
done </modules/order
# Here, not in the shell of the case: it may end by any way.
sh "/guest/${btd_case:?}.sh" </dev/null || verdict fail "the script of the case ended with $?"
verdict fail "the case ended without a verdict"
