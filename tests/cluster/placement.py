#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Files get another home: one, all of a node, so many that pools are filled alike. Nothing of a file
is lost or left behind by that, whoever dies meanwhile; and one that is open or mapped stays."""
import ctypes
import errno
import glob
import hashlib
import json
import mmap
import os
import random
import stat
import subprocess
import threading
import time

from clusterlib import suite
from direct import alike, fallocate, made_by, make_tree, KEEP_SIZE, PUNCH_HOLE
from mountlib import BTD, MIB, SLOW, check, main, must, random_bytes, say, wait_until
from tree import LIBC, NODES, read, status, write

BUSY, NO_INPUT, NO_ROOM, USAGE = 75, 66, 73, 64
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def command(c, host, *words):
    """`btd cluster ...` on that host."""
    return c.run('exec', host, '--', BTD, 'cluster', *words)


def cluster(c, *words, code=0, host='n1'):
    """What it prints must be JSON, where that is asked for."""
    outcome = command(c, host, *words)
    check(outcome.code == code, f'{words} ended with {outcome.code}:\n{outcome.text}')
    return json.loads(outcome.text) if '--json' in words else outcome.text


def with_file(c, node):
    return '--cluster', os.path.join(c.dir, f'n{node}', 'cluster.toml')


def move(c, path, to, *words, code=0):
    return cluster(c, 'move', path, '--to', f'n{to}', *words, code=code)


def home(path):
    """Nodes count from 1 here."""
    return int(os.getxattr(path, 'user.btd.home')) + 1


def copies(c, id):
    """The nodes in whose pools there is a backing file of it."""
    name = f'{id:016x}'
    return [n for n in NODES if os.path.exists(os.path.join(c.pool(n), 'data', name[-2:], name))]


def is_only_at(c, path, node, seconds=3):
    id = os.stat(path).st_ino
    wait_until(lambda: copies(c, id) == [node], seconds, f'one copy of {path}, at n{node}')
    for other in NODES:
        at = path.replace(c.path(1), c.path(other), 1)
        wait_until(lambda p=at: home(p) == node, 2, f'the home of {at}')


def facts(path):
    s = os.stat(path)
    named = {k: os.getxattr(path, k) for k in os.listxattr(path) if not k.startswith('user.btd.')}
    return s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_size, s.st_mtime_ns, named


def moves(c, name):
    """Names, hard links, attributes, times, holes and the inode's number stay, on all nodes."""
    at = made_by(c, name, 1, 'file', random_bytes(3 * MIB + 5, 1))
    os.mkdir(c.path(1, name, 'below'))
    os.link(at(1), c.path(1, name, 'below', 'other name'))
    os.chown(at(1), 65534, 65533)
    os.chmod(at(1), 0o640)
    for i in range(150):
        os.setxattr(at(1), f'user.a{i}', random_bytes(100, i))
    os.utime(at(1), ns=(10**18, 10**18 + 7))
    before, data = facts(at(1)), read(at(1))
    for to in (2, 3, 2, 1, 3):
        move(c, at(1), to)
        is_only_at(c, at(1), to)
        for node in NODES:
            wait_until(lambda n=node: facts(at(n)) == before, 2, f'what n{node} sees of it')
            check(read(at(node)) == data, f'n{node} reads other bytes, home n{to}')
            check(os.stat(c.path(node, name, 'below', 'other name')).st_ino == before[0], 'a link')
    for node in NODES:  # and it is a file like others
        write(at(node), f'from {node}'.encode(), os.O_TRUNC)
        for reader in NODES:
            check(read(at(reader)) == f'from {node}'.encode(), f'n{reader} after n{node} wrote')
    check(json.loads(json.dumps(move(c, at(1), 3, '--json')))['moved'] == 0, 'it is there already')
    free = c.facts(3)['cluster']['space']['used']
    write(at(2), b'x' * (5 * MIB))
    os.unlink(at(2))
    os.unlink(c.path(1, name, 'below', 'other name'))
    wait_until(lambda: copies(c, before[0]) == [], 4, 'the end of its data')
    wait_until(lambda: c.facts(3)['cluster']['space']['used'] <= free, 4, 'its space')


