#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Random operations on a few names from three nodes at once, while networks are cut and processes
hang and die; each round's history is judged by linearizability.py.

BTD_HISTORY_ROUNDS and BTD_SEED set how many, and which."""
import errno
import os
import random
import stat
import threading
import time

import linearizability
from clusterlib import suite
from linearizability import Operation, refused
from mountlib import SLOW, check, say, main, wait_until
from tree import NODES, made, status

NAMES = ('a', 'b', 'c', 'd')
# What does not say whether the change was done.
DOUBT = {errno.EHOSTUNREACH, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNABORTED,
         errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.EBUSY}
ROUND_S = float(os.environ.get('BTD_HISTORY_ROUND_S', '3'))
JUDGE_S = 8 * SLOW  # many operations of unknown outcome are more than can be tried


def create(at, name):
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at))


def lookup(at, name):
    found = os.stat(name, dir_fd=at, follow_symlinks=False)
    return 'd' if stat.S_ISDIR(found.st_mode) else 'f'


CALLS = {'create': create, 'lookup': lookup,
         'mkdir': lambda at, name: os.mkdir(name, dir_fd=at),
         'unlink': lambda at, name: os.unlink(name, dir_fd=at),
         'rmdir': lambda at, name: os.rmdir(name, dir_fd=at),
         'link': lambda at, a, b: os.link(a, b, src_dir_fd=at, dst_dir_fd=at),
         'rename': lambda at, a, b: os.rename(a, b, src_dir_fd=at, dst_dir_fd=at)}
WEIGHTED = ('create', 'create', 'mkdir', 'unlink', 'unlink', 'rmdir', 'link', 'rename', 'rename',
            'lookup', 'lookup', 'lookup')


class Client(threading.Thread):
    """One process's operations at one node."""

    def __init__(self, c, directory, node, seed, until):
        super().__init__()
        self.base, self.node, self.until = c.path(node, directory), node, until
        self.chance = random.Random(seed)
        self.history, self.odd = [], []

    def run(self):
        while time.monotonic() < self.until:
            kind = self.chance.choice(WEIGHTED)
            names = tuple(self.chance.sample(NAMES, 2 if kind in ('link', 'rename') else 1))
            # Open, it is of one mount, whatever becomes of that.
            try:
                at = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:  # the node is dead
                time.sleep(0.02)
                continue
            try:
                self.once(at, kind, names)
            finally:
                os.close(at)
            time.sleep(self.chance.random() * 0.02)

    def once(self, at, kind, names):
        start = time.monotonic()
        try:
            answer = CALLS[kind](at, *names) or 'ok'
            code = 0
        except OSError as error:
            code = error.errno
        end = time.monotonic()
        if code == 0:
            self.history.append(Operation(self.node, kind, names, start, end, answer))
        elif kind == 'lookup':
            if code == errno.ENOENT:
                self.history.append(Operation(self.node, kind, names, start, end, 'absent'))
            elif code not in DOUBT:
                self.odd.append(f'lookup gives {errno.errorcode[code]}')
        elif code in DOUBT:
            self.history.append(Operation(self.node, kind, names, start, end, unknown=True))
        else:
            try:
                read = refused(self.node, kind, names, start, end, errno.errorcode[code])
            except KeyError:
                self.odd.append(f'{kind}{names} gives {errno.errorcode[code]}')
                return
            if read is not None:
                self.history.append(read)


def disturb(c, chance, until):
    """One fault after the other, each of which ends; their names."""
    done = []
    hosts = [f'n{n}' for n in NODES] + [f'etcd:{n}' for n in (1, 2, 3)]
    while time.monotonic() < until - 0.5:
        host = chance.choice(hosts)
        what = chance.choice(('partition', 'cut_between', 'pause', 'kill', 'worker'))
        seconds = chance.choice((0.05, 0.3, 1))
        done.append(f'{what} {host} {seconds} s')
        if what == 'worker':
            node = chance.choice(NODES)
            os.kill(c.worker(node), 9)
            time.sleep(seconds)
        elif what == 'partition':
            c.must('partition', host)
            time.sleep(seconds)
            c.must('heal')
        elif what == 'cut_between':
            other = chance.choice([h for h in hosts if h != host])
            c.must('partition', host, '--from', other)
            time.sleep(seconds)
            c.must('heal')
        else:
            c.must(what, host)
            time.sleep(seconds)
            c.must('resume' if what == 'pause' else 'start', host)
        time.sleep(chance.random() * 0.5)
    return done


def show(history, until):
    """What led to the first operation that cannot be explained."""
    last = linearizability.first_wrong(history)
    for o in sorted((o for o in history if o.start <= last.end), key=lambda o: o.end)[-60:] + [last]:
        say(f'    n{o.node} {o.start - until:9.4f} {o.end - until:9.4f} {o.name} '
            f'{" ".join(o.arguments)}: {"?" if o.unknown else o.answer} {o.note}')


def one_round(c, name, number, seed):
    directory = os.path.join(name, f'{number}')
    wait_until(lambda: made(c.path(1, directory)), 30, 'the start of a round')
    for node in NODES:
        wait_until(lambda n=node: exists(c.path(n, directory)), 20, f'the directory at n{node}')
    until = time.monotonic() + ROUND_S
    clients = [Client(c, directory, node, f'{seed}{number}{node}{i}', until)
               for node in NODES for i in range(2)]
    for client in clients:
        client.start()
    faults = disturb(c, random.Random(f'{seed}{number}'), until) if number > 0 else []
    for client in clients:
        client.join(60 * SLOW)
        check(not client.is_alive(), f'an operation at n{client.node} hangs after {faults}')
    history = [operation for client in clients for operation in client.history]
    odd = [text for client in clients for text in client.odd]
    check(not odd, f'{odd[:5]} with {faults}')
    judged = time.monotonic()
    try:
        wrong = linearizability.check(history, seconds=JUDGE_S)
    except linearizability.TooLong as reason:
        say(f'    round {number}: not judged, {reason}')
        return 0
    unknown = sum(o.unknown for o in history)
    say(f'    round {number}: {len(history)} operations, {unknown} of unknown outcome, judged in '
        f'{time.monotonic() - judged:.1f} s; {", ".join(faults)}')
    if wrong is not None:
        show(wrong, until)
        check(False, f'round {number} of seed {seed}: no order of {len(wrong)} operations explains it')
    return len(history)


def exists(path):
    try:
        return status(path) is not None
    except OSError:
        return False


def histories(c, name):
    """Changes are linearizable, reads never go back, under faults of every kind."""
    seed = os.environ.get('BTD_SEED', '1')
    rounds = int(os.environ.get('BTD_HISTORY_ROUNDS', '4'))
    judged = sum(one_round(c, name, number, seed) > 0 for number in range(rounds))
    check(judged > rounds // 2, f'only {judged} of {rounds} histories could be judged')
    # All nodes agree in the end.
    for number in range(rounds):
        wait_until(lambda n=number: len({tuple(sorted(
            (e.name, e.inode()) for e in os.scandir(c.path(node, name, f'{n}')))) for node in NODES}) == 1,
            10, f'the same names at all nodes of round {number}')


if __name__ == '__main__':
    main({'histories': suite([histories], '--etcd', '3')}, timeout=120)
