# shellcheck shell=bash
# Debian packages: which are needed for what, and how the missing ones are installed.

readonly BUILD_PACKAGES=(
  g++ cmake ninja-build pkgconf ccache python3
  meson dpkg-dev xz-utils patch liburing-dev libnuma-dev # to build libfuse, and the tcp engine
  libpmem-dev libxxhash-dev libisal-dev uuid-dev libsystemd-dev
  libcli11-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libtomlplusplus-dev
  libgtest-dev libgmock-dev libboost-dev libcurl4-openssl-dev libnghttp2-dev
  libibverbs-dev librdmacm-dev libssl-dev # the network
  libnl-3-dev libnl-route-3-dev # to build rdma-core
)
readonly TEST_PACKAGES=(
  clang-tidy-19 clang-format-19 shellcheck mandoc
  clang-19 libclang-rt-19-dev llvm-19 # the fuzzers, and the lines of their stacks
  fio attr acl e2fsprogs valgrind
  etcd-server etcd-client openssl # a real server for the etcd engine, and its certificates
  iproute2 # the networks of a cluster on one machine
  git rsync # programs that copy trees between nodes
  liblmdb-dev # a database that nodes share
  sqlite3 redis-server redis-tools stress-ng # programs to run on our malloc
)
readonly VM_PACKAGES=( # for tests/vm: the emulator, and what runs in its guests
  qemu-system-x86 busybox-static binutils e2fsprogs xfsprogs ndctl
  iproute2 ibverbs-utils ibverbs-providers perftest
)
readonly BENCH_PACKAGES=(
  fio
  iperf3 redis-server redis-tools # to compare the network with
  libpmemobj-dev libjemalloc2 libtcmalloc-minimal4 libmimalloc-dev # to compare allocators with
)

# Only apt can install, and only Debian 12 or newer has these packages.
check_system() {
  local id='' like='' version=''
  if [[ -r /etc/os-release ]]; then
    id=$(. /etc/os-release && printf '%s' "${ID:-}")
    like=$(. /etc/os-release && printf '%s' "${ID_LIKE:-}")
    version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")
  fi
  if ! command -v apt-get >/dev/null || [[ " $id $like " != *" debian "* ]]; then
    die 69 "this is ${id:-an unknown system}, and bootstrap installs with apt on Debian 12 or newer; \
install the equivalents of \`./bootstrap deps --list\` by hand, then build with \`cmake --preset release\`."
  fi
  if [[ $id == debian && -n $version ]] && ((version < 12)); then
    die 69 "this is Debian $version, and bartender needs the compiler of Debian 12 or newer."
  fi
  [[ $(uname -m) == x86_64 ]] ||
    warn "bartender is tested on x86-64 only; this is $(uname -m)."
}

# missing_packages NAME...: those not installed, one a line.
missing_packages() {
  local name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || say "$name"
  done
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$@"
}

apt_update() { as_root apt-get update -o APT::Update::Error-Mode=any; }

# install_packages NAME...: one apt call for what is missing. The package lists are refreshed only
# where apt cannot resolve or fetch with those it has.
install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@" | sort -u)
  ((${#missing[@]})) || return 0
  can_root ||
    die 77 "these packages are missing and installing needs root; run bootstrap as root, or first: \
apt-get install ${missing[*]}"
  if ! apt-get install --simulate -qq "${missing[@]}" >/dev/null 2>&1; then
    step "Refresh the package lists" apt_update || apt_trouble "${missing[*]}"
  fi
  step "Install ${#missing[@]} packages" apt_install "${missing[@]}" && return
  step "Refresh the package lists, as some were not to be had" apt_update ||
    apt_trouble "${missing[*]}"
  step "Install ${#missing[@]} packages, again" apt_install "${missing[@]}" ||
    apt_trouble "${missing[*]}"
}

apt_trouble() {
  if grep -qE 'Could not resolve|Temporary failure|Could not connect|Unable to connect|Network is unreachable' "$BTD_LOG"; then
    die 69 "the package archive cannot be reached: check this machine's network and proxy, then run bootstrap again."
  fi
  die 69 "apt could not install $1; what it said is above and in $BTD_LOG."
}

cmd_deps() {
  if [[ ${1:-} == --list ]]; then
    printf '%s\n' "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${BENCH_PACKAGES[@]}" \
      "${VM_PACKAGES[@]}" | sort -u
    return
  fi
  start_log deps
  check_system
  install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${BENCH_PACKAGES[@]}" \
    "${VM_PACKAGES[@]}"
  ensure_libfuse
  ensure_rdma
  ensure_kernels || warn "there are no kernels for guests, so the virtual lab will be skipped"
  say "All packages are installed, and libfuse is $(libfuse_version)."
}
