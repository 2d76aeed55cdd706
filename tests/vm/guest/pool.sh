# shellcheck shell=sh
# A pool on a file system on the guest's NVRAM, and its mount.
NV=/mnt/nv
# shellcheck disable=SC2034  # of those that read this file
POOL=$NV/pool
MOUNT=/mnt/bartender

# Without a label area the NVDIMM begins as one raw namespace, which has no DAX; once it is fsdax, a
# block on the medium says so at every boot.
nvram() {
  # The drivers probe beside us.
  wait_for /dev/pmem0 '[ -b /dev/pmem0 ]'
  [ "$(cat /sys/bus/nd/devices/namespace0.0/mode)" = memory ] ||
    must ndctl create-namespace -f -e namespace0.0 -m fsdax
}

make_file_system() {
  case $1 in
    ext4) must mkfs.ext4 -q -F -b 4096 /dev/pmem0 ;;
    # Shared extents, which newer xfs has by default, are not to be had with DAX on older kernels.
    xfs) must mkfs.xfs -q -f -m reflink=0 /dev/pmem0 ;;
    *) verdict fail "no file system is named $1" ;;
  esac
}

# mount_file_system TYPE [OPTIONS]
mount_file_system() {
  mkdir -p "$NV" "$MOUNT"
  must mount -t "$1" ${2:+-o "$2"} /dev/pmem0 "$NV"
}

# The part of a line of `btd status` behind its name.
status_line() { btd status "$MOUNT" | sed -n "s/^$1  *//p"; }
