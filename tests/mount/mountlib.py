# SPDX-License-Identifier: BSD-3-Clause
"""What the mount tests share: a fresh pool and mount each, and a parent that always cleans up.

A case runs in a child. Its parent keeps the deadline and never touches the mount, so it cannot hang
with it; it is the subreaper of all that the case starts, daemons too. At the end, however it came,
the parent aborts FUSE connections of the case, ends the processes that are its descendants, unmounts
what lies below the case's directory, and removes that. A case that leaves something behind fails.
"""
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.realpath(os.path.join(HERE, '..', '..', 'build', 'release'))
SKIPPED = 77
MIB = 1 << 20
# A slow or busy machine takes so many times as long as it should. What is awaited comes in the end:
# so deadlines say when it does not come, and speed is measured elsewhere.
SLOW = 4


def program(name, variable):
    """The path of a program of the build: from the environment, or the release build."""
    below = {'btd': 'bin', 'posix_suite': 'tests/posix', 'fs_meta': 'bench'}.get(name, 'tests/stress')
    return os.environ.get(variable) or os.path.join(BUILD, below, name)


BTD = program('btd', 'BTD_BIN')


class Skip(Exception):
    """The machine cannot run this case; the text says why."""


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def say(text):
    print(text, flush=True)


class Outcome:
    def __init__(self, code, text):
        self.code = code
        self.text = text


