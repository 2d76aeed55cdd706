# shellcheck shell=bash
# Kernels for the guests of tests/vm: Debian's own image packages, only unpacked, never installed.
#
# Each lies in BTD_DEPS/vm/NAME as its package has it (boot/, and lib/ or usr/lib/ with the modules),
# with the file "package" that says which one it is.

# passthrough: has FUSE passthrough (Linux 6.9 and newer); stock: that of Debian 12, without it.
readonly KERNELS=(passthrough stock)

kernel_suites() {
  case $1 in
    passthrough) say bookworm-backports trixie ;;
    stock) say bookworm ;;
    *) return 1 ;;
  esac
}

have_kernel() { [[ -s $BTD_DEPS/vm/$1/package ]]; }

# ensure_kernel NAME: it is there, or it is fetched. False, with apt's words on standard error or in
# the log, where no suite gave it.
ensure_kernel() {
  have_kernel "$1" && return
  local work suite status=1
  mkdir -p "$BTD_DEPS/vm"
  # Beside its final place, so that it gets there whole or not at all.
  work=$(mktemp -d "$BTD_DEPS/vm/.$1.XXXXXX") || return
  for suite in $(kernel_suites "$1"); do
    if fetch_kernel "$work" "$suite"; then
      rm -rf "${BTD_DEPS:?}/vm/$1"
      mv "$work/tree" "$BTD_DEPS/vm/$1" && status=0
      break
    fi
  done
  rm -rf "$work"
  return "$status"
}

# ensure_kernels: all of them, each a step of bootstrap. False where one is not to be had.
ensure_kernels() {
  local kernel
  for kernel in "${KERNELS[@]}"; do
    have_kernel "$kernel" || step "Fetch the kernel \"$kernel\" for guests" ensure_kernel "$kernel" ||
      return
  done
}

# The package linux-image-amd64 only names the newest image.
fetch_kernel() {
  local work=$1 image
  open_archive "$work" "$2" deb || return
  image=$(private_apt "$work" apt-cache depends --important linux-image-amd64 |
    sed -n 's/^ *Depends: *\(linux-image-[^ <>]*\)$/\1/p' | head -n 1)
  [[ -n $image ]] || return
  (cd "$work" && private_apt "$work" apt-get download "$image") || return
  rm -rf "$work/tree"
  dpkg-deb -x "$work"/linux-image-*.deb "$work/tree" || return
  rm -f "$work"/linux-image-*.deb
  say "$image" >"$work/tree/package"
}