def holes(c, name):
    """A file with holes has them afterwards; an empty one moves too."""
    at = made_by(c, name, 2, 'sparse')
    os.setxattr(at(2), 'user.btd.sparse', b'1')
    with open(at(2), 'r+b') as f:
        for i in range(4):
            f.seek(i * 8 * MIB)
            f.write(random_bytes(8192, i))
        f.truncate(40 * MIB)
    punched = made_by(c, name, 2, 'punched', b'x' * (2 * MIB))
    fd = os.open(punched(2), os.O_RDWR)
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 4096, MIB)
    os.close(fd)
    empty = made_by(c, name, 2, 'empty')
    before = {p(1): (hashlib.sha1(read(p(1))).digest(), os.stat(p(2)).st_blocks)
              for p in (at, punched, empty)}
    said = move(c, c.path(1, name), 3, '-r', '--json')
    check(said['moved'] == 3 and not said['not_moved'], f'{said}')
    for path, (digest, blocks) in before.items():
        is_only_at(c, path, 3)
        check(hashlib.sha1(read(path)).digest() == digest, f'{path} has other bytes')
        now = os.stat(path.replace(c.path(1), c.path(3), 1)).st_blocks
        check(now <= blocks + 64, f'{path} had {blocks} blocks, and has {now}')


def given(c, name):
    """An empty file that nobody has open lies where its home is told to let it lie."""
    def give(at, value, error=None):
        try:
            os.setxattr(at, 'user.btd.home', value)
            check(error is None, f'{value} is taken')
        except OSError as e:
            check(e.errno == error, f'{value} gives {e}')

    def new(file):
        at = lambda node: c.path(node, name, file)
        os.mknod(at(1), 0o640 | stat.S_IFREG)
        for node in NODES:
            wait_until(lambda n=node: status(at(n)) is not None, 2, f'{file} at n{node}')
        return at
    at = new('file')
    for value, error in ((b'9', errno.EHOSTUNREACH), (b'n2', errno.EINVAL), (b'', errno.EINVAL),
                         (b'-1', errno.EINVAL), (b'0', None)):
        give(at(1), value, error)
    check(home(at(1)) == 1, 'it left')
    give(at(2), b'1', errno.EPERM)
    give(c.path(1, name), b'1', errno.EPERM)
    for opener in NODES:
        fd = os.open(at(opener), os.O_RDONLY)
        give(at(1), b'1', errno.EBUSY)
        os.close(fd)
    give(at(1), b'1')
    for node in NODES:
        wait_until(lambda n=node: home(at(n)) == 2, 2, 'its new home')
    wait_until(lambda: copies(c, os.stat(at(1)).st_ino) in ([], [2]), 3, 'the end of its file at n1')
    write(at(3), b'of n3')
    check(read(at(1)) == b'of n3' and read(at(2)) == b'of n3', 'other bytes')
    is_only_at(c, at(1), 2)
    give(at(2), b'0', errno.EBUSY)  # it has bytes
    try:
        os.removexattr(at(2), 'user.btd.home')
        check(False, 'a file has no home')
    except PermissionError:
        pass
    fills = [made_by(c, name, node, f'fill{node}', b'x' * (size * MIB))(node)
             for node, size in ((1, 60), (2, 30))]
    for file in ('one', 'two'):
        at = new(file)
        give(at(1), b'emptiest')
        wait_until(lambda p=at(2): home(p) == 3, 2, 'the home of a file')
    for fill in fills:
        os.unlink(fill)


