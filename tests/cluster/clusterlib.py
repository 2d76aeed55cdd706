# SPDX-License-Identifier: BSD-3-Clause
"""A development cluster for a test, and what its hosts see of each other.

Cases run as those of tests/mount do (see mountlib.py); this adds what a cluster may leave beyond
processes and mounts.
"""
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'mount'))
from mountlib import BTD, Outcome, Skip, check, mounts_below, must, run, say, wait_until  # noqa: E402

PYTHON = [os.path.realpath(sys.executable), '-I', '-S']  # what starts fastest
ETCD = '10.93.0.1'

# Says whether a member of etcd has a leader and answers.
HEALTH = '''
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 2379), timeout=0.6) as s:
        s.sendall(b"GET /health HTTP/1.0\\r\\n\\r\\n")
        text = b""
        while part := s.recv(4096):
            text += part
except OSError as error:
    sys.exit(f"{error}")
sys.exit(0 if b'"true"' in text else text.decode())
'''

# Sends a datagram to whoever listens there; the answer is its sender's address.
ECHO = '''
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    if len(sys.argv) == 2:
        s.bind((sys.argv[1], 7007))
        print("ready", flush=True)
        while True:
            _, peer = s.recvfrom(64)
            s.sendto(peer[0].encode(), peer)
    s.settimeout(0.25)
    for i in range(2):
        try:
            s.sendto(b"x", (sys.argv[1], 7007))
            s.recv(64)
            sys.exit(0)
        except OSError as error:
            last = error
    sys.exit(f"{last}")
'''


def needs():
    for name, package in (('etcd', 'etcd-server'), ('ip', 'iproute2')):
        if not shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin'):
            raise Skip(f'{name} is not there; apt install {package}')


def namespaces(prefix='btd-'):
    """Those that are known by a name."""
    there = os.listdir('/run/netns') if os.path.isdir('/run/netns') else []
    return {name for name in there if name.startswith(prefix)}


def users_of(inodes):
    """Processes in those network namespaces, whether they still have a name or not."""
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                if os.stat(f'/proc/{name}/ns/net').st_ino in inodes:
                    found.append(name)
            except OSError:
                pass
    return found


class Traces:
    """What a cluster may leave beside files. Others may have clusters at the same time."""

    def __init__(self, base):
        self.base = base
        self.before = namespaces()
        self.inodes = set()

    def note(self, identity):
        """Namespaces that are to be gone in the end."""
        for name in namespaces(f'btd-{identity}-'):
            self.inodes.add(os.stat(f'/run/netns/{name}').st_ino)

    def check_gone(self, identity=''):
        left = namespaces(f'btd-{identity}') - self.before
        check(not left, f'namespaces left behind: {left}')
        check(not users_of(self.inodes), f'processes left behind: {users_of(self.inodes)}')
        check(not mounts_below(self.base), f'mounts left behind: {mounts_below(self.base)}')
        self.inodes.clear()


class Commander:
    """A process that runs commands for a test that has files open. A command of the test's own would
    close them as it starts, and with that wait for homes that are away."""

    def __init__(self):
        self.pipe, theirs = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.pipe.close()
            self.serve(theirs)
        theirs.close()

    @staticmethod
    def serve(pipe):
        try:
            while True:
                words, options = pipe.recv()
                try:
                    pipe.send(run(*words, **options))
                except AssertionError as error:
                    pipe.send(Outcome(1, str(error)))
        except EOFError:
            os._exit(0)

    def run(self, *words, **options):
        self.pipe.send((words, options))
        return self.pipe.recv()

    def end(self):
        self.pipe.close()
        os.waitpid(self.pid, 0)


