#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Direct mode: files whose home is another node, as programs use them. Who opens a file sees what
was written before it was closed elsewhere, and nothing else is asked of who reads it."""
import ctypes
import errno
import filecmp
import itertools
import mmap
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import time

from clusterlib import suite
from mountlib import MIB, SLOW, Skip, check, main, must, program, random_bytes, say, wait_until
from tree import LIBC, NODES, in_threads, others, read, refused, status, write

NOBODY = 65534
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def made_by(c, name, home, file, data=b''):
    """A new file of that home; all nodes know its name."""
    write(c.path(home, name, file), data)
    for node in others(home):
        wait_until(lambda n=node: status(c.path(n, name, file)) is not None, 2, f'{file} at n{node}')
    return lambda node: c.path(node, name, file)


def same(path, data, what):
    got = read(path)
    if got != data:
        at = next((i for i, (a, b) in enumerate(zip(got, data)) if a != b), min(len(got), len(data)))
        check(False, f'{what}: {len(got)} bytes instead of {len(data)}, the first other one at {at}')


def sizes(c, name):
    """Files of sizes around a page, each home with each writer and reader."""
    for size in (0, 1, 4095, 4096, 4097, 100_000):
        for home, writer in itertools.product(NODES, NODES):
            at = made_by(c, name, home, f'{size}-{home}-{writer}', b'x' * 10_000)
            for node in NODES:
                read(at(node))  # and now their kernels have pages
            data = random_bytes(size, size + home)
            write(at(writer), data, os.O_TRUNC)
            for node in NODES:
                same(at(node), data, f'n{node} reads what n{writer} wrote, home n{home}')
                with open(at(node), 'rb') as f:
                    check(os.fstat(f.fileno()).st_size == size and os.lseek(f.fileno(), 0, os.SEEK_END)
                          == size, f'n{node} sees another size than n{writer} wrote, home n{home}')


def large(c, name):
    """64 MiB, written here and read there."""
    data = random_bytes(64 * MIB, 1)
    for home, writer, reader in ((1, 2, 3), (2, 2, 1), (3, 1, 1)):
        at = made_by(c, name, home, f'large{home}')
        start = time.monotonic()
        write(at(writer), data)
        middle = time.monotonic()
        same(at(reader), data, f'n{reader} reads what n{writer} wrote')
        say(f'    home n{home}, n{writer} writes {64 / (middle - start):.0f} MiB/s, n{reader} reads '
            f'{64 / (time.monotonic() - middle):.0f} MiB/s')
        os.unlink(at(reader))


def a_model(c, name):
    """Random operations, each by another node between open and close, against bytes in memory."""
    chance = random.Random(int(os.environ.get('BTD_SEED', '7')))
    rounds = int(os.environ.get('BTD_MODEL_OPS', '700'))
    for home in NODES:
        at = made_by(c, name, home, f'model{home}')
        model = bytearray()
        log = []
        for step in range(rounds):
            node = chance.choice(NODES)
            what = chance.choice(('write', 'write', 'append', 'truncate', 'open_truncate', 'map',
                                  'punch', 'grow', 'read', 'stat'))
            offset, length = chance.randrange(70_000), chance.randrange(1, 20_000)
            data = chance.randbytes(length)
            log = [*log[-12:], f'{step} n{node} {what} {offset} {length} of {len(model)}']
            apply(at(node), model, what, offset, length, data)
            reader = chance.choice(NODES)
            try:
                same(at(reader), bytes(model), f'n{reader} after {what} by n{node}, home n{home}')
                with open(at(reader), 'rb') as f:
                    size = os.fstat(f.fileno()).st_size
                check(size == len(model), f'n{reader} sees the size {size} instead of {len(model)} after '
                                          f'{what} by n{node}, home n{home}')
            except AssertionError:
                say('    ' + '\n    '.join(log))
                raise


def put(model, offset, data):
    model.extend(bytes(max(0, offset + len(data) - len(model))))
    model[offset:offset + len(data)] = data


def apply(path, model, what, offset, length, data):
    flags = {'append': os.O_WRONLY | os.O_APPEND, 'open_truncate': os.O_WRONLY | os.O_TRUNC}
    fd = os.open(path, flags.get(what, os.O_RDWR))
    try:
        if what == 'write':
            os.pwrite(fd, data, offset)
            put(model, offset, data)
        elif what == 'append':
            os.write(fd, data)
            model.extend(data)
        elif what == 'truncate':
            os.ftruncate(fd, offset)
            put(model, offset, b'')
            del model[offset:]
        elif what == 'open_truncate':
            os.write(fd, data)
            model[:] = data
        elif what == 'punch':
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            end = min(offset + length, len(model))
            if offset < end:
                model[offset:end] = bytes(end - offset)
        elif what == 'grow':
            fallocate(fd, 0, offset, length)
            put(model, max(len(model), offset + length), b'')
        elif what == 'map' and len(model) > 1:
            with mmap.mmap(fd, len(model)) as memory:
                at = offset % (len(model) - 1)
                part = data[:len(model) - at]
                check(memory[:] == bytes(model), 'a mapping shows other bytes')
                memory[at:at + len(part)] = part
                if offset % 2:
                    memory.flush()
            put(model, at, part)
    finally:
        os.close(fd)


def fsx(c, name):
    """fsx, each node on a file of its own that another is home of."""
    for node in (2, 3):
        at = made_by(c, name, 1, f'fsx{node}')
        say('    ' + must(program('fsx', 'BTD_FSX'), at(node), '--strict', '--ops',
                          os.environ.get('BTD_FSX_OPS', '1500'), '--seed', node, timeout=300).strip())


def space(c, name):
    """fallocate, holes and where the data are, seen alike by all nodes."""
    for home, actor in ((1, 2), (2, 3), (3, 3)):
        at = made_by(c, name, home, f'space{home}{actor}')
        fd = os.open(at(actor), os.O_RDWR)
        fallocate(fd, 0, 0, MIB)
        check(os.fstat(fd).st_size == MIB and os.fstat(fd).st_blocks * 512 >= MIB, f'{os.fstat(fd)}')
        os.pwrite(fd, b'd' * MIB, 0)
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 256 << 10, 256 << 10)
        fallocate(fd, ZERO_RANGE, 768 << 10, 64 << 10)
        os.close(fd)
        expected = bytearray(b'd' * MIB)
        expected[256 << 10:512 << 10] = bytes(256 << 10)
        expected[768 << 10:832 << 10] = bytes(64 << 10)
        for node in NODES:
            same(at(node), bytes(expected), f'n{node} reads holes, home n{home}')
            fd = os.open(at(node), os.O_RDONLY)
            found = os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, 256 << 10, os.SEEK_DATA)
            check(found == (256 << 10, 512 << 10), f'n{node}: hole and data are at {found}')
            refused(errno.ENXIO, os.lseek, fd, MIB, os.SEEK_DATA)
            os.close(fd)
        fd = os.open(at(actor), os.O_RDWR)
        fallocate(fd, KEEP_SIZE, MIB, MIB)
        check(os.fstat(fd).st_size == MIB and os.fstat(fd).st_blocks * 512 >= 3 * MIB // 2, f'{os.fstat(fd)}')
        os.close(fd)
        os.truncate(at(actor), 0)
        os.truncate(at(actor), 5000)
        for node in NODES:
            same(at(node), bytes(5000), f'n{node} reads a file that grew')
        os.setxattr(os.path.dirname(at(home)), 'user.btd.sparse', b'1')
        thin = made_by(c, name, home, f'thin{home}{actor}')
        os.setxattr(os.path.dirname(at(home)), 'user.btd.sparse', b'0')
        fd = os.open(thin(actor), os.O_RDWR)
        os.ftruncate(fd, 1 << 40)
        os.pwrite(fd, b'end', (1 << 40) - 3)
        os.close(fd)
        for node in NODES:
            with open(thin(node), 'rb') as f:
                f.seek(-3, os.SEEK_END)
                check(f.read() == b'end', f'n{node} reads another end of a sparse file')
            check(os.stat(thin(node)).st_blocks * 512 < MIB, 'a sparse file has its space reserved')


def copies(c, name):
    """copy_file_range and sendfile between files of different homes."""
    data = random_bytes(300_000, 5)
    for source, target, actor in itertools.product(NODES, NODES, NODES):
        a = made_by(c, name, source, f'from{source}{target}{actor}', data)
        b = made_by(c, name, target, f'to{source}{target}{actor}')
        with open(a(actor), 'rb') as f, open(b(actor), 'r+b') as g:
            left = len(data)
            while left > 0:
                n = os.copy_file_range(f.fileno(), g.fileno(), left)
                check(n > 0, 'nothing is copied')
                left -= n
        same(b(others(actor)[0]), data, f'n{actor} copied from n{source} to n{target}')
        os.unlink(a(1))
        os.unlink(b(1))


def mappings(c, name):
    """A mapping's stores are at home after msync, and after munmap and close; loads see the rest."""
    for home, writer, reader in itertools.product(NODES, NODES, NODES):
        if writer == reader:
            continue
        at = made_by(c, name, home, f'map{home}{writer}{reader}', b'\0' * 20_000)
        fd = os.open(at(writer), os.O_RDWR)
        memory = mmap.mmap(fd, 20_000)
        os.close(fd)
        memory[4090:4100] = b'0123456789'
        memory.flush()
        same(at(reader), bytes(4090) + b'0123456789' + bytes(15_900), f'n{reader} after msync by n{writer}')
        memory[19_999:] = b'z'
        memory.close()
        check(read(at(reader))[-1:] == b'z', f'n{reader} after munmap by n{writer}, home n{home}')
        with open(at(reader), 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as view:
            check(view[4090:4100] == b'0123456789', f'n{reader} maps other bytes')


def appends(c, name):
    """O_APPEND: in turns every line is there, as it is by nodes that append at the same time."""
    for home in NODES:
        at = made_by(c, name, home, f'turns{home}')
        for node in NODES:
            status(at(node))
        expected = b''
        for i in range(30):
            line = f'{i} by n{i % 3 + 1}\n'.encode()
            write(at(i % 3 + 1), line, os.O_APPEND)
            expected += line
        for node in NODES:
            same(at(node), expected, f'n{node} reads what all appended in turns')
        at = made_by(c, name, home, f'shrunk{home}', b'x' * 5000)
        for node in NODES:
            read(at(node))
        os.truncate(at(1), 3)
        write(at(2), b'y', os.O_APPEND)
        write(at(3), b'z', os.O_APPEND)
        same(at(home), b'xxxyz', f'appended to a file that became shorter, home n{home}')


def together(c, name):
    """O_APPEND by three nodes at the same time, with files that are open all the while."""
    for home in NODES:
        at = made_by(c, name, home, f'log{home}')

        def append(node, path=at):
            fd = os.open(path(node), os.O_WRONLY | os.O_APPEND)
            for i in range(100):
                line = f'{node} {i} '.encode() + b'.' * (i * 7 % 90) + b'\n'
                check(os.write(fd, line) == len(line), 'a short write')
            os.close(fd)
        check(in_threads(append, (1,), (2,), (3,)) == [None] * 3, 'an append failed')
        for node in NODES:
            lines = read(at(node)).decode().splitlines()
            seen = [tuple(map(int, line.split()[:2])) for line in lines]
            check(sorted(seen) == [(n, i) for n in NODES for i in range(100)],
                  f'n{node} reads {len(seen)} of 300 lines, home n{home}')


def as_nobody(*command):
    def become():
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    return subprocess.run(command, preexec_fn=become, capture_output=True, text=True, check=False)


def privileges(c, name):
    """Setuid and setgid bits go with a write by any node; permissions hold on all."""
    for node in NODES:
        os.chmod(c.path(node), 0o755)
    for home, writer in itertools.product(NODES, NODES):
        at = made_by(c, name, home, f'bits{home}{writer}', b'x')
        os.chown(at(home), NOBODY, NOBODY)
        for how in ('echo y >> {}', 'echo y > {}', 'truncate -s 1 {}'):
            os.chmod(at(home), 0o6775)
            for node in NODES:
                wait_until(lambda n=node: os.stat(at(n)).st_mode & 0o7777 == 0o6775, 2, 'chmod')
            done = as_nobody('sh', '-c', how.format(at(writer)))
            check(done.returncode == 0, done.stderr)
            for node in NODES:
                wait_until(lambda n=node: os.stat(at(n)).st_mode & 0o7777 == 0o775, 2,
                           f'{how}: the end of the setuid bit at n{node}')
        os.chmod(at(writer), 0o600)
        os.chown(at(writer), 0, 0)
        for node in NODES:
            wait_until(lambda n=node: os.stat(at(n)).st_uid == 0, 2, 'chown')
            check(as_nobody('cat', at(node)).returncode != 0, f'n{node} lets nobody read')


def times(c, name):
    """Size and times after a close; reading changes none of them."""
    for home, writer in ((1, 1), (1, 2), (2, 3)):
        at = made_by(c, name, home, f'times{home}{writer}', b'1')
        os.utime(at(home), ns=(10**18, 10**18))
        for node in NODES:
            wait_until(lambda n=node: os.stat(at(n)).st_mtime_ns == 10**18, 1.5, f'utime at n{node}')
        before = time.time_ns() - 20_000_000
        write(at(writer), b'abc')
        for node in NODES:
            wait_until(lambda n=node: os.stat(at(n)).st_size == 3 and os.stat(at(n)).st_mtime_ns > before,
                       1.5, f'size and time at n{node}')
            check(os.stat(at(node)).st_ctime_ns > before, 'ctime stays')
        now = os.stat(at(home))
        for node in NODES:
            read(at(node))
        time.sleep(0.01)
        check(os.stat(at(home)).st_mtime_ns == now.st_mtime_ns, 'reading changes mtime')


def at_home(c, name):
    """What a node did to a file is in its home's next stat, however lately that had looked."""
    path = made_by(c, name, 1, 'f', b'x')
    for i in range(20):
        size = os.stat(path(1)).st_size
        write(path(2 + i % 2), bytes(size + 1), os.O_TRUNC)
        check(os.stat(path(1)).st_size == size + 1, f'the size after write {i}')
        os.utime(path(2), ns=(i, 1000 + i))
        check(os.stat(path(1)).st_mtime_ns == 1000 + i, f'the time after utime {i}')
        os.truncate(path(3), i)
        check(os.stat(path(1)).st_size == i, f'the size after truncate {i}')


def messages(c, name):
    """A stat of what the kernel knows asks nobody, and listing a directory asks no home."""
    at = made_by(c, name, 1, 'file', b'x' * 5000)
    for i in range(200):
        write(c.path(1, name, f'of{i}'), b'x')
    wait_until(lambda: len(os.listdir(c.path(2, name))) == 201, 2, 'the names')
    for attempt in range(5):  # what the kernel knows of a file it knows for a second
        os.stat(at(2))
        start = time.monotonic()
        before = c.calls(2)
        for _ in range(100):
            os.stat(at(2))
        after = c.calls(2)
        if time.monotonic() - start < 0.5:
            break
    check(after == before, f'100 stats sent {after - before} messages')
    before = c.calls(2)
    os.listdir(c.path(2, name))
    with os.scandir(c.path(2, name)) as listing:
        check(all(entry.is_file() for entry in listing), 'a type is missing')
    check(c.calls(2) == before, f'a listing sent {c.calls(2) - before} messages')
    before = c.calls(2)
    for _ in range(50):
        with open(at(2), 'rb') as f:
            f.read()
    say(f'    open, read of 5000 bytes and close send {(c.calls(2) - before) / 50:.1f} messages')


def file_systems(c, name):
    """statvfs tells of the node's own pool; a pool that is full says so to others, and goes on."""
    for node in NODES:
        check(os.statvfs(c.path(node)).f_namemax == 255, 'names are of 255 bytes')
        check(os.statvfs(c.path(node)).f_bfree > 0, 'no space')
    at = made_by(c, name, 3, 'full')
    room = os.statvfs(c.path(3)).f_bavail * os.statvfs(c.path(3)).f_frsize
    fd = os.open(at(1), os.O_RDWR)
    try:
        refused(errno.ENOSPC, fallocate, fd, 0, 0, room + 64 * MIB)
        fallocate(fd, 0, 0, room - MIB)

        def fill_up():
            for i in range(64):
                os.pwrite(fd, b'x' * MIB, room + i * MIB)
        refused(errno.ENOSPC, fill_up)
    finally:
        os.ftruncate(fd, 0)
        check(os.pwrite(fd, b'again', 0) == 5, 'no space after there is')
        os.close(fd)


def give_name(fd, path):
    """linkat(2) as open(2) has it for O_TMPFILE; os.link does not follow the link."""
    if LIBC.linkat(-100, f'/proc/self/fd/{fd}'.encode(), -100, os.fsencode(path), 0x400) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def free(c, node):
    facts = os.statvfs(c.pool(node))
    return facts.f_bfree * facts.f_frsize


def unlinked(c, name):
    """A file without a name stays until its last close on any node; then home has its space again."""
    for home, holder, remover in itertools.product(NODES, NODES, NODES):
        before = free(c, home)
        at = made_by(c, name, home, f'gone{home}{holder}{remover}', b'old' * MIB)
        check(free(c, home) < before - 2 * MIB, 'it takes no space')
        fd = os.open(at(holder), os.O_RDWR)
        os.unlink(at(remover))
        for node in NODES:
            wait_until(lambda n=node: status(at(n)) is None, 2, f'the end of the name at n{node}')
        check(os.pread(fd, 3, 0) == b'old', f'home n{home}: n{holder} lost what n{remover} removed')
        check(os.pwrite(fd, b'new', 0) == 3 and os.pread(fd, 4, 0) == b'newo', 'it is not written')
        check(os.fstat(fd).st_nlink == 0, f'{os.fstat(fd)}')
        memory = mmap.mmap(fd, 3 * MIB)
        os.close(fd)
        check(memory[:3] == b'new' and memory[-1:] == b'd', 'the mapping is another file')
        memory.close()
        wait_until(lambda: free(c, home) > before - MIB, 4,
                   f'space of home n{home}, open at n{holder}, removed by n{remover}')


def replaced(c, name):
    """rename over a file that is open elsewhere: who has it open keeps the old one."""
    for home, holder, mover in itertools.product(NODES, NODES, NODES):
        at = made_by(c, name, home, f'file{home}{holder}{mover}', b'old' * 1000)
        fd = os.open(at(holder), os.O_RDONLY)
        write(at(mover) + '.new', b'new' * 2000)
        os.rename(at(mover) + '.new', at(mover))
        for node in NODES:
            wait_until(lambda n=node: read(at(n)) == b'new' * 2000, 2, f'the new file at n{node}')
        check(os.pread(fd, 5000, 0) == b'old' * 1000, f'home n{home}: n{holder} reads another file')
        os.close(fd)


def nameless(c, name):
    """O_TMPFILE, and a name for it: at the node that made it, then everywhere."""
    for node in NODES:
        before = free(c, node)
        fd = os.open(c.path(node, name), os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(fd, b'tmp' * MIB)
        give_name(fd, c.path(node, name, f'named{node}'))
        os.close(fd)
        for reader in NODES:
            at = c.path(reader, name, f'named{node}')
            wait_until(lambda p=at: status(p) is not None, 2, f'the name at n{reader}')
            check(os.stat(at).st_nlink == 1 and read(at) == b'tmp' * MIB, f'{os.stat(at)}')
        os.unlink(c.path(others(node)[0], name, f'named{node}'))
        fd = os.open(c.path(node, name), os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(fd, b'tmp' * MIB)
        os.close(fd)
        wait_until(lambda n=node: free(c, n) > before - MIB, 4, f'the space of n{node}')


def programs(c, name):
    """Programs, scripts and databases run from another node's files."""
    for home in NODES:
        for node in others(home):
            tool, script = c.path(home, name, f'tool{home}{node}'), c.path(home, name, f's{home}{node}')
            shutil.copy(shutil.which('echo'), tool)
            write(script, b'#!/bin/sh\necho script $1\n')
            os.chmod(script, 0o755)
            at = lambda path, h=home, n=node: path.replace(c.path(h), c.path(n), 1)
            wait_until(lambda p=at(script): os.access(p, os.X_OK), 2, 'the mode')
            check(must(at(tool), 'hello') == 'hello\n', f'n{node} runs another program')
            check(must(at(script), 'x') == 'script x\n', f'n{node} runs another script')
            data = c.path(home, name, f'db{home}{node}')
            with sqlite3.connect(data) as db:
                db.execute('create table t (a integer primary key, b text)')
                db.executemany('insert into t values (?, ?)', [(i, 'v' * (i % 300)) for i in range(2000)])
            db.close()
            wait_until(lambda p=at(data): status(p) is not None, 2, 'the database')
            with sqlite3.connect(at(data)) as db:
                check(db.execute('pragma integrity_check').fetchone() == ('ok',), 'a damaged database')
                check(db.execute('select sum(length(b)) from t').fetchone()[0]
                      == sum(i % 300 for i in range(2000)), 'other rows')
                db.execute('insert into t values (5000, ?)', ('from elsewhere',))
            db.close()
            with sqlite3.connect(data) as db:
                check(db.execute('select b from t where a = 5000').fetchone() == ('from elsewhere',),
                      'the row of the other node is not there')
            db.close()


def make_tree(base):
    chance = random.Random(3)
    os.mkdir(base)
    for i in range(8):
        os.makedirs(f'{base}/d{i}/sub')
        for k in range(8):
            path = f'{base}/d{i}/{"sub/" if k % 2 else ""}f{k}'
            with open(path, 'wb') as f:
                f.write(chance.randbytes(chance.choice((0, 10, 4096, 9000, 70_000))))
            os.chmod(path, chance.choice((0o644, 0o600, 0o755)))
            os.utime(path, ns=(10**18, 10**18 + i * 1000 + k))
        os.symlink(f'../d{i}/sub', f'{base}/d{i}/link')
        os.link(f'{base}/d{i}/f0', f'{base}/d{i}/sub/hard')


def differences(a, b):
    """Names, kinds, modes, times of files and bytes of two trees."""
    found = []
    for base, directories, files in os.walk(a):
        other = base.replace(a, b, 1)
        names = sorted(os.listdir(other)) if os.path.isdir(other) else None
        if names != sorted(directories + files):
            found.append(f'{other}: {names}')
            continue
        for name in files:
            p, q = os.path.join(base, name), os.path.join(other, name)
            x, y = os.lstat(p), os.lstat(q)
            if (x.st_mode, x.st_size, x.st_mtime_ns) != (y.st_mode, y.st_size, y.st_mtime_ns):
                found.append(f'{q}: {y} instead of {x}')
            elif stat.S_ISREG(x.st_mode) and not filecmp.cmp(p, q, shallow=False):
                found.append(f'{q}: other bytes')
    return found


def alike(a, b):
    """Within the time that kernels keep times of files."""
    deadline = time.monotonic() + SLOW * 1.5
    while found := differences(a, b):
        check(time.monotonic() < deadline, '; '.join(found[:5]))


def trees(c, name):
    """cp -a, tar, rsync and git: made by one node, copied by another, compared by the third."""
    outside = os.path.join(c.base, 'tree')
    make_tree(outside)
    must('cp', '-a', outside, c.path(1, name, 'one'))
    alike(outside, c.path(2, name, 'one'))
    must('cp', '-a', c.path(2, name, 'one'), c.path(2, name, 'two'))
    alike(outside, c.path(3, name, 'two'))
    archive = c.path(3, name, 'tree.tar')
    must('tar', '--format=posix', '-cf', archive, '-C', c.path(3, name, 'two'), '.')
    os.mkdir(c.path(1, name, 'three'))
    must('tar', '-xpf', c.path(1, name, 'tree.tar'), '-C', c.path(1, name, 'three'))
    alike(outside, c.path(2, name, 'three'))
    hard = os.stat(c.path(2, name, 'three', 'd1', 'sub', 'hard'))
    check(hard.st_nlink == 2 and hard.st_ino == os.stat(c.path(2, name, 'three', 'd1', 'f0')).st_ino,
          'a hard link became a copy')
    if shutil.which('rsync'):
        must('rsync', '-aH', c.path(2, name, 'three') + '/', c.path(3, name, 'four'))
        alike(outside, c.path(1, name, 'four'))
    else:
        say('    left out: rsync, which is not there; apt install rsync')
    must('rm', '-r', c.path(3, name, 'three'))
    wait_until(lambda: status(c.path(1, name, 'three')) is None, 2, 'the end of a tree')
    if not shutil.which('git'):
        raise Skip('git is not there; its part is left out')
    git_tree(c, name, outside)


def git_tree(c, name, outside):
    env = dict(os.environ, GIT_CONFIG_GLOBAL='/dev/null', GIT_CONFIG_SYSTEM='/dev/null', HOME=c.base)
    git = lambda node, *words: must('git', '-c', 'user.name=n', '-c', 'user.email=n@example.org',
                                    '-c', 'safe.directory=*', '-c', 'init.defaultBranch=main',
                                    '-C', c.path(node, name, 'repo'), *words, env=env)
    shutil.copytree(outside, c.path(1, name, 'repo'), symlinks=True)
    git(1, 'init', '-q')
    git(1, 'add', '.')
    git(1, 'commit', '-qm', 'first')
    wait_until(lambda: git(2, 'status', '--porcelain') == '', 3, 'a clean state at n2')
    write(c.path(2, name, 'repo', 'd1', 'f2'), b'changed', os.O_TRUNC)
    git(2, 'commit', '-qam', 'second')
    wait_until(lambda: '1 file changed' in git(3, 'show', '--stat', 'HEAD'), 3, 'the second commit at n3')
    git(3, 'gc', '-q')
    objects = lambda node: sorted(os.walk(c.path(node, name, 'repo', '.git', 'objects')))
    wait_until(lambda: [e[1:] for e in objects(1)] == [e[1:] for e in objects(3)], 3, 'what gc left at n1')
    git(1, 'fsck', '--strict')
    git(1, 'checkout', '-q', 'HEAD~1')
    at = c.path(2, name, 'repo', 'd1', 'f2')
    first = read(os.path.join(outside, 'd1', 'f2'))
    wait_until(lambda: status(at) is not None and os.stat(at).st_size == len(first), 3, 'another file at n2')
    check(read(at) == first, 'n2 reads another file than n1 checked out')


CHECKS = [sizes, large, a_model, fsx, space, copies, mappings, appends, together, privileges, times,
          at_home, messages, file_systems, unlinked, replaced, nameless, programs, trees]

if __name__ == '__main__':
    main({'direct': suite(CHECKS, '--size', '400M')}, timeout=150)
