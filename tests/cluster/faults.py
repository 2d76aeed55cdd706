#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What programs see of a crash, a hang or a cut network: nothing, where it passes in time; an error,
where it does not; and other files stay as usable as before."""
import errno
import mmap
import os
import stat
import subprocess
import threading
import time

from clusterlib import suite
from direct import alike, made_by, make_tree
from mountlib import MIB, SLOW, check, main, random_bytes, say, wait_until
from tree import NODES, in_threads, read, status, write

BLOCK = 16 << 10
# So long a home keeps what it knows of a node whose connection broke.
LINGER = 40
GONE = (errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EIO)


class Load:
    """A thread that writes and reads blocks of an open file, and checks every byte."""

    def __init__(self, path, blocks=40):
        self.path, self.blocks = path, blocks
        self.fd = os.open(path, os.O_RDWR)
        self.written = [b''] * blocks
        self.rounds, self.slowest, self.errors = 0, 0.0, []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        wait_until(lambda: self.rounds > 5 or self.errors, 10, f'I/O on {self.path}')
        return self

    def __exit__(self, kind, value, trace):
        self.stop.set()
        self.thread.join()
        os.close(self.fd)
        if kind is None:
            check(not self.errors, f'{self.path}: {self.errors[:3]}')
            for block, data in enumerate(self.written):
                with open(self.path, 'rb') as f:
                    f.seek(block * BLOCK)
                    check(not data or f.read(BLOCK) == data, f'block {block} of {self.path} is lost')
            say(f'    {self.rounds} rounds, the slowest took {self.slowest:.2f} s')

    def run(self):
        while not self.stop.is_set() and not self.errors:
            at = self.rounds % self.blocks
            start = time.monotonic()
            try:
                data = random_bytes(BLOCK, self.rounds)
                check(os.pwrite(self.fd, data, at * BLOCK) == BLOCK, 'a short write')
                self.written[at] = data
                for block in (at, (at * 7) % self.blocks):
                    if self.written[block]:
                        # From home, not from the kernel's pages.
                        os.posix_fadvise(self.fd, block * BLOCK, BLOCK, os.POSIX_FADV_DONTNEED)
                        check(os.pread(self.fd, BLOCK, block * BLOCK) == self.written[block],
                              f'block {block} is another one in round {self.rounds}')
            except (OSError, AssertionError) as error:
                self.errors.append(error)
            self.slowest = max(self.slowest, time.monotonic() - start)
            self.rounds += 1

    def goes_on(self, seconds=15):
        before = self.rounds
        wait_until(lambda: self.rounds > before + 3 or self.errors, seconds, f'more I/O on {self.path}')


def home_worker(c, name):
    """kill -9 of the worker of home: descriptors and mappings of others go on."""
    at = made_by(c, name, 1, 'file', bytes(MIB))
    data = made_by(c, name, 1, 'mapped', random_bytes(MIB, 1))
    gone = made_by(c, name, 1, 'nameless', b'kept' * 1000)
    nameless = os.open(gone(3), os.O_RDWR)
    os.unlink(gone(1))
    fd = os.open(data(3), os.O_RDWR)
    memory = mmap.mmap(fd, MIB)
    with Load(at(2)) as load:
        for i in range(6):
            c.kill_worker(1)
            check(memory[i * 8192:i * 8192 + 8192] == random_bytes(MIB, 1)[i * 8192:i * 8192 + 8192],
                  'a mapping shows other bytes')
            memory[MIB - 1 - i] = i
            if i % 2 == 0:
                memory.flush()
            check(os.pread(nameless, 4, 0) == b'kept', 'a file without a name is gone')
            load.goes_on()
    memory.close()
    os.close(fd)
    check(read(data(1))[-6:] == bytes(reversed(range(6))), 'a store was lost')
    os.pwrite(nameless, b'more', 4000)
    os.close(nameless)


def client_worker(c, name):
    """kill -9 of the worker of the node that has files of others open and mapped."""
    at = made_by(c, name, 1, 'file', bytes(MIB))
    data = made_by(c, name, 3, 'mapped', random_bytes(MIB, 2))
    log = made_by(c, name, 1, 'log')
    gone = made_by(c, name, 1, 'nameless', b'kept' * MIB)
    nameless = os.open(gone(2), os.O_RDWR)
    os.unlink(gone(3))
    fd = os.open(data(2), os.O_RDWR)
    memory = mmap.mmap(fd, MIB)
    os.close(fd)
    stop = threading.Event()

    def append(node):
        out, i = os.open(log(node), os.O_WRONLY | os.O_APPEND), 0
        while not stop.is_set():
            os.write(out, f'{node} {i}\n'.encode())
            i += 1
        os.close(out)
        return i
    counts = []
    appender = threading.Thread(target=lambda: counts.extend(in_threads(append, (2,), (3,))))
    appender.start()
    with Load(at(2)) as load:
        for i in range(6):
            c.kill_worker(2)
            time.sleep(0.3)  # whoever believes that it is gone for good acts on it
            check(memory[i * 8192:i * 8192 + 10] == random_bytes(MIB, 2)[i * 8192:i * 8192 + 10],
                  'a mapping shows other bytes')
            memory[MIB - 1 - i] = i
            load.goes_on()
        if 'BTD_LONG' in os.environ:
            time.sleep(LINGER)
        os.posix_fadvise(nameless, 0, 4 * MIB, os.POSIX_FADV_DONTNEED)
        check(os.pread(nameless, 4, 4 * MIB - 4) == b'kept', 'a file without a name is gone')
    stop.set()
    appender.join()
    check(all(isinstance(n, int) for n in counts), f'{counts}')
    expected = sorted((n, i) for n, count in zip((2, 3), counts) for i in range(count))
    lines = sorted(tuple(map(int, line.split())) for line in read(log(1)).decode().splitlines())
    check(lines == expected, f'{len(lines)} lines instead of {len(expected)} were appended, '
                             f'e.g. {sorted(set(expected) ^ set(lines))[:3]}')
    memory.close()
    check(read(data(1))[-6:] == bytes(reversed(range(6))), 'a store was lost')
    os.close(nameless)


def home_daemon(c, name):
    """The whole daemon of home is killed and started again: who has its files open waits, and goes on."""
    at = made_by(c, name, 1, 'file', bytes(MIB))
    local, own_file = (made_by(c, name, 2, file, bytes(MIB)) for file in ('local', 'own'))
    with Load(at(2)) as load, Load(local(3)) as other, Load(own_file(2)) as own:
        c.must('kill', 'n1')
        own.goes_on()
        other.goes_on()
        c.must('start', 'n1')
        load.goes_on()
    with Load(at(2)) as load:
        c.must('kill', 'n1')
        c.must('start', 'n1')
        load.goes_on()
    check(len(read(at(1))) == MIB, 'home sees another size')


def cuts(c, name):
    """A network that is cut for a while: I/O waits, and goes on."""
    at = made_by(c, name, 1, 'file', bytes(MIB))
    other = made_by(c, name, 3, 'other', bytes(MIB))
    with Load(at(2)) as load, Load(other(1)) as unharmed:
        for host, seconds in (('n2', 0.3), ('n2', 2), ('n1', 0.05)):
            c.must('partition', host, '--from', 'n1' if host == 'n2' else 'n2')
            time.sleep(seconds)
            unharmed.goes_on(2)
            c.must('heal')
            load.goes_on()
        c.must('partition', 'n2')
        time.sleep(1)
        names = os.listdir(c.path(2, name))
        check('file' in names and os.path.isdir(c.path(2, name)), 'names are not shown')
        os.mkdir(c.path(3, name, 'meanwhile'))
        c.must('heal')
        load.goes_on()
        wait_until(lambda: status(c.path(2, name, 'meanwhile')) is not None, 5,
                   'what was made while n2 was cut off')


def pauses(c, name):
    """Home hangs for a while."""
    at = made_by(c, name, 1, 'file', bytes(MIB))
    other = made_by(c, name, 3, 'other', bytes(MIB))
    with Load(at(2)) as load, Load(other(2)) as unharmed:
        c.must('pause', 'n1')
        time.sleep(2)
        unharmed.goes_on(2)
        start = time.monotonic()
        os.mkdir(c.path(2, name, 'made'))
        check(time.monotonic() - start < SLOW, 'a change waits for a node that hangs')
        wait_until(lambda: status(c.path(3, name, 'made')) is not None, 1, 'the change at n3')
        c.must('resume', 'n1')
        load.goes_on()
        wait_until(lambda: status(c.path(1, name, 'made')) is not None, 2, 'the change at n1')


def renames(c, name):
    """A rename that waits for etcd moves what has the name by then, though the kernel knew something else by it."""
    moved = 0
    for i in range(5):
        old, new = c.path(2, name, f'old{i}'), c.path(2, name, f'new{i}')
        os.mkdir(old)
        check(not os.path.lexists(new), 'a name that was never made')
        wait_until(lambda at=f'old{i}': os.path.isdir(c.path(1, name, at)), 5, 'the directory')
        errors = []

        def move(a=old, b=new, e=errors):
            try:
                os.rename(a, b)
            except OSError as error:
                e.append(error)
        thread = threading.Thread(target=move)
        c.must('partition', 'n2')
        thread.start()
        time.sleep(0.3)
        os.rmdir(c.path(1, name, f'old{i}'))
        write(c.path(1, name, f'old{i}'))
        c.must('heal')
        thread.join()
        if errors:  # etcd was away for too long
            continue
        moved += 1
        found = os.lstat(new)
        check(stat.S_ISREG(found.st_mode), f'new{i} is what old{i} was: mode {found.st_mode:o}')
        check(not os.path.lexists(old), f'old{i} is still there')
        wait_until(lambda at=f'new{i}': status(c.path(1, name, at)) is not None, 2, 'the new name at n1')
        check(os.stat(c.path(1, name, f'new{i}')).st_ino == found.st_ino, 'two nodes disagree')
    check(moved > 0, 'no rename was done')
    say(f'    {moved} of 5 were done')


def gone(call, *arguments):
    """It fails as a home that is away lets it; after how many seconds."""
    start = time.monotonic()
    try:
        call(*arguments)
    except OSError as error:
        took = time.monotonic() - start
        check(error.errno in GONE, f'{call.__name__} gives {error}')
        return took
    check(False, f'{call.__name__}{str(arguments)[:100]} succeeds without home')


def quick(call, *arguments):
    start = time.monotonic()
    call(*arguments)
    check(time.monotonic() - start < SLOW, f'{call.__name__} takes {time.monotonic() - start:.1f} s')


def home_away(c, name):
    """Home stays away: errors, no hang; all else goes on, and so it does when home is back."""
    for i in range(20):
        write(c.path(1, name, f'of1-{i}'), b'x')
        write(c.path(3, name, f'of3-{i}'), b'x')
    at = made_by(c, name, 1, 'file', random_bytes(MIB, 4))
    wait_until(lambda: len(os.listdir(c.path(2, name))) == 41, 2, 'the names')
    fd = os.open(at(2), os.O_RDWR)
    check(os.pread(fd, 10, 0) == random_bytes(MIB, 4)[:10], 'other bytes')
    c.must('kill', 'n1')
    results = []
    waiters = threading.Thread(target=lambda: results.extend(in_threads(
        gone, (os.pread, fd, 10, 800_000), (os.pwrite, fd, b'x', 0), (os.stat, c.path(3, name, 'of1-7')),
        (os.open, at(3), os.O_RDONLY))))
    waiters.start()
    time.sleep(0.2)
    for call in (lambda: os.listdir(c.path(2, name)),
                 lambda: [e.is_file() for e in os.scandir(c.path(3, name))],
                 lambda: read(c.path(2, name, 'of3-1')),
                 lambda: write(c.path(2, name, 'own'), b'y')):
        quick(call)
    wait_until(lambda: status(c.path(3, name, 'own')) is not None, 1, 'a new file at n3')
    waiters.join()
    check(all(isinstance(took, float) for took in results), f'{results}')
    # Twice the deadline: the kernel asks for a page again of which it got an error.
    check(max(results) < 25 * SLOW, f'the errors took {results} s')
    # Once it is known to be away, nobody waits for it to change a name.
    quick(os.rename, c.path(2, name, 'of1-3'), c.path(2, name, 'moved'))
    quick(os.unlink, c.path(3, name, 'of1-4'))
    start = time.monotonic()
    c.commander.run('ls', '-l', c.path(2, name), timeout=250)
    say(f'    errors after {max(results):.1f} s, ls -l of 20 files of that home and 21 others '
        f'{time.monotonic() - start:.1f} s')
    check(time.monotonic() - start < 8 * SLOW, f'ls -l took {time.monotonic() - start:.1f} s')
    c.must('start', 'n1')
    check(os.pread(fd, 10, 800_000) == random_bytes(MIB, 4)[800_000:800_010], 'other bytes')
    check(os.pwrite(fd, b'back', 0) == 4, 'no write')
    os.close(fd)
    check(read(c.path(1, name, 'file'))[:4] == b'back', 'a write was lost')
    check(read(c.path(1, name, 'moved')) == b'x' and status(c.path(1, name, 'of1-4')) is None,
          'home does not know what happened')


def under_load(c, name):
    """A tree is copied and unpacked on two nodes while workers of all three are killed."""
    outside = os.path.join(c.base, 'tree')
    make_tree(outside)
    jobs = [subprocess.Popen(['cp', '-a', outside, c.path(2, name, 'copy')]),
            subprocess.Popen(['sh', '-c', 'mkdir "$2" && tar -C "$1" --format=posix -cf - . | '
                              'tar -C "$2" -xpf -', 'sh', outside, c.path(3, name, 'tar')])]
    kills = 0
    while any(job.poll() is None for job in jobs) or kills < 3:
        c.kill_worker(NODES[kills % 3])
        kills += 1
        check(kills < 200, 'the copies do not end')
    check(all(job.wait() == 0 for job in jobs), 'a copy failed')
    alike(outside, c.path(1, name, 'copy'))
    alike(outside, c.path(2, name, 'tar'))
    say(f'    {kills} kills')


CHECKS = [home_worker, client_worker, home_daemon, cuts, pauses, renames, home_away, under_load]

if __name__ == '__main__':
    main({'faults': suite(CHECKS)}, timeout=150)
