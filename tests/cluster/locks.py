#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Locks (fcntl, flock) that hold among the nodes of a cluster, of files at a third node and at one's own."""
import errno
import fcntl
import mmap
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time

from clusterlib import Cluster
from mountlib import SLOW, check, main, say, wait_until

ROUNDS = 150
HAND_OVERS = 50  # each makes and removes a name
ROWS = 25


def paths(cluster, name):
    """The file as each node sees it, made at the third node."""
    all_paths = [os.path.join(n['mount'], name) for n in cluster.status()['nodes']]
    with open(all_paths[2], 'wb') as f:
        f.write(bytes(4096))
    for path in all_paths:
        wait_until(lambda p=path: os.path.exists(p), 5, path)
    return all_paths


def waiting_at_home(cluster):
    """Locks of the files that the third node made."""
    return cluster.facts(3)['cluster']['locks']['waiting']


def program(what, *arguments):
    return subprocess.Popen([sys.executable, os.path.abspath(__file__), what, *map(str, arguments)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process, word):
    process.stdin.write(word + '\n')
    process.stdin.flush()
    return process.stdout.readline().strip()


def finish(*processes):
    for p in processes:
        p.stdin.close()
        p.stdout.close()
        check(p.wait(60 * SLOW) == 0, 'a program failed')


# --- Programs ---

def count(path, how, rounds):
    """Increments a number under a lock, as a process of its own."""
    fd = os.open(path, os.O_RDWR)
    memory = mmap.mmap(fd, 4096) if how == 'mmap' else None
    for _ in range(int(rounds)):
        fcntl.flock(fd, fcntl.LOCK_EX) if how == 'flock' else fcntl.lockf(fd, fcntl.LOCK_EX)
        old = struct.unpack('Q', memory[:8] if memory else os.pread(fd, 8, 0))[0]
        new = struct.pack('Q', old + 1)
        if memory:
            memory[:8] = new
        else:
            os.pwrite(fd, new, 0)
        fcntl.flock(fd, fcntl.LOCK_UN) if how == 'flock' else fcntl.lockf(fd, fcntl.LOCK_UN)


OPERATIONS = {
    'shared': lambda fd, n: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 10, n),
    'try': lambda fd, n: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, n),
    'wait': lambda fd, n: fcntl.lockf(fd, fcntl.LOCK_EX, 10, n),
    'unlock': lambda fd, n: fcntl.lockf(fd, fcntl.LOCK_UN, 10, n),
    'flock': lambda fd, n: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    'unflock': lambda fd, n: fcntl.flock(fd, fcntl.LOCK_UN),
    'ofd': lambda fd, n: fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, n, 10, 0)),
}


class Interrupted(Exception):
    pass


def obey(path):
    """Does what it is told by lines: OPERATION START; says ok or the error's name."""
    def stop(_number, _frame):
        raise Interrupted

    signal.signal(signal.SIGUSR1, stop)
    fd = os.open(path, os.O_RDWR)
    for line in sys.stdin:
        words = line.split()
        word, start, letter = (words + ['0', 'x'][len(words) - 1:])[:3]
        try:
            if word == 'find':
                packed = fcntl.fcntl(fd, fcntl.F_GETLK,
                                     struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, int(start), 10, 0))
                kind, _, at, length, pid = struct.unpack('hhqqi4x', packed)
                print(kind, at, length, pid, flush=True)
                continue
            if word == 'read':
                print(os.pread(fd, 1, int(start)).decode(), os.fstat(fd).st_size, flush=True)
                continue
            if word == 'open':
                os.close(os.open(path, os.O_RDONLY))  # fcntl(2): ends all locks of the process
            elif word == 'reopen':
                other = os.open(path, os.O_RDWR)
                os.close(fd)
                fd = other
            elif word == 'write':
                os.pwrite(fd, letter.encode(), int(start))
            else:
                OPERATIONS[word](fd, int(start))
            print('ok', flush=True)
        except Interrupted:
            print('interrupted', flush=True)
        except OSError as error:
            print('EDEADLK' if error.errno == errno.EDEADLK else errno.errorcode[error.errno],
                  flush=True)