def open_files(c, name):
    """What is open at any node, or mapped by its home, stays, and it is said who has it open."""
    at = made_by(c, name, 1, 'file', b'old' * 5000)
    for holder in NODES:
        for flags in (os.O_RDONLY, os.O_RDWR):
            fd = os.open(at(holder), flags)
            said = move(c, at(1), 2, '--json', code=BUSY)
            check(said['moved'] == 0 and home(at(1)) == 1, f'{said}')
            why = said['not_moved'][0]['why']
            check(('its home', 'its new home', 'node 2')[holder - 1] in why, why)
            os.close(fd)
    for access in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
        fd = os.open(at(1), os.O_RDWR)
        # The module's mappings keep a descriptor.
        memory = LIBC.mmap(None, 15000, access, mmap.MAP_SHARED, fd, 0)
        os.close(fd)
        check(memory != ctypes.c_void_p(-1).value, 'mmap')
        said = move(c, at(1), 2, '--json', code=BUSY)
        check('mapped' in said['not_moved'][0]['why'], f'{said}')
        if access & mmap.PROT_WRITE:
            ctypes.memmove(memory, b'new', 3)
        LIBC.munmap(memory, 15000)
    check(read(at(3))[:6] == b'newold', 'what was written by a mapping is lost')
    write(at(1), b'opened again')  # after a move that was refused
    move(c, at(1), 2)
    is_only_at(c, at(1), 2)
    check(read(at(3))[:12] == b'opened again', 'other bytes')


class User(threading.Thread):
    """A program that does its round with the file at a path, again and again, until one fails."""

    def __init__(self, path, node, pause, use):
        super().__init__(daemon=True)
        self.path, self.node, self.pause, self.use = path, node, pause, use
        self.rounds, self.errors, self.done = 0, [], threading.Event()

    def run(self):
        while not self.done.is_set() and not self.errors:
            try:
                self.use(self)
                self.rounds += 1
            except OSError as error:
                self.errors.append(error)
            time.sleep(random.random() * self.pause)


def while_it_moves(c, at, pause, use, most, prepare=lambda: None):
    """Users of all nodes, and how often the file was moved beneath them."""
    users = [User(at(node), node, pause, use) for node in NODES]
    for user in users:
        user.start()
    moved, end, latest = 0, time.monotonic() + 4, time.monotonic() + SLOW * most
    while time.monotonic() < end or (moved == 0 and time.monotonic() < latest):
        prepare()
        outcome = command(c, 'n1', 'move', at(1), '--to', f'n{random.choice(NODES)}', '--json')
        moved += json.loads(outcome.text)['moved']
    for user in users:
        user.done.set()
    for user in users:
        user.join()
        check(not user.errors, f'n{user.node}: {user.errors}')
    say(f'    {sum(user.rounds for user in users)} rounds, {moved} moves')
    check(moved > 0, 'it never moved')
    return users


def writers(c, name):
    """No line of programs that open, append and close is lost while the file moves about."""
    def append(user):
        fd = os.open(user.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f'{user.node} {user.rounds}\n'.encode())
        os.close(fd)
    at = made_by(c, name, 1, 'log')
    users = while_it_moves(c, at, 0.2, append, 40)
    seen = sorted(tuple(map(int, line.split())) for line in read(at(2)).decode().splitlines())
    wanted = sorted((u.node, i) for u in users for i in range(u.rounds))
    check(seen == wanted, f'{len(seen)} lines instead of {len(wanted)}')


def kernels_forget():
    """What is not open: until then a coherent file is in use at the node."""
    with open('/proc/sys/vm/drop_caches', 'w') as f:
        f.write('2')


def coherent(c, name):
    """A coherent file moves when no kernel knows it any more; who opens it just then has it."""
    def count(user):
        fd = os.open(user.path, os.O_RDWR)
        number = int.from_bytes(os.pread(fd, 8, 64 * user.node), 'little')
        os.pwrite(fd, (number + 1).to_bytes(8, 'little'), 64 * user.node)
        os.close(fd)
    os.setxattr(c.path(1, name), 'user.btd.mode', b'coherent')
    at = made_by(c, name, 1, 'file', bytes(8192))
    users = while_it_moves(c, at, 1.5, count, 30, kernels_forget)
    data = read(at(2))
    for user in users:
        number = int.from_bytes(data[64 * user.node:64 * user.node + 8], 'little')
        check(number == user.rounds, f'n{user.node} added 1 {user.rounds} times, and it is {number}')


