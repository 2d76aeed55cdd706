# shellcheck shell=bash
# libfuse: passthrough, resend and io_uring need a newer one than Debian 12 has.
#
# Where pkg-config finds none that will do, Debian's own source package of a newer suite is fetched
# (archive.sh) and built into the prefix BTD_DEPS.

readonly LIBFUSE_MIN=3.18.3
readonly LIBFUSE_SUITES=(sid forky trixie)
BTD_DEPS=${BTD_DEPS:-$BTD_ROOT/.deps}
export BTD_DEPS

with_deps() { PKG_CONFIG_PATH="$BTD_DEPS/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}" "$@"; }
have_libfuse() { with_deps pkg-config --atleast-version="$LIBFUSE_MIN" fuse3 2>/dev/null; }
libfuse_version() { with_deps pkg-config --modversion fuse3; }

# The system's libfuse will do, or ours is built; the baseline of the benchmarks comes with ours.
ensure_libfuse() {
  have_libfuse && return
  local work
  work=$(mktemp -d "${TMPDIR:-/tmp}/bartender-libfuse.XXXXXX")
  # shellcheck disable=SC2064  # the directory's name as it is now
  trap "rm -rf '$work'" EXIT
  step "Fetch the source of libfuse >= $LIBFUSE_MIN" fetch_libfuse "$work" || libfuse_trouble
  must_step "Build libfuse into ${BTD_DEPS#"$BTD_ROOT"/}" build_libfuse "$work"
  rm -rf "$work"
  trap - EXIT
  have_libfuse || die 70 "libfuse was built, but pkg-config does not find it in $BTD_DEPS/lib/pkgconfig."
}

libfuse_trouble() {
  die 69 "no suite of this machine's Debian archive (${LIBFUSE_SUITES[*]}) gave libfuse >= $LIBFUSE_MIN: \
check the network, or install that version by hand and set PKG_CONFIG_PATH. What apt said is in $BTD_LOG."
}

fetch_libfuse() {
  local work=$1 suite
  for suite in "${LIBFUSE_SUITES[@]}"; do
    fetch_source "$work" "$suite" fuse3 || continue
    if new_enough "$work"/src/*.dsc; then return 0; fi
  done
  return 1
}

new_enough() {
  local version
  version=$(sed -n 's/^Version: *//p' "$1" | head -n 1)
  say "The archive has $version."
  dpkg --compare-versions "$version" ge "$LIBFUSE_MIN"
}

# Static and shared; the daemon links the static one, so that it runs without this prefix.
build_libfuse() {
  local work=$1
  dpkg-source --extract "$work"/src/*.dsc "$work/fuse3" || return
  meson setup "$work/build" "$work/fuse3" --prefix="$BTD_DEPS" --libdir=lib --buildtype=release \
    -Dtests=false -Dutils=true -Dexamples=true -Duseroot=false -Ddefault_library=both \
    -Dudevrulesdir="$BTD_DEPS/udev" -Dinitscriptdir= -Denable-io-uring=true || return
  ninja -C "$work/build" -j "$BTD_JOBS" install || return
  install -D "$work/build/example/passthrough_hp" "$BTD_DEPS/bin/passthrough_hp"
}
