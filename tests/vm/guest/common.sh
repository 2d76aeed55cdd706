# shellcheck shell=sh
# What the scripts of the guest share. Reports go to the second serial port; see report.py.
REPORTS=/dev/ttyS1

report() { printf '@btd %s\n' "$*" >"$REPORTS"; }
fact() { report fact "$@"; }
at() {
  report at "$@"
  echo "== $*"
}

# verdict pass|fail|skip REASON: the end of the guest.
verdict() {
  report verdict "$@"
  sync
  poweroff -f
  sleep 60
}

# must COMMAND...: its output is on the console; the case fails with the last line of it.
must() {
  "$@" >/tmp/said 2>&1
  code=$?
  cat /tmp/said
  [ "$code" = 0 ] || verdict fail "$* ended with $code: $(tail -n 1 /tmp/said)"
}

# wait_for WHAT CONDITION: ten seconds at most.
wait_for() {
  waited=0
  until eval "$2" >/dev/null; do
    [ $waited -lt 100 ] || verdict fail "$1 did not come within 10 s"
    waited=$((waited + 1))
    sleep 0.1
  done
}
