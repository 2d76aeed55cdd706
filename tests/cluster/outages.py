#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""etcd goes away and comes back: what needs no agreement goes on, what does fails in time with a clear
error, and nothing is lost."""
import errno
import json
import mmap
import os
import threading
import time

from clusterlib import ETCD, PYTHON, suite
from direct import made_by
from faults import Load
from mountlib import MIB, SLOW, check, main, say, wait_until
from tree import NODES, made, read, status, write

UNKNOWN = (errno.EHOSTUNREACH, errno.EIO, errno.ETIMEDOUT)

# Lets etcd forget all but the present.
COMPACT = '''
import json, sys, urllib.request
def ask(path, **what):
    request = urllib.request.Request(f"http://{sys.argv[1]}:2379/v3/{path}", json.dumps(what).encode())
    return json.loads(urllib.request.urlopen(request, timeout=5).read())
revision = ask("kv/range", key="AA==", limit=1)["header"]["revision"]
ask("kv/compaction", revision=revision, physical=True)
'''


def fails(what, call, *arguments):
    """The change fails in time."""
    start = time.monotonic()
    try:
        call(*arguments)
    except OSError as error:
        took = time.monotonic() - start
        check(error.errno in UNKNOWN, f'{what} gives {error}')
        # Two that wait in one directory wait for each other.
        check(took < SLOW * 12, f'{what} took {took:.1f} s')
        return took
    check(False, f'{what} succeeds without etcd')


def recovered(c, name):
    """Changes work again at all nodes, and are seen."""
    for node in NODES:
        mark = c.path(node, name, f'back{node}-{time.monotonic_ns()}')
        wait_until(lambda p=mark: made(p), 15, f'a change at n{node}')
        for other in NODES:
            wait_until(lambda o=other: status(mark.replace(c.path(node), c.path(o), 1)) is not None, 5,
                       f'the change of n{node} at n{other}')


def killed(c, name):
    """etcd is killed: names and open files stay in use, changes fail, and nothing is lost."""
    at = made_by(c, name, 1, 'file', bytes(MIB))
    own = made_by(c, name, 2, 'own', bytes(MIB))
    # The kernel locks a directory while a change of it waits, so reading has one of its own.
    os.mkdir(c.path(1, name, 'changed'))
    for i in range(30):
        os.mkdir(c.path(1, name, f'd{i}'))
        os.mkdir(c.path(1, name, 'changed', f'd{i}'))
    for node in NODES:
        wait_until(lambda n=node: len(os.listdir(c.path(n, name))) == 33
                   and len(os.listdir(c.path(n, name, 'changed'))) == 30, 2, 'the names')
    with Load(at(2)) as load, Load(own(2)) as local:
        c.must('kill', 'etcd')
        time.sleep(0.1)
        results = []
        on = lambda node, entry: c.path(node, name, 'changed', entry)
        changes = [('mkdir', os.mkdir, on(1, 'new')), ('rmdir', os.rmdir, on(2, 'd1')),
                   ('rename', os.rename, on(3, 'd2'), on(3, 'd2-moved')),
                   ('chmod', os.chmod, on(2, 'd3'), 0o700), ('create', write, on(1, 'new-file'))]

        def attempt(change):
            try:
                results.append(fails(*change))
            except AssertionError as error:
                results.append(error)
        threads = [threading.Thread(target=attempt, args=(change,)) for change in changes]
        for thread in threads:
            thread.start()
        for node in NODES:
            start = time.monotonic()
            check(os.path.isdir(c.path(node, name, 'd7')), 'a name is not found')
            check(status(c.path(node, name, 'nothing')) is None, 'a name is found')
            check(len(os.listdir(c.path(node, name))) == 33, 'a listing is another one')
            check(len(read(c.path(node, name, 'file'))) == MIB, 'a file cannot be opened')
            check(time.monotonic() - start < 2 * SLOW, 'reading waits for etcd')
        load.goes_on(2)
        local.goes_on(2)
        for thread in threads:
            thread.join()
        check(all(isinstance(took, float) for took in results), f'{results}')
        say(f'    changes fail after {min(results):.1f} to {max(results):.1f} s')
        c.must('start', 'etcd')
        recovered(c, name)
        load.goes_on()
    there = {n: sorted(os.listdir(c.path(n, name, 'changed'))) for n in NODES}
    check(there[1] == there[2] == there[3], f'the nodes show different names: {there}')
    expected = {f'd{i}' for i in range(30)}
    odd = set(there[1]) ^ expected
    # Those in doubt may have happened, each as a whole.
    check(odd <= {'new', 'new-file', 'd1', 'd2', 'd2-moved'} and ('d2' in odd) == ('d2-moved' in odd),
          f'lost or made: {odd}')


def compacted(c, name):
    """A node that was cut off while etcd forgot the past sees all that happened."""
    for i in range(20):
        os.mkdir(c.path(1, name, f'before{i}'))
    wait_until(lambda: len(os.listdir(c.path(3, name))) == 20, 2, 'the names')
    os.setxattr(c.path(1, name, 'before3'), 'user.x', b'old')
    wait_until(lambda: 'user.x' in os.listxattr(c.path(3, name, 'before3')), 2, 'the attribute')
    here = os.open(c.path(3, name, 'before4'), os.O_RDONLY | os.O_DIRECTORY)
    status(c.path(3, name, 'made0'))
    c.must('partition', 'n3', '--from', 'etcd:1')
    time.sleep(0.2)
    for i in range(30):
        os.mkdir(c.path(1, name, f'made{i}'))
    for i in range(10, 20):
        os.rmdir(c.path(2, name, f'before{i}'))
    os.chmod(c.path(2, name, 'before1'), 0o711)
    os.setxattr(c.path(2, name, 'before3'), 'user.x', b'new')
    os.rename(c.path(2, name, 'before4'), c.path(2, name, 'moved4'))
    check(len(os.listdir(c.path(3, name))) == 20, 'n3 sees what it cannot')
    c.must('exec', 'n1', '--', *PYTHON, '-c', COMPACT, ETCD)
    c.must('kill', 'etcd')
    c.must('start', 'etcd')
    c.must('heal')
    start = time.monotonic()
    wait_until(lambda: sorted(os.listdir(c.path(3, name))) == sorted(os.listdir(c.path(1, name))), 20,
               'what happened meanwhile')
    say(f'    seen {time.monotonic() - start:.1f} s after the network was whole')
    for look, what in ((lambda: status(c.path(3, name, 'made0')) is not None, 'a name known as absent'),
                       (lambda: status(c.path(3, name, 'before12')) is None, 'a name known as there'),
                       (lambda: os.stat(c.path(3, name, 'before1')).st_mode & 0o777 == 0o711, 'a mode'),
                       (lambda: os.getxattr(c.path(3, name, 'before3'), 'user.x') == b'new', 'a value'),
                       (lambda: status(c.path(3, name, 'moved4')).st_ino == os.fstat(here).st_ino,
                        'a move')):
        wait_until(look, 2, f'{what}: its change at n3')
    os.close(here)
    recovered(c, name)
    check(json.dumps(c.facts(3)['cluster']['etcd']).find('"follows": true') > 0, 'n3 does not follow')


def worker_without_etcd(c, name):
    """A worker dies while etcd is away: its mount waits, what is passed through goes on."""
    at = made_by(c, name, 1, 'file', bytes(MIB))
    other = made_by(c, name, 1, 'other', bytes(MIB))
    own = made_by(c, name, 2, 'own', bytes(MIB))
    fd, local = os.open(at(2), os.O_RDWR), os.open(own(2), os.O_RDWR)
    memory = mmap.mmap(local, MIB)
    os.pwrite(fd, b'before', 0)
    worker = c.worker(2)
    c.must('kill', 'etcd')
    os.kill(worker, 9)
    time.sleep(0.3)
    check(memory[:6] == bytes(6), 'a mapping needs etcd')
    memory[:6] = b'stored'
    passed = threading.Thread(target=lambda: os.pread(local, 6, 0))
    passed.start()
    passed.join(2 * SLOW)
    check(not passed.is_alive(), 'what is passed through needs etcd')
    waiter_result = []

    def wait_for_it():
        os.pwrite(fd, b'while it is away', 100)
        waiter_result.append(os.listdir(c.path(2, name)))
    waiter = threading.Thread(target=wait_for_it)
    waiter.start()
    with Load(other(3)):
        time.sleep(1)
        check(waiter.is_alive(), 'a worker serves without having read the names')
        c.must('start', 'etcd')
        waiter.join(15 * SLOW)
        check(waiter_result and sorted(waiter_result[0]) == ['file', 'other', 'own'], f'{waiter_result}')
    recovered(c, name)
    memory.close()
    os.close(local)
    os.close(fd)


def in_doubt(c, name):
    """A create reaches etcd, and its answer does not come back: who sees the name finds the file, or hears that
    it can't be reached; and afterwards it is a file like others."""
    os.mkdir(c.path(1, name, 'd'))
    for node in (2, 3):
        wait_until(lambda n=node: os.path.isdir(c.path(n, name, 'd')), 5, 'the directory')
    def make():
        try:
            write(c.path(1, name, 'd', 'file'))
        except OSError as error:
            check(error.errno in UNKNOWN, f'the create gives {error}')
    maker = threading.Thread(target=make)
    with c.unheard('n1'):
        maker.start()
        for node in (2, 3):
            wait_until(lambda n=node: os.listdir(c.path(n, name, 'd')) == ['file'], 5, f'the name at n{node}')
        while maker.is_alive():
            for node in (2, 3):
                try:
                    os.stat(c.path(node, name, 'd', 'file'))
                    os.close(os.open(c.path(node, name, 'd', 'file'), os.O_RDWR))
                except OSError as error:
                    check(error.errno in UNKNOWN, f'a file that is listed gives {error} at n{node}')
        maker.join()
    recovered(c, name)
    for node in NODES:
        at = c.path(node, name, 'd', 'file')
        wait_until(lambda p=at: status(p) is not None, 5, f'the file at n{node}')
        write(at, f'of {node}'.encode())
        check(read(at) == f'of {node}'.encode(), f'n{node} can\'t use the file')


CHECKS = [killed, compacted, in_doubt, worker_without_etcd]

if __name__ == '__main__':
    main({'outages': suite(CHECKS)}, timeout=150)
