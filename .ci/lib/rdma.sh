# shellcheck shell=bash
# rdma-core: ibv_wr_flush, by which a NIC makes writes durable itself, needs a newer one than
# Debian 12 has.
#
# Where the compiler finds none, Debian's own source package of a newer suite is fetched (archive.sh),
# and of it the two libraries and a few drivers are built into the prefix BTD_DEPS. Where no suite
# gives it, the system's library does, without that flush.

readonly RDMA_SUITES=(trixie sid)
# Soft-RoCE, which implements the flush, and the most common NICs. Others need the system's library.
readonly RDMA_DRIVERS=(rxe mlx5)

have_wr_flush() {
  local flags=()
  read -ra flags < <(with_deps pkg-config --cflags libibverbs 2>/dev/null) || true
  say '#include <infiniband/verbs.h>
       int main() { return IBV_WR_FLUSH; }' | g++ "${flags[@]}" -fsyntax-only -x c++ - 2>/dev/null
}

# The system's rdma-core will do, or ours is built. Never a failure of bootstrap.
ensure_rdma() {
  have_wr_flush || (build_private_rdma) ||
    warn "there is no rdma-core with ibv_wr_flush to be had, so the NICs' own flush is left out"
}

build_private_rdma() {
  local work
  work=$(mktemp -d "${TMPDIR:-/tmp}/bartender-rdma.XXXXXX")
  # shellcheck disable=SC2064  # the directory's name as it is now
  trap "rm -rf '$work'" EXIT
  step "Fetch the source of rdma-core" fetch_rdma "$work" &&
    step "Build rdma-core into ${BTD_DEPS#"$BTD_ROOT"/}" build_rdma "$work" && have_wr_flush
}

# Debian's changes are of packaging, so its authors' archive is enough. Its hash is in the signed list.
fetch_rdma() {
  local work=$1 suite
  for suite in "${RDMA_SUITES[@]}"; do
    if fetch_source "$work" "$suite" --tar-only rdma-core; then return 0; fi
  done
  return 1
}

# Only what we link and load: all of it takes a minute and more. What pkg-config reads comes last, so
# that an interrupted build is none.
build_rdma() {
  local work=$1 part wanted targets
  mkdir "$work/rdma-core"
  tar -xf "$work"/src/rdma-core_*.orig.tar.* -C "$work/rdma-core" --strip-components=1 || return
  cmake -S "$work/rdma-core" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$BTD_DEPS" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_INSTALL_SYSCONFDIR=etc \
    -DNO_MAN_PAGES=1 -DNO_PYVERBS=1 -DENABLE_VALGRIND=0 || return
  # A driver's file has a number that is the version's.
  wanted="ibverbs|rdmacm|rspreload|$(IFS='|' && say "${RDMA_DRIVERS[*]}")"
  mapfile -t targets < <(ninja -C "$work/build" -t targets all |
    sed -nE "s=^(lib/lib($wanted)(-rdmav[0-9]+)?\\.so):.*=\\1=p")
  ninja -C "$work/build" -j "$BTD_JOBS" "${targets[@]:?no targets}" || return
  for part in libibverbs librdmacm "${RDMA_DRIVERS[@]/#/providers/}"; do
    cmake --install "$work/build/$part" --strip || return
  done
  install -m 644 -t "$BTD_DEPS/lib/pkgconfig" -D "$work"/build/lib/pkgconfig/lib{rdmacm,ibverbs}.pc
}
