# shellcheck shell=bash
# Other suites of this machine's Debian archive, through a private apt configuration: the system's
# is not touched; archive and keyring are those of the machine's own sources.

# archive_stanza SUITE [TYPE]: a deb-src (or TYPE) stanza (deb822) for SUITE of the archive that this
# machine's own sources name for its release. Understands .sources and .list files.
archive_stanza() {
  python3 "$BTD_ROOT/.ci/lib/apt_archive.py" "$1" /etc/apt "${2:-deb-src}"
}

# private_apt DIR TOOL COMMAND...: apt-get or apt-cache with its sources, lists and cache in DIR.
private_apt() {
  local dir=$1 tool=$2
  shift 2
  # Check-Valid-Until: the machine's archive may be a snapshot, whose newer suites expired long ago;
  # signatures and hashes are checked all the same.
  "$tool" -o "Dir::Etc::sourcelist=$dir/archive.sources" -o Dir::Etc::sourceparts=- \
    -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o APT::Sandbox::User="$(id -un)" \
    -o Acquire::Check-Valid-Until=false -o APT::Get::List-Cleanup=false "$@"
}

# open_archive DIR SUITE [TYPE]: DIR is made ready for private_apt, with the lists of SUITE.
open_archive() {
  local dir=$1
  rm -rf "${dir:?}"/{lists,cache}
  mkdir -p "$dir"/lists/partial "$dir"/cache/archives/partial
  archive_stanza "$2" "${3:-deb-src}" >"$dir/archive.sources" || return
  private_apt "$dir" apt-get update -o APT::Update::Error-Mode=any
}

# fetch_source DIR SUITE APT-ARGS...: what `apt-get source` gives of SUITE, into DIR/src.
fetch_source() {
  local dir=$1 suite=$2
  shift 2
  rm -rf "${dir:?}/src"
  mkdir -p "$dir/src"
  open_archive "$dir" "$suite" || return
  (cd "$dir/src" && private_apt "$dir" apt-get source --download-only "$@")
}