def refusals(c, name):
    """Bad input has an error that says what to do, and changes nothing."""
    at = made_by(c, name, 1, 'file', b'x')

    def refuse(code, words, *arguments, host='n1'):
        outcome = command(c, host, *arguments)
        check(outcome.code == code and all(w in outcome.text for w in words),
              f'{arguments} ended with {outcome.code}: {outcome.text}')
    refuse(NO_INPUT, ['no node', 'n1, n2, n3'], 'move', at(1), '--to', 'n9')
    refuse(USAGE, ['--to'], 'move', at(1))
    refuse(USAGE, ['-r'], 'move', c.path(1, name), '--to', 'n2')
    refuse(NO_INPUT, ['No such file'], 'move', at(1) + 'x', '--to', 'n2')
    refuse(NO_INPUT, ['no node'], 'drain', 'n9', *with_file(c, 1))
    refuse(NO_INPUT, ['no node'], 'remove', 'n9', *with_file(c, 1))
    refuse(BUSY, ['mounted'], 'remove', 'n2', *with_file(c, 1))
    large = made_by(c, name, 1, 'large')
    with open(large(1), 'r+b') as f:
        f.truncate(os.statvfs(c.path(1)).f_bavail * 4096 - 8 * MIB)
    fill = made_by(c, name, 2, 'fill', b'x' * (40 * MIB))
    refuse(NO_ROOM, ['room for'], 'move', large(1), '--to', 'n2')
    os.unlink(large(1))
    os.unlink(fill(1))
    outside = os.path.join(c.base, 'outside')
    write(outside)
    check(command(c, 'n1', 'move', outside, '--to', 'n2').code != 0, 'a file of no mount')