def hand_on(path, rounds):
    """Under the lock there is one name beside the file, with the number that is in it: it is the next
    program's then."""
    fd = os.open(path, os.O_RDWR)
    for _ in range(int(rounds)):
        fcntl.lockf(fd, fcntl.LOCK_EX)
        (n,) = struct.unpack('Q', os.pread(fd, 8, 0))
        for number, is_there in ((n - 1, False), (n, True), (n + 1, False), (n + 2, False)):
            check(os.path.exists(f'{path}.{number}') == is_there,
                  f'{n} was handed on, and name {number} is {"not " * is_there}there')
        with open(f'{path}.{n + 1}', 'x') as made:
            made.write(str(n + 1))
        with open(f'{path}.{n}') as before:
            check(n == 0 or before.read() == str(n), f'name {n} is another file')
        os.unlink(f'{path}.{n}')
        os.pwrite(fd, struct.pack('Q', n + 1), 0)
        fcntl.lockf(fd, fcntl.LOCK_UN)


def insert(path, node, rows):
    """Inserts rows with numbers that it reads from the table before."""
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    for i in range(int(rows)):
        db.execute('begin immediate')
        (last,) = db.execute('select coalesce(max(n), 0) from t').fetchone()
        db.execute('insert into t values (?, ?, ?)', (last + 1, node, 'x' * (i * 37 % 900)))
        db.execute('commit')
    db.close()


# --- Cases ---

def excludes(cluster):
    for how in ('fcntl', 'flock', 'mmap'):
        seen = paths(cluster, f'counter_{how}')
        begun = time.monotonic()
        # Two nodes of which the file is not, and two programs of its home: those see one mapping.
        finish(*[program('count', seen[i], how, ROUNDS) for i in (0, 1, 2, 2)])
        with open(seen[2], 'rb') as f:
            total = struct.unpack('Q', f.read(8))[0]
        say(f'{how}: {4 * ROUNDS} rounds in {time.monotonic() - begun:.1f} s')
        check(total == 4 * ROUNDS, f'{how}: {total} of {4 * ROUNDS} increments')


