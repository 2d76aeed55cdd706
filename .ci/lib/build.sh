# shellcheck shell=bash
# Configures and builds a preset.

# Some sanitizers lose to the address randomisation of newer kernels, and a build runs
# tests too: to list their cases.
NO_ASLR=()
if setarch --addr-no-randomize true 2>/dev/null; then NO_ASLR=(setarch --addr-no-randomize); fi

# configure PRESET: CMake finds the private libfuse by itself (cmake/libfuse.cmake).
configure() {
  local launcher=()
  if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  (cd "$BTD_ROOT" && cmake --preset "$1" "${launcher[@]}")
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  (cd "$BTD_ROOT" && "${NO_ASLR[@]}" cmake --build --preset "$preset" -j "$BTD_JOBS" ${1:+--target "$@"})
}

# prepare: what every command needs before it can build.
prepare() {
  start_log "$1"
  shift
  check_system
  install_packages "${BUILD_PACKAGES[@]}" "$@"
  ensure_libfuse
  ensure_rdma
}
