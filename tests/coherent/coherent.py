#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Coherent files on the mounts of a development cluster: programs that store and load beside each
other (litmus.cc), workers and notifiers that are killed meanwhile, and what the mode is."""
import mmap
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'cluster'))
from clusterlib import Cluster  # noqa: E402
from mountlib import BTD, BUILD, alive, check, main, must, say, wait_until  # noqa: E402

LITMUS = os.environ.get('BTD_LITMUS') or os.path.join(BUILD, 'tests', 'coherent', 'coherent_litmus')
SECONDS = float(os.environ.get('BTD_LITMUS_SECONDS', '1.5'))
KILLS = int(os.environ.get('BTD_KILLS', '2'))  # under each program
CASES = ('buffering', 'message', 'counter', 'sharing', 'mixed', 'truncate', 'calls')


class Mounts(Cluster):
    """A cluster with a directory whose files are coherent."""

    def __init__(self, nodes):
        base = os.environ['BTD_CASE_DIR']
        self.mounts = os.path.join(base, 'mnt')
        super().__init__(nodes, '--mounts', self.mounts)
        os.mkdir(self.path(1, 'd'))
        os.setxattr(self.path(1, 'd'), 'user.btd.mode', b'coherent')

    def path(self, node, *names):
        return os.path.join(self.mounts, f'n{node}', *names)

    def paths(self, name):
        return [self.path(n, 'd', name) for n in range(1, self.nodes + 1)]

    def notifier(self, node):
        """What the status says of the process that tells the kernel."""
        return self.facts(node)['cluster']['notifier']

    def litmus(self, case, name, seconds=SECONDS):
        return subprocess.Popen([LITMUS, case, str(seconds), *self.paths(name)],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, process, seconds):
        """With what the daemons said where it failed."""
        try:
            return finish(process, seconds)
        except AssertionError as wrong:
            raise AssertionError(f'{wrong}; {self.keep_logs()}') from wrong


def finish(process, seconds):
    """What it printed."""
    try:
        text, _ = process.communicate(timeout=seconds + 30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError('a program hangs') from None
    say(text.strip())
    check(process.returncode == 0, f'it ended with {process.returncode}')
    return text


def litmus_on(nodes):
    with Mounts(nodes) as c:
        for case in CASES:
            finish(c.litmus(case, case), SECONDS)


def two():
    litmus_on(2)


def three():
    litmus_on(3)


def mode():
    """A directory passes its mode on; a file keeps its own."""
    with Mounts(2) as c:
        get = lambda path: os.getxattr(path, 'user.btd.mode').decode()
        for name in ('direct', 'd/coherent'):
            with open(c.path(1, name), 'w') as f:
                f.write(name)
        wait_until(lambda: os.path.isdir(c.path(2, 'd')) and get(c.path(2, 'd')) == 'coherent', 5, 'd at n2')
        os.mkdir(c.path(2, 'd', 'below'))
        wait_until(lambda: os.path.exists(c.path(1, 'd', 'below')), 5, 'the new directory')
        check(get(c.path(1, 'd', 'below')) == 'coherent', 'a directory did not inherit')
        check(get(c.path(2, 'direct')) == 'direct', 'a file of the root is not direct')
        check(get(c.path(2, 'd/coherent')) == 'coherent', 'a file did not inherit')
        for path, value in ((c.path(1, 'direct'), b'coherent'), (c.path(1, 'd/coherent'), b'direct')):
            try:
                os.setxattr(path, 'user.btd.mode', value)
                check(False, f'{path} changed its mode')
            except PermissionError:
                pass
        os.removexattr(c.path(1, 'd'), 'user.btd.mode')
        wait_until(lambda: get(c.path(2, 'd')) == 'direct', 5, 'the mode of the directory')
        check(get(c.path(2, 'd/coherent')) == 'coherent', 'the file changed with its directory')


def grown():
    """Who opens a file has the size of that moment, also where it was looked up just before."""
    with Mounts(2) as c:
        for i in range(10):
            at1, at2 = c.paths(f'f{i}')
            with open(at1, 'wb') as f:
                f.write(bytes([1] * 4096))
                f.flush()
                wait_until(lambda p=at2: os.path.exists(p) and os.stat(p).st_size == 4096, 5, at2)
                f.write(bytes([2] * 4096))
            with open(at2, 'r+b' if i % 2 else 'rb') as f:
                size = os.fstat(f.fileno()).st_size
                check(size == 8192, f'it has {size} bytes')
                with mmap.mmap(f.fileno(), 8192, access=mmap.ACCESS_READ) as memory:
                    check(memory[4096] == 2, 'its second page')


def killed():
    """Workers of users and of the home die under programs, which go on."""
    with Mounts(2) as c:
        for case in ('sharing', 'counter'):
            process = c.litmus(case, case, 4 * KILLS)
            for kill in range(KILLS):
                time.sleep(2.5)
                os.kill(c.worker(2 - kill % 2), signal.SIGKILL)
            c.finish(process, 4 * KILLS + 40)


def user_killed():
    """The worker of a user dies again and again, never that of the home: what it was asked to give back
    when it died it is asked again."""
    with Mounts(2) as c:
        # Restarts take long on a slow machine: the program is to outlast them.
        process = c.litmus('sharing', 'sharing', 5 * KILLS + 6)
        for _ in range(2 * KILLS + 1):
            time.sleep(1.2)
            c.kill_worker(2)
            before = c.facts(1)['cluster']['coherent']['home']['grants']
            wait_until(lambda b=before: c.facts(1)['cluster']['coherent']['home']['grants'] > b + 10, 2,
                       'pages that go to and fro')
        c.finish(process, 5 * KILLS + 40)


class Toucher:
    """A program that has a file mapped, and loads a byte when it is told to."""

    def __init__(self, path, size):
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), 'touch', path, str(size)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        check(self.process.stdout.readline() == 'mapped\n', 'the file is not mapped')

    def begin(self, offset):
        self.process.stdin.write(f'{offset}\n')
        self.process.stdin.flush()

    def value(self):
        return int(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(30)


def touch(path, size):
    with open(path, 'r+b') as f:
        memory = mmap.mmap(f.fileno(), int(size))
    print('mapped', flush=True)
    for line in sys.stdin:
        print(memory[int(line)], flush=True)


def two_pages(c):
    """A program at n2 that has a file of n1 mapped, and has met the first of its two pages."""
    with open(c.path(1, 'd', 'held'), 'wb') as f:
        f.write(bytes([1] * 4096 + [2] * 4096))
    wait_until(lambda: os.path.exists(c.path(2, 'd', 'held')), 5, 'the file')
    program = Toucher(c.path(2, 'd', 'held'), 8192)
    program.begin(0)
    check(program.value() == 1, 'the first page')
    return program


def hold_a_drop(c):
    """A word to n2's kernel, to drop all pages of a file, waits for a page of it that n1 does not bring:
    what each worker says that finds programs which had the file open."""
    program = two_pages(c)
    c.must('pause', 'n1')
    program.begin(4096)
    wait_until(lambda: c.facts(2)['cluster']['coherent']['waiting'] != 0, 5, 'a fill that waits')
    c.kill_worker(2)
    wait_until(lambda: c.notifier(2)['oldest_seconds'] > 0.2, 10, 'a word that is blocked')
    return program


def blocked():
    """A worker is killed while a page is being dropped that waits for a fill."""
    with Mounts(2) as c:
        program = hold_a_drop(c)
        for _ in range(3):
            c.kill_worker(2)
            wait_until(lambda: c.notifier(2)['oldest_seconds'] > 0.1, 10, 'a word that is blocked')
        facts = c.facts(2)
        os.kill(facts['supervisor']['pid'], signal.SIGUSR2)  # replaced, as for another version
        wait_until(lambda: c.facts(2)['worker']['pid'] != facts['worker']['pid'], 10, 'another worker')
        c.must('resume', 'n1')
        check(program.value() == 2, 'the page that the workers died for')
        with open(c.path(1, 'd', 'held'), 'r+b') as f, mmap.mmap(f.fileno(), 8192) as memory:
            memory[4096] = 3
        program.begin(4096)
        check(program.value() == 3, 'it is not coherent any more')
        check(program.end() == 0, 'the program failed')
        wait_until(lambda: c.notifier(2)['waiting'] == 0, 5, 'the end of what was blocked')


def all_killed():
    """With a word blocked, supervisor and worker die: the connection ends, and nobody hangs."""
    with Mounts(2) as c:
        program = hold_a_drop(c)
        facts = c.facts(2)
        os.kill(facts['supervisor']['pid'], signal.SIGKILL)
        time.sleep(0.2)
        check(c.notifier(2)['pid'] == facts['cluster']['notifier']['pid'], 'it ended with the supervisor')
        os.kill(facts['worker']['pid'], signal.SIGKILL)
        check(program.end() == -signal.SIGBUS, 'the program did not meet the end of the connection')
        c.must('resume', 'n1')


def threads_of(pid):
    """Those that have not ended: the first may have, and others be blocked."""
    try:
        return [task for task in os.listdir(f'/proc/{pid}/task') if alive(f'{pid}/task/{task}')]
    except FileNotFoundError:
        return []


def left():
    """Supervisor, worker and notifier die at one instant while a word is blocked: what keeps the connection
    alive then is ended by umount."""
    with Mounts(2) as c:
        program = hold_a_drop(c)
        facts = c.facts(2)
        pids = [facts['supervisor']['pid'], facts['worker']['pid'], facts['cluster']['notifier']['pid']]
        os.kill(pids[0], signal.SIGSTOP)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in pids[:2]), 10, 'the end of supervisor and worker')
        check(threads_of(pids[2]), 'the notifier was not blocked')
        check(program.process.poll() is None, 'the connection ended by itself')
        must(BTD, 'umount', c.path(2), timeout=20)
        check(program.end() == -signal.SIGBUS, 'the program did not meet the end of the connection')
        wait_until(lambda: not threads_of(pids[2]), 10, 'the end of the notifier')
        c.must('resume', 'n1')
        c.must('start', 'n2')
        with open(c.path(2, 'd', 'held'), 'rb') as f:
            check(f.read(4097)[4096] == 2, 'the file after a new mount')


def node_killed():
    """With a word blocked, all processes of a node are killed at once, by the command for that."""
    with Mounts(2) as c:
        program = hold_a_drop(c)
        c.must('kill', 'n2')
        check(program.end() == -signal.SIGBUS, 'the program did not meet the end of the connection')
        c.must('resume', 'n1')
        c.must('start', 'n2')
        with open(c.path(2, 'd', 'held'), 'rb') as f:
            check(f.read(4097)[4096] == 2, 'the file after a new mount')


def mappers():
    """All processes of a node are killed, and programs still map its files: who maps a coherent one ends
    before another node gets its pages, who maps a file of its own pool goes on."""
    with Mounts(2) as c:
        for node, name in ((1, ('d', 'kept')), (2, ('plain',))):
            with open(c.path(node, *name), 'wb') as f:
                f.write(bytes([1] * 4096))
        wait_until(lambda: os.path.exists(c.path(2, 'd', 'kept')), 5, 'the file')
        program, other = Toucher(c.path(2, 'd', 'kept'), 4096), Toucher(c.path(2, 'plain'), 4096)
        for each in (program, other):
            each.begin(0)
            check(each.value() == 1, 'the page')
        c.must('kill', 'n2')
        for each in (program, other):
            each.begin(0)
            check(each.value() == 1, 'a page that the kernel has')
        c.must('start', 'n2')
        check(program.process.poll() is not None, 'a program goes on with what other nodes get')
        check(program.end() == -signal.SIGKILL, 'it ended by itself')
        with open(c.path(1, 'd', 'kept'), 'r+b') as f, mmap.mmap(f.fileno(), 4096) as memory:
            memory[0] = 3
        with open(c.path(2, 'd', 'kept'), 'rb') as f:
            check(f.read(1) == b'\3', 'the file after a new mount')
        other.begin(0)
        check(other.value() == 1 and other.end() == 0, 'who maps its own file ended too')


def wrong_cluster():
    """A mount that is refused, with the file of another cluster that has files of the same numbers, ends no
    program."""
    with Mounts(2) as c:
        with open(c.path(1, 'd', 'kept'), 'wb') as f:
            f.write(bytes([1] * 4096))
        number = os.stat(c.path(1, 'd', 'kept')).st_ino
        wait_until(lambda: os.path.exists(c.path(2, 'd', 'kept')), 5, 'the file')
        program = Toucher(c.path(2, 'd', 'kept'), 4096)
        program.begin(0)
        check(program.value() == 1, 'the page')
        c.must('kill', 'n2')
        other, pool, mount = (os.path.join(os.environ['BTD_CASE_DIR'], name) for name in ('toml', 'pool', 'other'))
        os.mkdir(mount)
        with open(os.path.join(c.dir, 'n2', 'cluster.toml')) as f:
            text = f.read()
        with open(other, 'w') as f:
            f.write(text.replace('dev', 'other', 1))
        must(BTD, 'format', pool, '--emulate', 'ram', '--size', '64M')
        on2 = ('exec', 'n2', '--', BTD)
        c.must(*on2, 'cluster', 'init', '--cluster', other, pool)
        c.must(*on2, 'mount', '--cluster', other, pool, mount)
        os.mkdir(os.path.join(mount, 'd'))
        os.setxattr(os.path.join(mount, 'd'), 'user.btd.mode', b'coherent')
        made = 0
        while made < number:
            with open(os.path.join(mount, 'd', f'f{made}'), 'wb') as f:
                made = os.fstat(f.fileno()).st_ino
        check(made == number, f'a file of the other cluster has the number {made}, not {number}')
        must(BTD, 'umount', '--pool', mount)
        said = c.run(*on2, 'mount', '--cluster', other, c.pool(2), c.path(2))
        check(said.code != 0 and 'belongs to the cluster' in said.text, f'{said.code} {said.text}')
        program.begin(0)
        check(program.value() == 1, 'a program of another cluster was ended')
        c.must('start', 'n2')
        check(program.end() == -signal.SIGKILL, 'a program goes on with what other nodes get')


def detached():
    """A mount that was detached is served on by the next worker too; when its daemon is stopped, who maps a
    coherent file of it ends, and others get the pages."""
    with Mounts(2) as c:
        program = two_pages(c)
        facts = c.facts(2)
        must('umount', '-l', c.path(2))
        os.kill(facts['worker']['pid'], signal.SIGKILL)
        program.begin(4096)
        check(program.value() == 2, 'the page that the next worker brings')
        os.kill(facts['supervisor']['pid'], signal.SIGTERM)
        wait_until(lambda: program.process.poll() is not None, 10, 'the end of the program')
        check(program.end() == -signal.SIGKILL, 'it ended by itself')
        with open(c.path(1, 'd', 'held'), 'r+b') as f, mmap.mmap(f.fileno(), 8192) as memory:
            memory[4096] = 3
        wait_until(lambda: not alive(facts['supervisor']['pid']), 10, 'the end of the daemon')
        c.must('start', 'n2')
        with open(c.path(2, 'd', 'held'), 'rb') as f:
            check(f.read(4097)[4096] == 3, 'the file after a new mount')


def notifier_killed():
    """Notifiers die under programs: each is replaced, and after too many the worker does without."""
    with Mounts(2) as c:
        process = c.litmus('sharing', 'sharing', 4)
        for node in (2, 1, 2, 1):
            time.sleep(0.7)
            before = c.notifier(node)
            os.kill(before['pid'], signal.SIGKILL)
            wait_until(lambda n=node, b=before: c.notifier(n)['replaced'] > b['replaced'], 5, 'another one')
        finish(process, 4)
        while c.notifier(2)['pid'] != 0:
            before = c.notifier(2)
            os.kill(before['pid'], signal.SIGKILL)
            wait_until(lambda b=before: c.notifier(2)['replaced'] > b['replaced'], 5, 'another one')
        say(f'none after {c.notifier(2)["replaced"]} deaths')
        finish(c.litmus('counter', 'counter', 1), 1)
        c.kill_worker(2)
        finish(c.litmus('calls', 'calls', 1), 1)


def seen():
    """The status counts what happens between nodes, and an unmounted node has given all back."""
    with Mounts(2) as c:
        finish(c.litmus('counter', 'f', 1), 1)
        with open(c.path(1, '.btd', 'status')) as f:
            text = f.read()
        line = next((line for line in text.splitlines() if line.startswith('coherent')), '')
        check('grants' in line and ' 0 grants' not in line, f'no grants in:\n{text}')


if __name__ == '__main__':
    if sys.argv[1:2] == ['touch']:
        touch(*sys.argv[2:])
    else:
        main({'two': two, 'three': three, 'mode': mode, 'grown': grown, 'killed': killed,
              'user_killed': user_killed, 'blocked': blocked, 'all_killed': all_killed, 'left': left,
              'node_killed': node_killed, 'mappers': mappers, 'wrong_cluster': wrong_cluster, 'detached': detached, 'notifier_killed': notifier_killed, 'seen': seen}, timeout=120)