def semantics(cluster):
    seen = paths(cluster, 'file')
    a, b, home = programs = [program('obey', path) for path in seen]
    check(ask(a, 'try') == 'ok' and ask(b, 'try') == 'EAGAIN', 'no exclusion between two nodes')
    check(ask(home, 'try') == 'EAGAIN', 'no exclusion of the home')
    check(ask(b, 'find') == f'{fcntl.F_WRLCK} 0 10 0', 'F_GETLK finds another lock')
    check(ask(home, 'try 10') == 'ok', 'other bytes are locked too')
    check(ask(b, 'flock') == 'ok', 'flock sees record locks')
    check(ask(home, 'flock') == 'EAGAIN', 'no exclusion by flock')
    check(ask(b, 'unflock') == 'ok' and ask(home, 'flock') == 'ok', 'flock is not given back')
    check(ask(home, 'unflock') == 'ok', 'no unlock')

    # Another descriptor of the same file, closed: the process's record locks end, as on one node.
    check(ask(a, 'open') == 'ok' and ask(b, 'try') == 'ok', 'close() does not end record locks')
    check(ask(b, 'unlock') == 'ok', 'no unlock')

    check(ask(home, 'try 600') == 'ok' and ask(home, 'open') == 'ok', 'no lock at home')
    check(ask(b, 'try 600') == 'ok' and ask(b, 'unlock 600') == 'ok', 'close() at home ends no lock')

    # A lock of an open file outlives such a close, and ends with its own.
    check(ask(a, 'ofd 100') == 'ok' and ask(a, 'open') == 'ok', 'no lock of an open file')
    check(ask(b, 'try 100') == 'EAGAIN', 'a lock of an open file ended with another')
    check(ask(a, 'reopen') == 'ok', 'no close')
    wait_until(lambda: ask(b, 'try 100') == 'ok', 5, 'the end of a lock of an open file')

    # A wait, and its end.
    check(ask(a, 'try') == 'ok', 'it is not free')
    b.stdin.write('wait\n')
    b.stdin.flush()
    wait_until(lambda: waiting_at_home(cluster) == 1, 5, 'a wait')
    check(ask(a, 'unlock') == 'ok', 'no unlock')
    check(b.stdout.readline().strip() == 'ok', 'who waited was not granted it')

    # A signal, for waits at another node's file and at one's own.
    for waiting in (a, home):
        waiting.stdin.write('wait\n')
        waiting.stdin.flush()
        wait_until(lambda: waiting_at_home(cluster) == 1, 5, 'a wait')
        waiting.send_signal(signal.SIGUSR1)
        check(waiting.stdout.readline().strip() == 'interrupted', 'a signal does not end a wait')
    check(ask(b, 'unlock') == 'ok' and ask(a, 'try') == 'ok', 'a cancelled wait was granted')
    check(ask(a, 'unlock') == 'ok', 'no unlock')

    # Each waits for the other.
    check(ask(a, 'try 200') == 'ok' and ask(b, 'try 300') == 'ok', 'it is not free')
    a.stdin.write('wait 300\n')
    a.stdin.flush()
    wait_until(lambda: waiting_at_home(cluster) == 1, 5, 'a wait')
    check(ask(b, 'wait 200') == 'EDEADLK', 'a deadlock of two nodes is not seen')
    check(ask(b, 'unlock 300') == 'ok' and a.stdout.readline().strip() == 'ok', 'no hand-over')

    # What was read before, without a lock, is not what one sees under it.
    for writer, reader, size in ((home, b, 5000), (b, home, 6000), (home, b, 7000)):
        ask(reader, 'read 400')
        check(ask(writer, 'try 400') == 'ok', 'it is not free')
        check(ask(writer, 'write 400 ' + ('h' if writer is home else 'b')) == 'ok', 'no write')
        check(ask(writer, f'write {size - 1} h') == 'ok', 'no write')
        check(ask(writer, 'unlock 400') == 'ok' and ask(reader, 'try 400') == 'ok', 'no lock')
        seen_now = ask(reader, 'read 400')
        check(seen_now[0] == ('h' if writer is home else 'b'), f'under the lock it is old: {seen_now}')
        check(seen_now.split()[-1] == str(size), f'under the lock the size is old: {seen_now}')
        check(ask(reader, 'unlock 400') == 'ok', 'no unlock')

    # A killed program.
    a.kill()
    wait_until(lambda: ask(home, 'try 200') == 'ok', 5, 'the end of a killed program\'s lock')
    a.wait()
    finish(b, home)


def many_wait(cluster):
    """More programs wait than the daemon has threads, and all else goes on."""
    seen = paths(cluster, 'popular')
    holder = program('obey', seen[0])
    check(ask(holder, 'try') == 'ok', 'it is not free')
    waiting = [program('obey', seen[i % 2]) for i in range(40)]
    for p in waiting:
        p.stdin.write('wait\n')
        p.stdin.flush()
    wait_until(lambda: waiting_at_home(cluster) == len(waiting), 10, 'that all wait')
    begun = time.monotonic()
    for path in seen:
        with open(path, 'rb') as f:
            f.read()
    check(time.monotonic() - begun < SLOW, 'requests wait behind locks')
    check(ask(holder, 'unlock') == 'ok', 'no unlock')
    for p in waiting:
        p.stdin.write('unlock\n')
        p.stdin.flush()
    for p in waiting:
        check([p.stdout.readline().strip() for _ in range(2)] == ['ok', 'ok'], 'it was not granted')
    finish(holder, *waiting)