class Cluster:
    """A context manager: the cluster is stopped at the end, and must leave nothing."""

    def __init__(self, nodes=3, *options, start=True):
        self.base = os.environ['BTD_CASE_DIR']
        self.dir = os.path.join(self.base, 'cluster')
        self.nodes = nodes
        needs()
        self.traces = Traces(self.base)
        self.commander = Commander()
        if start:
            self.start(*options)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.stop() if kind is None else self.run('stop')
        self.commander.end()

    def path(self, node, *names):
        """Of a name as that node shows it; nodes count from 1."""
        return os.path.join(self.dir, 'mnt', f'n{node}', *names)

    def pool(self, node):
        return os.path.join(self.dir, f'n{node}', 'pool')

    def facts(self, node):
        """What that node's mount says of itself."""
        with open(self.path(node, '.btd', 'status.json')) as f:
            return json.load(f)

    def calls(self, node):
        """Messages that node has sent to the homes of files."""
        return self.facts(node)['cluster']['away']['calls']

    def worker(self, node):
        """Its pid."""
        return self.facts(node)['worker']['pid']

    def kill_worker(self, node):
        """Kills the worker with -9, and waits for its replacement."""
        old = self.worker(node)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.worker(node) != old, 20, f'another worker of n{node}')

    def words(self, *words):
        """The command line, with --dir where no word of another program is."""
        at = words.index('--') if '--' in words else len(words)
        return [BTD, 'cluster', 'dev', *words[:at], '--dir', self.dir, *words[at:]]

    def run(self, *words, **options):
        return self.commander.run(*self.words(*words), **options)

    def must(self, *words, **options):
        outcome = self.run(*words, **options)
        check(outcome.code == 0, f'{" ".join(words)} ended with {outcome.code}:\n{outcome.text}')
        return outcome.text

    def start(self, *options):
        return self.must(str(self.nodes), *options)

    def stop(self):
        """Ends it, and looks for what it left."""
        identity = ''
        if os.path.exists(self.state_file()):
            with open(self.state_file()) as f:
                identity = json.load(f)['id']
            self.traces.note(identity)
        text = self.must('stop')
        self.traces.check_gone(identity)
        return text

    def status(self):
        return json.loads(self.must('status', '--json'))

    def host(self, name):
        status = self.status()
        return next(h for h in status['etcd'] + status['nodes'] if h['name'] == name)

    def mend(self):
        """Whatever a check that failed left as it was, the next one finds a whole cluster."""
        self.run('heal')
        for host in ('etcd', *(f'n{i}' for i in range(1, self.nodes + 1))):
            self.run('resume', host)
            self.run('start', host)

    @contextlib.contextmanager
    def unheard(self, host):
        """What etcd says to that host is lost meanwhile; what the host says arrives."""
        route = ('blackhole', self.host(host)['address'])
        self.must('exec', 'etcd', '--', 'ip', 'route', 'add', *route)
        try:
            yield
        finally:
            self.must('exec', 'etcd', '--', 'ip', 'route', 'del', *route)

    def keep_logs(self):
        """What the daemons said last, since the logs go with the case."""
        text = ''
        for name in sorted(os.listdir(self.dir)):
            if name.startswith('n') and name.endswith('.log'):
                with open(os.path.join(self.dir, name), errors='replace') as f:
                    text += f'\n{name}: ' + ''.join(f.readlines()[-20:])
        return 'the daemons say:' + text

    def state_file(self):
        return os.path.join(self.dir, 'state.json')

    def users_of(self, host):
        """The processes in that host's namespace."""
        path = f'/run/netns/{self.host(host)["namespace"]}'
        return [int(p) for p in users_of({os.stat(path).st_ino})]

    @staticmethod
    def state_of(pid):
        """As in proc(5)."""
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rsplit(')', 1)[1].split()[0]

    def popen(self, host, *command, **options):
        return subprocess.Popen(self.words('exec', host, '--', *command), **options)

    def echo(self, host, address):
        """A program on that host that answers until it is ended."""
        process = self.popen(host, *PYTHON, '-c', ECHO, address, stdout=subprocess.PIPE)
        check(process.stdout.readline() == b'ready\n', f'nothing listens on {host}')
        return process

    def reaches(self, host, address):
        return self.run('exec', host, '--', *PYTHON, '-c', ECHO, address, 'ask').code == 0

    def etcd_is_healthy(self, host, address=ETCD):
        return self.run('exec', host, '--', *PYTHON, '-c', HEALTH, address).code == 0


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


class Seen:
    """How long the other nodes took to show what one of them did."""

    def __init__(self):
        self.delays = []

    def wait(self, what, *looks, limit=1.0):
        """Each of `looks` becomes true, asked in turn without a pause. Kernels forget attributes of files after a
        second, so a longer limit would not tell what they were told from what they forgot."""
        start = time.monotonic()
        left = list(looks)
        while left:
            now = time.monotonic()
            found = [look for look in left if look()]
            self.delays += [(now - start) * 1000] * len(found)
            left = [look for look in left if look not in found]
            check(not left or now - start < limit, f'{what} is not seen within {limit} s')

    def __str__(self):
        ordered = sorted(self.delays)
        at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
        return (f'{len(ordered)} looks: p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, '
                f'max {ordered[-1]:.2f} ms')


def suite(checks, *options, nodes=3):
    """A body for mountlib's main: the checks in turn on one cluster, each in a directory of its own
    that bears its name. `script CASE NAME...` runs those alone. The rest goes on after a failure."""
    def body():
        wanted = sys.argv[2:]
        failed = []
        with Cluster(nodes, *options) as c:
            for entry in checks:
                name = entry.__name__
                if wanted and name not in wanted:
                    continue
                say(f'--- {name}: {entry.__doc__.splitlines()[0]}')
                os.mkdir(c.path(1, name))
                for node in range(2, nodes + 1):
                    wait_until(lambda n=node: os.path.isdir(c.path(n, name)), 2, f'{name} at n{node}')
                start = time.monotonic()
                try:
                    entry(c, name)
                except Skip as reason:
                    say(f'    left out: {reason}')
                except Exception:  # the rest is to be known too
                    traceback.print_exc()
                    failed.append(name)
                    c.mend()
                say(f'    {time.monotonic() - start:.2f} s')
            check(not failed, f'failed: {", ".join(failed)}; {c.keep_logs()}')
    return body
