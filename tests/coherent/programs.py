#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Programs that know nothing of nodes, on coherent files that several nodes use at the same time: fsx
that takes turns between two mounts, SQLite whose log of writes is shared memory, and LMDB."""
import os
import sqlite3
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'cluster'))
from coherent import Mounts, finish  # noqa: E402
from mountlib import BUILD, Skip, check, main, must, program, say, wait_until  # noqa: E402

LMDB = os.environ.get('BTD_LMDB') or os.path.join(BUILD, 'tests', 'coherent', 'lmdb_counts')
SECONDS = float(os.environ.get('BTD_PROGRAM_SECONDS', '4'))


def together(commands):
    """What they print, each run by a process of its own at the same time."""
    users = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
             for words in commands]
    return [finish(user, SECONDS) for user in users]


def known_to_all(c, name):
    """An empty file, made by node 1."""
    paths = c.paths(name)
    open(paths[0], 'x').close()
    for path in paths[1:]:
        wait_until(lambda p=path: os.path.exists(p), 5, path)
    return paths


def fsx():
    """One file, one model of it, and each operation by one of two nodes; the home is one of them, or neither."""
    with Mounts(3) as c:
        for seed, pair in (('1', (0, 1)), ('2', (1, 2))):
            paths = known_to_all(c, f'fsx{seed}')
            at, also = (paths[i] for i in pair)
            say('    ' + must(program('fsx', 'BTD_FSX'), at, '--also', also, '--max-size', 1 << 18, '--ops',
                              os.environ.get('BTD_FSX_OPS', '1500'), '--seed', seed, timeout=300).strip())


def add_rows(path, node, seconds):
    """A process of its own: transactions of this node, of which each adds a row; prints how many."""
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    mode = db.execute('PRAGMA journal_mode').fetchone()[0]
    check(mode == 'wal', f'the journal is {mode}')
    done, until = 0, time.monotonic() + float(seconds)
    while time.monotonic() < until:
        db.execute('BEGIN IMMEDIATE')
        (mine,) = db.execute('SELECT count(*) FROM t WHERE node = ?', (node,)).fetchone()
        check(mine == done, f'node {node} finds {mine} rows of its {done}')
        db.execute('INSERT INTO t (node, number) VALUES (?, ?)', (node, done))
        db.execute('UPDATE total SET n = n + 1')
        db.execute('COMMIT')
        done += 1
    db.close()
    print(done)


def sqlite():
    """WAL needs memory that all users share: its index is mapped. Other networked file systems can't."""
    with Mounts(3) as c:
        paths = c.paths('db')
        db = sqlite3.connect(paths[0])
        check(db.execute('PRAGMA journal_mode=wal').fetchone()[0] == 'wal', 'SQLite takes no WAL here')
        db.executescript('CREATE TABLE t (node INT, number INT); CREATE TABLE total (n INT);'
                         'INSERT INTO total VALUES (0);')
        db.close()
        wait_until(lambda: all(os.path.exists(p) for p in paths), 5, 'the database at all nodes')
        done = [int(text) for text in together([
            [sys.executable, os.path.abspath(__file__), 'add_rows', path, str(node), str(SECONDS)]
            for node, path in enumerate(paths, 1)])]
        db = sqlite3.connect(paths[1])
        check(db.execute('PRAGMA integrity_check').fetchone()[0] == 'ok', 'the database is damaged')
        (total,) = db.execute('SELECT n FROM total').fetchone()
        (rows,) = db.execute('SELECT count(*) FROM t').fetchone()
        db.close()
        check(total == rows == sum(done), f'{done} transactions, {rows} rows, total {total}')
        check(min(done) > 0, f'a node did nothing: {done}')
        say(f'    SQLite, WAL: {done} transactions of three nodes')


def lmdb():
    """Writes by calls, and by stores to its map, beside loads from the map on other nodes."""
    if not os.path.exists(LMDB):
        raise Skip('built without LMDB; apt install liblmdb-dev')
    with Mounts(3) as c:
        for how in ([], ['writemap']):
            paths = c.paths('lmdb' + ''.join(how))
            must(LMDB, paths[0], 0, 'n1', *how)  # makes it
            for name in paths + [f'{path}.lock' for path in paths]:
                wait_until(lambda p=name: os.path.exists(p), 5, name)
            texts = together([[LMDB, path, str(SECONDS), f'n{node}', *how]
                              for node, path in enumerate(paths, 1)])
            done = [int(text.split()[0]) for text in texts]
            last = max(int(text.split()[1]) for text in texts)
            check(last == sum(done), f'{done} transactions, and the last count is {last}')
            check(min(done) > 0, f'a node did nothing: {done}')


if __name__ == '__main__':
    if sys.argv[1:2] == ['add_rows']:
        add_rows(*sys.argv[2:])
    else:
        main({'fsx': fsx, 'sqlite': sqlite, 'lmdb': lmdb}, timeout=150)