def names(cluster):
    """What was done to names under a lock is seen under the next one."""
    seen = paths(cluster, 'token')
    with open(f'{seen[2]}.0', 'x'):
        pass
    for path in seen:
        wait_until(lambda p=path: os.path.exists(f'{p}.0'), 5, 'the first name')
    begun = time.monotonic()
    finish(*[program('hand_on', path, HAND_OVERS) for path in seen])
    say(f'names: {3 * HAND_OVERS} rounds in {time.monotonic() - begun:.1f} s')
    wait_until(lambda: os.path.exists(f'{seen[0]}.{3 * HAND_OVERS}'), 5, 'the name of the last round')


def late_names(cluster):
    """A node that etcd's news reach late gets the lock when they have."""
    seen = paths(cluster, 'late')
    for path in (seen[0], seen[2]):  # removed by another node, and by the home
        with open(f'{path}.name', 'x'):
            pass
        wait_until(lambda: os.path.exists(f'{seen[1]}.name'), 5, 'the name')
        b, other = program('obey', seen[1]), program('obey', path)
        with cluster.unheard('n2'):
            check(ask(other, 'try') == 'ok', 'it is not free')
            os.unlink(f'{path}.name')
            check(os.path.exists(f'{seen[1]}.name'), 'n2 hears of it all the same')
            check(ask(other, 'unlock') == 'ok', 'no unlock')
            b.stdin.write('wait\n')
            b.stdin.flush()
            wait_until(lambda: cluster.facts(2)['cluster']['kernel']['locks']['oldest_seconds'] > 0.2, 5,
                       'a lock that waits for names')
        check(b.stdout.readline().strip() == 'ok', 'the lock was not granted')
        check(not os.path.exists(f'{seen[1]}.name'), 'a name that is gone is there under the lock')
        finish(b, other)


def ends(cluster):
    """What an open learned of the end of the file is not it under a lock."""
    for number, opener in enumerate((0, 1)):
        seen = paths(cluster, f'grown{number}')
        late, home = program('obey', seen[opener]), program('obey', seen[2])
        check(ask(late, 'unlock') == 'ok', 'it did not begin')
        check([ask(home, word) for word in ('try', 'write 8999 h', 'unlock')] == ['ok'] * 3, 'no write')
        check(ask(late, 'try') == 'ok', 'no lock')
        check(ask(late, 'read 8999') == 'h 9000', 'under the lock the file ends where it did')
        finish(late, home)


def all_of_it():
    with Cluster(3) as c:
        names(c)
        late_names(c)
        ends(c)
        excludes(c)
        semantics(c)
        many_wait(c)


def databases():
    with Cluster(3) as c:
        for mode in ('delete', 'truncate'):
            seen = [os.path.join(n['mount'], f'{mode}.db') for n in c.status()['nodes']]
            db = sqlite3.connect(seen[2])
            db.execute(f'pragma journal_mode={mode}')
            db.execute('create table t (n integer primary key, node integer, filler text)')
            db.commit()
            db.close()
            begun = time.monotonic()
            finish(*[program('insert', seen[i], i, ROWS) for i in range(3)])
            say(f'{mode}: {3 * ROWS} inserts in {time.monotonic() - begun:.1f} s')
            for path in seen:
                db = sqlite3.connect(path)
                check(db.execute('pragma integrity_check').fetchone() == ('ok',), 'it is corrupt')
                check(db.execute('select count(*), max(n) from t').fetchone() == (3 * ROWS, 3 * ROWS),
                      'rows are lost')
                db.close()


def worker_of(cluster, host):
    for pid in cluster.users_of(host):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                words = f.read().split(b'\0')
        except OSError:
            continue
        if words[1:2] == [b'worker']:
            return pid
    return None


def kill_worker(cluster, host):
    os.kill(worker_of(cluster, host), signal.SIGKILL)


