# shellcheck shell=bash
# The C project that a test builds on a cluster: its source, as Debian has it, in build/project/src.
#
# zlib: a configure script that compiles dozens of programs, a library, and programs that use it.

readonly PROJECT=zlib

project_is_there() { compgen -G "$BTD_ROOT/build/project/src/$PROJECT*.dsc" >/dev/null; }

# False where the archive does not give it: the test then says that it could not run.
ensure_project() {
  project_is_there ||
    step "Fetch the source of $PROJECT, to build it on a cluster" fetch_source \
      "$BTD_ROOT/build/project" "$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")" "$PROJECT"
}