def start_move(c, path, to):
    return subprocess.Popen(c.words('exec', 'n1', '--', BTD, 'cluster', 'move', path, '--to', f'n{to}'),
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(c, name):
    """Whoever dies in the middle, there is one copy afterwards, whole."""
    at = {n: made_by(c, name, n, f'file{n}', random_bytes(20 * MIB, n)) for n in NODES}
    data = {n: hashlib.sha1(read(at[n](n))).digest() for n in NODES}

    def whole():
        for n in NODES:
            for reader in NODES:
                check(hashlib.sha1(read(at[n](reader))).digest() == data[n], f'file{n} at n{reader}')

    def judge(seconds):
        for n in NODES:
            id = os.stat(at[n](1)).st_ino
            wait_until(lambda p=at[n](1), i=id: copies(c, i) == [home(p)], seconds, 'one copy, at its home')
            is_only_at(c, at[n](1), home(at[n](1)), seconds)
        whole()

    # The new home's.
    met = 0
    for attempt in range(16):
        process = start_move(c, at[1](1), 3 if home(at[1](1)) != 3 else 2)
        time.sleep(random.random() * 0.12)
        met += process.poll() is None
        c.kill_worker(3)
        process.wait()
        judge(3)
        if attempt >= 3 and met >= 2:
            break
    check(met >= 2, f'only {met} kills came while a file was moved')
    # Both at once, of which each is the old home of one and the new one of another. They go on when
    # homes know again who has what open.
    processes = [start_move(c, at[3](1), 1), start_move(c, at[2](1), 3),
                 start_move(c, at[1](1), 4 - home(at[1](1)) if home(at[1](1)) != 2 else 1)]
    time.sleep(0.05 + random.random() * 0.1)
    for node in (1, 3):
        c.kill_worker(node)
    whole()
    for process in processes:
        process.wait(60)
    judge(5)


def rebalanced(c, name):
    """The pools are filled alike afterwards; a dry run changes nothing."""
    for i in range(24):
        write(c.path(2, name, f'f{i}'), random_bytes(4 * MIB, i))
    tree = os.path.join(c.base, 'rebalanced')
    must('cp', '-a', c.path(2, name), tree)

    def shares():
        space = [c.facts(n)['cluster']['space'] for n in NODES]
        return [s['used'] / (s['used'] + s['available']) for s in space]
    before = shares()
    plan = cluster(c, 'rebalance', '--dry-run', '--json', *with_file(c, 1))
    check(plan['planned'] and plan['moved'] == 0, f'{plan}')
    check(home(c.path(1, name, 'f0')) == 2, 'a dry run moved a file')
    done = cluster(c, 'rebalance', '--json', *with_file(c, 1))
    check(done['moved'] == len(done['planned']) > 5, f'{done}')
    wait_until(lambda: max(shares()) - min(shares()) < 0.05, 4, f'equal shares: {shares()}')
    say(f'    {done["moved"]} files; shares {before} became {shares()}')
    alike(tree, c.path(1, name))
    check(not cluster(c, 'rebalance', '--json', *with_file(c, 1))['planned'], 'it is even already')


def drained(c, name):
    """A node whose files all moved leaves for good; the others have the whole tree."""
    tree = os.path.join(c.base, 'drained')
    make_tree(tree)
    must('cp', '-a', tree, c.path(2, name, 'tree'))
    # A file that is open stays and is named; new ones go elsewhere.
    fd = os.open(c.path(2, name, 'tree', 'd1', 'f0'), os.O_RDWR)
    rounds = []

    def left():
        kernels_forget()
        rounds.append(cluster(c, 'drain', 'n2', '--json', *with_file(c, 1), code=BUSY))
        return [one['path'] for one in rounds[-1]['not_moved']]
    # What the workers had open that an earlier check killed is held for a while.
    try:
        wait_until(lambda: left() in ([f'/{name}/tree/d1/f0'], [f'/{name}/tree/d1/sub/hard']), 40,
                   'that only the open file is left')
    except AssertionError as late:
        raise AssertionError(f'{late}: {rounds[-1]["not_moved"]}') from late
    check('open at its home' in rounds[-1]['not_moved'][0]['why'], f'{rounds}')
    check(sum(one['moved'] for one in rounds) > 50, f'{rounds}')
    nodes = json.loads(command(c, 'n1', 'nodes', '--json', *with_file(c, 1)).text)['nodes']
    check([n['draining'] for n in nodes] == [False, True, False], f'{nodes}')
    for i in range(4):
        at = made_by(c, name, 2, f'new{i}', f'new {i}'.encode())
        check(home(at(2)) != 2, 'a new file lies at a node that is drained')
        check(read(at(1)) == f'new {i}'.encode(), 'other bytes')
    os.pwrite(fd, b'', 0)
    os.close(fd)
    outcome = command(c, 'n1', 'remove', 'n2', *with_file(c, 1))
    check(outcome.code == BUSY, f'{outcome.text}')
    cluster(c, 'drain', '--cancel', 'n2', *with_file(c, 1))
    wait_until(lambda: not c.facts(2)['cluster']['draining'], 2, 'the end of the drain')
    write(c.path(2, name, 'here'))
    check(home(c.path(2, name, 'here')) == 2, 'a drain that was cancelled')
    said = cluster(c, 'drain', 'n2', '--json', *with_file(c, 1))
    check(said['moved'] == 2 and not said['not_moved'], f'{said}')
    wait_until(lambda: not glob.glob(os.path.join(c.pool(2), 'data', '*', '*')), 4,
               'an empty pool: ' + str(glob.glob(os.path.join(c.pool(2), 'data', '*', '*'))))
    must(BTD, 'umount', c.path(2))
    cluster(c, 'remove', 'n2', *with_file(c, 1))
    nodes = json.loads(command(c, 'n1', 'nodes', '--json', *with_file(c, 1)).text)['nodes']
    check([n['name'] for n in nodes] == ['n1', 'n3'], f'{nodes}')
    for node in (1, 3):
        alike(tree, c.path(node, name, 'tree'))
        check(read(c.path(node, name, 'new3')) == b'new 3', 'a new file is lost')
    outcome = c.run('exec', 'n2', '--', BTD, 'mount', *with_file(c, 2), c.pool(2), c.path(2))
    check(outcome.code != 0 and 'removed' in outcome.text, f'{outcome.code} {outcome.text}')


CHECKS = [moves, holes, given, open_files, writers, coherent, refusals, rebalanced, killed, drained]

if __name__ == '__main__':
    main({'placement': suite(CHECKS, '--size', '400M')}, timeout=150)