def worker_killed():
    """Locks outlive the workers of who has them and of their home."""
    with Cluster(3) as c:
        seen = paths(c, 'file')
        a, b, home = [program('obey', path) for path in seen]
        check(ask(a, 'try') == 'ok' and ask(home, 'try 50') == 'ok', 'it is not free')
        check(ask(a, 'ofd 100') == 'ok', 'no lock of an open file')
        for host in ('n1', 'n3', 'n1'):
            kill_worker(c, host)
            begun = time.monotonic()
            check(ask(b, 'try') == 'EAGAIN', f'the lock ended with the worker of {host}')
            check(ask(b, 'try 50') == 'EAGAIN', f"the home's lock ended with the worker of {host}")
            check(ask(a, 'write 0') == 'ok', f'the lock is lost with the worker of {host}')
            say(f'after the worker of {host} was killed: {time.monotonic() - begun:.1f} s')
        for host in ('n1', 'n1'):
            before = worker_of(c, host)
            os.kill(c.host(host)['pid'], signal.SIGUSR2)  # replaced, as for another version
            wait_until(lambda h=host, old=before: worker_of(c, h) not in (None, old), 10,
                       'another worker')
            check(ask(b, 'try') == 'EAGAIN' and ask(a, 'write 0') == 'ok', 'a replaced worker')
        b.stdin.write('wait\n')
        b.stdin.flush()
        time.sleep(0.3)
        kill_worker(c, 'n2')  # the request that waits is sent again
        time.sleep(0.3)
        check(ask(a, 'unlock') == 'ok' and b.stdout.readline().strip() == 'ok', 'no hand-over')
        check(ask(home, 'unlock 50') == 'ok' and ask(b, 'try 50') == 'ok', 'no unlock')
        check(ask(b, 'try 100') == 'EAGAIN' and ask(a, 'reopen') == 'ok', 'the lock ended')
        wait_until(lambda: ask(b, 'try 100') == 'ok', 5, 'the end of a lock of an open file')
        finish(a, b, home)


def dropping():
    """A worker dies while its kernel waits, with the pages to drop for an unlock, for one that home does
    not bring."""
    with Cluster(3) as c:
        seen = paths(c, 'file')
        a, reader = program('obey', seen[0]), program('obey', seen[0])
        check(ask(a, 'try') == 'ok', 'it is not free')
        check(ask(reader, 'unlock 500') == 'ok', 'it did not begin')  # it has the file open by now
        c.must('pause', 'n3')
        for process, word in ((reader, 'read'), (a, 'unlock')):
            process.stdin.write(word + '\n')
            process.stdin.flush()
            time.sleep(0.3)
        wait_until(lambda: c.facts(1)['cluster']['notifier']['oldest_seconds'] > 0.1, 5, 'a blocked word')
        before = worker_of(c, 'n1')
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: worker_of(c, 'n1') not in (None, before), 10, 'another worker')
        c.must('resume', 'n3')
        check(a.stdout.readline().strip() == 'ok', 'no unlock')
        check(reader.stdout.readline().split() == [chr(0), '4096'], 'the read failed')
        finish(a, reader)


def dead_node():
    """The locks of a node that died end when its home has had enough patience."""
    with Cluster(3) as c:
        seen = paths(c, 'file')
        a, b = program('obey', seen[0]), program('obey', seen[1])
        check(ask(a, 'try') == 'ok' and ask(b, 'try') == 'EAGAIN', 'no exclusion')
        begun = time.monotonic()
        c.must('kill', 'n1')
        check(ask(b, 'try') == 'EAGAIN', 'a lock ended as soon as its node seemed to be gone')
        check(ask(b, 'wait') == 'ok', 'the lock of a dead node stays')
        say(f'the lock of a dead node ended after {time.monotonic() - begun:.1f} s')
        check(time.monotonic() - begun < 60, 'it took too long')
        a.kill()
        a.wait()
        finish(b)


if __name__ == '__main__':
    PROGRAMS = {'count': count, 'hand_on': hand_on, 'obey': obey, 'insert': insert}
    if len(sys.argv) > 1 and sys.argv[1] in PROGRAMS:
        PROGRAMS[sys.argv[1]](*sys.argv[2:])
    else:
        main({'all': all_of_it, 'databases': databases, 'worker_killed': worker_killed,
              'dropping': dropping, 'dead_node': dead_node})