def run(*command, timeout=60, env=None, cwd=None):
    """Runs a program with its output in a file: a daemon it leaves behind keeps no pipe of ours."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.STDOUT, env=env, cwd=cwd)
        try:
            code = child.wait(SLOW * timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            raise AssertionError(f'{" ".join(map(str, command))} did not end within {SLOW * timeout} s')
        out.seek(0)
        return Outcome(code, out.read().decode(errors='replace'))


def must(*command, **options):
    outcome = run(*command, **options)
    check(outcome.code == 0,
          f'{" ".join(map(str, command))} ended with {outcome.code}:\n{outcome.text[-6000:]}')
    return outcome.text


def refuse(code, words, *command):
    """The command must end with that exit code and a message that has each of the words."""
    outcome = run(*command)
    shown = f'{" ".join(map(str, command))} ended with {outcome.code}: {outcome.text.strip()}'
    check(outcome.code == code, f'{shown}\nexpected exit code {code}')
    for word in words:
        check(word.lower() in outcome.text.lower(), f'{shown}\nexpected it to say "{word}"')
    say(f'refused as it should: {outcome.text.strip()}')


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + SLOW * seconds
    while not condition():
        check(time.monotonic() < deadline, f'{what} did not happen within {SLOW * seconds} s')
        time.sleep(0.01)


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_mounted(path):
    return any(m[0] == path for m in mounts_below(path))


def mounts_below(path):
    """(mount point, minor of the device, type) of each mount at or below path, innermost last."""
    found = []
    with open('/proc/self/mountinfo') as f:
        for line in f:
            fields = line.split()
            point = fields[4].encode().decode('unicode_escape')
            if point == path or point.startswith(path + '/'):
                kind = fields[fields.index('-') + 1]
                found.append((point, fields[2].split(':')[1], kind))
    return found


class Bartender:
    """A fresh pool and its mount below the case's directory; a context manager."""

    count = 0

    def __init__(self, size='256M', emulate='ram', mount=True, options=(), base=None,
                 mountpoint=None):
        Bartender.count += 1
        self.base = base or os.path.join(os.environ['BTD_CASE_DIR'], f'b{Bartender.count}')
        self.pool = os.path.join(self.base, 'pool')
        self.mnt = mountpoint or os.path.join(self.base, 'mnt')
        os.makedirs(self.base)
        os.makedirs(self.mnt)
        self.options = list(options)
        self.worker = self.supervisor = 0
        size_arguments = ['--size', size] if size else []
        self.format_output = must(BTD, 'format', self.pool, '--emulate', emulate, *size_arguments)
        if mount:
            self.mount()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.umount()
            self.detach()

    def path(self, *names):
        return os.path.join(self.mnt, *names)

    def mount(self, *options):
        wanted = self.options + list(options)
        must(BTD, 'mount', self.pool, self.mnt, *(['-o', ','.join(wanted)] if wanted else []))
        self.read_pids()

    def read_pids(self):
        status = self.status()
        self.worker, self.supervisor = status['worker']['pid'], status['supervisor']['pid']

    def status(self):
        with open(self.path('.btd', 'status.json')) as f:
            return json.load(f)

    def umount(self):
        if is_mounted(self.mnt):
            must(BTD, 'umount', self.mnt, timeout=90)
        self.wait_gone()

    def wait_gone(self):
        for name, pid in (('worker', self.worker), ('supervisor', self.supervisor)):
            wait_until(lambda p=pid: not alive(p), 20, f'the end of the {name} (pid {pid})')

    def detach(self):
        if is_mounted(self.pool):
            must('umount', self.pool)

    def kill_worker(self):
        """Kills the worker with -9; returns ms until a request was served by its replacement."""
        start = time.monotonic()
        os.kill(self.worker, signal.SIGKILL)
        try:
            os.lstat(self.path(f'probe{start:.9f}'))
            check(False, 'a name that was never made is there')
        except FileNotFoundError:
            pass
        took = (time.monotonic() - start) * 1000
        killed = self.worker
        self.read_pids()
        check(self.worker != killed, 'the killed worker still answers')
        return took

    def kill_all(self, detach=True):
        """Kills supervisor and worker with -9, and detaches the dead mount or leaves it."""
        os.kill(self.supervisor, signal.SIGKILL)
        try:
            os.kill(self.worker, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended with its supervisor
        self.wait_gone()
        if detach and is_mounted(self.mnt):
            must('umount', '-l', self.mnt)

    def check_pool(self):
        """`btd check` on the unmounted pool finds nothing."""
        must(BTD, 'check', self.pool, timeout=300)


def spread(values):
    ordered = sorted(values)
    return (f'median {ordered[len(ordered) // 2]:.1f}, '
            f'95 % {ordered[int(len(ordered) * 0.95)]:.1f}, max {ordered[-1]:.1f}')


def random_bytes(size, seed):
    return random.Random(seed).randbytes(size)


# ---- the parent -------------------------------------------------------------------------------

def children_of(pid):
    """Descendants of pid. Reads only /proc/PID/stat: the command line of a process that waits for
    a dead mount cannot be read without waiting too."""
    parents = {}
    for name in os.listdir('/proc'):
        if not name.isdigit():
            continue
        try:
            with open(f'/proc/{name}/stat') as f:
                text = f.read().rsplit(')', 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text[0] not in 'ZX':
            parents.setdefault(int(text[1]), []).append(int(name))
    found, queue = [], [pid]
    while queue:
        for child in parents.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def abort_connections(base):
    for _, minor, kind in mounts_below(base):
        control = f'/sys/fs/fuse/connections/{minor}/abort'
        if kind.startswith('fuse') and os.path.exists(control):
            with open(control, 'w') as f:
                f.write('1')


def reap():
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def clean_up(base):
    """Ends and removes everything of the case; returns what a tidy case would not have left."""
    if os.path.exists(os.path.join(base, 'cluster', 'state.json')):  # its networks are nobody's child
        subprocess.run([BTD, 'cluster', 'dev', 'stop', '--dir', os.path.join(base, 'cluster')], check=False,
                       timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    left = [f'process {p}' for p in children_of(os.getpid())]
    left += [f'mount {m[0]}' for m in mounts_below(base)]
    for attempt in range(20):
        if attempt >= 2:
            abort_connections(base)
        for pid in children_of(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()
        for point, _, _ in reversed(mounts_below(base)):
            # By force: a thread that waits in the kernel keeps a connection alive that nobody serves.
            subprocess.run(['umount', '-f', '-l', point], stderr=subprocess.DEVNULL, check=False)
        if not children_of(os.getpid()) and not mounts_below(base):
            break
        time.sleep(0.2)
    shutil.rmtree(base, ignore_errors=True)
    return left


def run_child(body):
    try:
        body()
        return 0
    except Skip as reason:
        say(f'skipped: {reason}')
        return SKIPPED
    except BaseException:  # whatever it is, the parent has to hear of it
        traceback.print_exc()
        return 1


def wait_for(child, seconds):
    """Exit code of the child, or None at the deadline. Daemons that end meanwhile are reaped."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1
        if pid == child:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            time.sleep(0.02)
    return None


def case(body, timeout):
    """Runs `body` as one case with that many seconds, cleans up, and exits."""
    if os.geteuid() != 0 or not os.path.exists('/dev/fuse') or not os.path.exists(BTD):
        say(f'skipped: this needs root, /dev/fuse, and {BTD}')
        sys.exit(SKIPPED)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: daemons become ours
    base = tempfile.mkdtemp(prefix='btd-mount-', dir=os.environ.get('BTD_TEST_TMP', '/tmp'))
    base = os.path.realpath(base)
    os.chmod(base, 0o755)
    os.environ['BTD_CASE_DIR'] = base

    def stop(number, _frame):
        clean_up(base)
        os._exit(128 + number)

    child = os.fork()
    if child == 0:
        code = run_child(body)
        sys.stdout.flush()
        os._exit(code)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    code = wait_for(child, timeout)
    if code is None:
        say(f'failed: not done within {timeout} s')
    left = clean_up(base)
    if code == 0 and left:
        say(f'failed: left behind {", ".join(left)}')
        code = 1
    sys.exit(1 if code is None or code < 0 else code)


def main(cases, timeout=120):
    """`script CASE [ARGUMENTS]`; `cases` names a function for each case."""
    if len(sys.argv) < 2 or sys.argv[1] not in cases:
        say(f'usage: {os.path.basename(sys.argv[0])} {"|".join(cases)} [ARGUMENTS]')
        sys.exit(2)
    entry = cases[sys.argv[1]]
    body, seconds = entry if isinstance(entry, tuple) else (entry, timeout)
    case(body, int(os.environ.get('BTD_CASE_TIMEOUT', SLOW * seconds)))
