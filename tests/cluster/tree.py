#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""One tree: what a node changes in the namespace, the others show soon after the call returned,
whatever their kernels kept of it before."""
import ctypes
import errno
import os
import stat
import threading

from clusterlib import Seen, suite
from mountlib import SLOW, check, main, say, wait_until

NODES = (1, 2, 3)
NOREPLACE, EXCHANGE = 1, 2
AT_FDCWD = -100
LIBC = ctypes.CDLL(None, use_errno=True)


def others(node):
    return [n for n in NODES if n != node]


def renameat2(old, new, flags):
    if LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old)


def refused(code, call, *arguments):
    shown = f'{call.__name__}{arguments}'[:200]
    try:
        call(*arguments)
    except OSError as error:
        check(error.errno == code, f'{shown} gives {error}, not {errno.errorcode[code]}')
        return
    check(False, f'{shown} succeeds; it should give {errno.errorcode[code]}')


def write(path, data=b'', flags=0):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        check(os.write(fd, data) == len(data), f'a short write to {path}')
    finally:
        os.close(fd)


def read(path):
    with open(path, 'rb') as f:
        return f.read()


class Absent:
    """The attributes of a name that is not there: they equal nothing."""

    def __getattr__(self, _name):
        return float('nan')


def made(path):
    """Whether the directory is there, made now or before; False while nothing can be changed."""
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except OSError:
        return False
    return True


def status(path):
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def attributes(path):
    return status(path) or Absent()


def mode(path):
    found = status(path)
    return found.st_mode & 0o7777 if found else None


def in_threads(work, *sets):
    """Calls work(*arguments) for each set at the same time; their results."""
    results = [None] * len(sets)
    start = threading.Barrier(len(sets))

    def run(at):
        start.wait()
        try:
            results[at] = work(*sets[at])
        except BaseException as error:  # told by the caller
            results[at] = error
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(sets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class Tree:
    """A directory as all nodes show it, and waiting for a change."""

    def __init__(self, c, name, seen):
        self.c, self.name, self.seen = c, name, seen
        self.late = Seen()

    def at(self, node, *names):
        return self.c.path(node, self.name, *names)

    def warm(self, *names):
        """All kernels know the names, or that there are none, and the listings."""
        for node in NODES:
            for name in names:
                status(self.at(node, name))
                parent = os.path.dirname(self.at(node, name))
                if os.path.isdir(parent):
                    os.listdir(parent)

    def see(self, actor, what, look):
        """look(path of the directory) is true at the other nodes."""
        self.seen.wait(f'{what} by n{actor}',
                       *[lambda n=n: look(self.at(n)) for n in others(actor)])

    def names(self, actor, what, present=(), absent=()):
        """Lookups and listings show those names, and not these."""
        def look(base):
            for name in present:
                if status(os.path.join(base, name)) is None:
                    return False
            for name in absent:
                if status(os.path.join(base, name)) is not None:
                    return False
            listed = {}
            for name in (*present, *absent):
                parent = os.path.dirname(os.path.join(base, name))
                if parent not in listed:
                    listed[parent] = os.listdir(parent) if os.path.isdir(parent) else []
                if (os.path.basename(name) in listed[parent]) != (name in present):
                    return False
            return True
        self.see(actor, what, look)


def round_of_changes(t, node):
    """Every change of the namespace, once, by that node."""
    p = lambda name: t.at(node, name)
    t.warm('f', 'd', 's', 'h', 'moved', 'd/in')
    write(p('f'), b'12345')
    t.names(node, 'a new file', ['f'])
    t.see(node, 'its size', lambda b: attributes(f'{b}/f').st_size == 5)
    os.mkdir(p('d'), 0o750)
    t.names(node, 'a new directory', ['f', 'd'])
    t.see(node, 'the mode of a directory', lambda b: mode(f'{b}/d') == 0o750)
    os.symlink('f', p('s'))
    t.names(node, 'a symbolic link', ['s'])
    t.see(node, 'its target', lambda b: os.readlink(f'{b}/s') == 'f' and read(f'{b}/s') == b'12345')
    os.link(p('f'), p('h'))
    t.names(node, 'a second name', ['f', 'h'])
    t.see(node, 'the count of names', lambda b: attributes(f'{b}/f').st_nlink == 2
          and attributes(f'{b}/h').st_ino == attributes(f'{b}/f').st_ino)
    for bits in (0o600, 0o4711, 0o444):
        os.chmod(p('f'), bits)
        t.see(node, f'chmod {bits:o}', lambda b, m=bits: mode(f'{b}/h') == m)
    for bits in (0o700, 0o1777):
        os.chmod(p('d'), bits)
        t.see(node, f'chmod {bits:o} of a directory', lambda b, m=bits: mode(f'{b}/d') == m)
    os.chown(p('f'), 1234, 5678)
    t.see(node, 'chown', lambda b: (attributes(f'{b}/f').st_uid, attributes(f'{b}/f').st_gid) == (1234, 5678))
    for name in ('d', 's'):
        os.utime(p(name), ns=(1_000_000_007, 2_000_000_009), follow_symlinks=False)
        t.see(node, f'times of {name}',
              lambda b, n=name: attributes(f'{b}/{n}').st_mtime_ns == 2_000_000_009)
    # Those of a file are its backing file's: kernels keep them for a second, as they do its size.
    os.utime(p('f'), ns=(1_000_000_007, 2_000_000_009))
    t.late.wait('times of a file', *[lambda n=n: attributes(t.at(n, 'f')).st_mtime_ns == 2_000_000_009
                                     for n in others(node)], limit=1.5 * SLOW)
    for name in ('f', 'd'):
        os.setxattr(p(name), 'user.colour', b'green')
        t.see(node, 'an attribute', lambda b, n=name: 'user.colour' in os.listxattr(f'{b}/{n}')
              and os.getxattr(f'{b}/{n}', 'user.colour') == b'green')
        os.removexattr(p(name), 'user.colour')
        t.see(node, 'no attribute', lambda b, n=name: 'user.colour' not in os.listxattr(f'{b}/{n}'))
    round_of_moves(t, node)


def round_of_moves(t, node):
    p = lambda name: t.at(node, name)
    os.rename(p('h'), p('moved'))
    t.names(node, 'a move', ['moved'], ['h'])
    os.rename(p('moved'), p('d/in'))
    t.names(node, 'a move to another directory', ['d/in'], ['moved'])
    write(p('other'), b'over')
    t.names(node, 'a new file', ['other'])
    os.rename(p('other'), p('f'))
    t.names(node, 'a move over a file', ['f'], ['other'])
    t.see(node, 'the file that took the name', lambda b: read(f'{b}/f') == b'over')
    t.see(node, 'one name less', lambda b: attributes(f'{b}/d/in').st_nlink == 1)
    os.mkdir(p('empty'))
    os.mkdir(p('full'))
    write(p('full/x'))
    t.names(node, 'directories', ['empty', 'full', 'full/x'])
    refused(errno.ENOTEMPTY, os.rename, p('empty'), p('full'))
    os.rename(p('full'), p('empty'))
    t.names(node, 'a move over a directory', ['empty', 'empty/x'], ['full'])
    renameat2(p('f'), p('empty'), EXCHANGE)
    t.see(node, 'an exchange', lambda b: os.path.isdir(f'{b}/f')
          and read(f'{b}/empty') == b'over' and os.listdir(f'{b}/f') == ['x'])
    refused(errno.EEXIST, renameat2, p('s'), p('empty'), NOREPLACE)
    renameat2(p('s'), p('s2'), NOREPLACE)
    t.names(node, 'a move to a free name', ['s2'], ['s'])
    for name in ('empty', 's2', 'd/in', 'f/x'):
        os.unlink(p(name))
    t.names(node, 'unlink', ['d', 'f'], ['empty', 's2', 'd/in', 'f/x'])
    os.rmdir(p('d'))
    os.rmdir(p('f'))
    t.names(node, 'rmdir', [], ['d', 'f'])


def changes(c, name):
    """Each change is seen by the others, with warm caches of names, absent names and listings."""
    seen = Seen()
    for node in NODES:
        round_of_changes(Tree(c, name, seen), node)
    say(f'    {seen}')


def open_listings(c, name):
    """Listings that are open meanwhile give each name that stays exactly once."""
    t = Tree(c, name, Seen())
    stay = [f'stay{i:04}' for i in range(600)]
    for entry in stay:
        os.mkdir(t.at(1, entry))
    t.names(1, 'the last name', [stay[-1]])
    for actor, reader in ((1, 2), (2, 3), (3, 1)):
        with os.scandir(t.at(reader)) as listing:
            got = [next(listing).name for _ in range(50)]
            for i in range(120):
                os.mkdir(t.at(actor, f'new{i}'))
                if i % 2 == 0:
                    os.rmdir(t.at(actor, f'new{i}'))
            got += [entry.name for entry in listing]
        check(sorted(n for n in got if n.startswith('stay')) == stay,
              f'n{reader} lists {len(got)} names while n{actor} changes others')
        check(len(set(got)) == len(got), f'n{reader} lists names twice')
        for i in range(1, 120, 2):
            os.rmdir(t.at(actor, f'new{i}'))


def parents(c, name):
    """`..` of a directory that another node moved; a working directory that another node removed."""
    t = Tree(c, name, Seen())
    for node in NODES:
        for entry in ('a', 'b', 'a/moving', 'a/moving/deep'):
            os.mkdir(t.at(node, entry))
        t.names(node, 'directories', ['a/moving/deep'])
        reader = others(node)[0]
        here = os.open(t.at(reader, 'a', 'moving'), os.O_RDONLY | os.O_DIRECTORY)
        deep = os.open(t.at(reader, 'a', 'moving', 'deep'), os.O_RDONLY | os.O_DIRECTORY)
        os.rename(t.at(node, 'a', 'moving'), t.at(node, 'b', 'moving'))
        t.names(node, 'the move', ['b/moving', 'b/moving/deep'], ['a/moving'])
        b = status(t.at(node, 'b')).st_ino
        check(os.stat('..', dir_fd=here).st_ino == b, f'n{reader}: .. is the directory of before')
        def listed():
            with os.popen(f'cd {t.at(reader, "b", "moving")} && ls -ai') as f:
                return {line.split()[1]: int(line.split()[0]) for line in f}
        wait_until(lambda: listed()['..'] == b, 2, f'n{reader} lists .. as it is')
        os.rmdir(t.at(node, 'b', 'moving', 'deep'))
        t.seen.wait('the end of an open directory', lambda: os.fstat(deep).st_nlink == 0)
        refused(errno.ENOENT, lambda: os.mkdir('x', dir_fd=deep))
        check(os.listdir(deep) == [], 'a removed directory is not empty')
        os.close(deep)
        os.close(here)
        os.rmdir(t.at(node, 'b', 'moving'))
        os.rmdir(t.at(node, 'a'))
        os.rmdir(t.at(node, 'b'))
        t.names(node, 'nothing', [], ['a', 'b'])


def hard_links(c, name):
    """Names of one file made and removed by all nodes."""
    t = Tree(c, name, Seen())
    write(t.at(1, 'first'), b'shared')
    t.names(1, 'a file', ['first'])
    os.mkdir(t.at(2, 'sub'))
    os.link(t.at(2, 'first'), t.at(2, 'sub', 'second'))
    t.names(2, 'the second name', ['sub/second'])
    os.link(t.at(3, 'sub', 'second'), t.at(3, 'third'))
    t.names(3, 'the third name', ['third'])
    for node in NODES:
        check(status(t.at(node, 'first')).st_nlink == 3, f'n{node}: {status(t.at(node, "first"))}')
    os.unlink(t.at(3, 'first'))
    t.names(3, 'one name less', ['third'], ['first'])
    write(t.at(2, 'third'), b'SHARED')
    for node in NODES:
        check(read(t.at(node, 'sub', 'second')) == b'SHARED', f'n{node} reads another file')
    os.unlink(t.at(1, 'third'))
    t.names(1, 'one name less', ['sub/second'], ['third'])
    t.see(1, 'one name', lambda b: attributes(f'{b}/sub/second').st_nlink == 1)
    os.unlink(t.at(2, 'sub', 'second'))
    t.names(2, 'no name', ['sub'], ['sub/second'])


def lengths(c, name):
    """Names of all lengths, and of all bytes that a name may have."""
    t = Tree(c, name, Seen())
    names = [('%03d' % n * 86).encode()[:n] for n in range(1, 256)]
    names += [b'byte-' + bytes([n]) for n in range(1, 256) if n != ord('/')]
    names += ['\u00e4\u6f22\U0001f600'.encode(), b'.hidden', b'...', b' ', b'-rf', b'a\\b']
    names = sorted(set(names))
    base = lambda node: os.fsencode(t.at(node))
    for at, entry in enumerate(names):
        os.mkdir(os.path.join(base(at % 3 + 1), entry))
    for node in NODES:
        t.seen.wait('all names', lambda n=node: sorted(os.listdir(base(n))) == names, limit=SLOW)
        for entry in names:
            check(stat.S_ISDIR(os.lstat(os.path.join(base(node), entry)).st_mode), f'{entry}')
        refused(errno.ENAMETOOLONG, os.mkdir, os.path.join(base(node), b'x' * 256))
        refused(errno.ENAMETOOLONG, os.lstat, os.path.join(base(node), b'x' * 256))


def fill(t, node, count):
    for i in range(count):
        if i % 2 == 0:
            os.mknod(t.at(node, f'{node}-{i}'), 0o600 | stat.S_IFREG)
        else:
            os.symlink(f'{i}', t.at(node, f'{node}-{i}'))


def many(c, name):
    """5,000 entries of one directory, made by three nodes at once and listed by all meanwhile."""
    t = Tree(c, name, Seen())
    each = 5000 // 3 + 1
    done = threading.Event()
    odd = []

    def watch(node):
        before = set()
        while not done.is_set():
            names = os.listdir(t.at(node))
            if len(set(names)) != len(names):
                odd.append(f'n{node} lists a name twice')
            if not before <= set(names):
                odd.append(f'n{node} lost {sorted(before - set(names))[:3]} of {len(before)}')
            before = set(names)
    watcher = threading.Thread(target=in_threads, args=(watch, (1,), (2,), (3,)))
    watcher.start()
    results = in_threads(fill, *[(t, node, each) for node in NODES])
    done.set()
    watcher.join()
    check(results == [None] * 3, f'{results}')
    check(not odd, '; '.join(odd[:4]))
    expected = sorted(f'{node}-{i}' for node in NODES for i in range(each))
    for node in NODES:
        t.seen.wait(f'all names at n{node}', lambda n=node: sorted(os.listdir(t.at(n))) == expected, limit=SLOW)
        with os.scandir(t.at(node)) as listing:
            kinds = {entry.name: entry.is_symlink() for entry in listing}
        check(all(kinds[n] == (int(n.split('-')[1]) % 2 == 1) for n in expected), 'types are wrong')


def one_wins(c, name):
    """Of three nodes that want the same name at the same time, one gets it."""
    t = Tree(c, name, Seen())

    def attempt(call, *arguments):
        try:
            call(*arguments)
            return 0
        except OSError as error:
            return error.errno
    for i in range(60):
        for make in (os.mkdir, lambda p: write(p, b'x', os.O_EXCL), lambda p: os.symlink('x', p)):
            got = in_threads(lambda n, m=make: attempt(m, t.at(n, 'wanted')), *[(n,) for n in NODES])
            check(sorted(got) == [0, errno.EEXIST, errno.EEXIST], f'round {i}: {got}')
            remove = os.rmdir if make is os.mkdir else os.unlink
            # A node that lost may not have been told of the winner's name yet.
            t.seen.wait('the name', *[lambda n=n: status(t.at(n, 'wanted')) is not None for n in NODES])
            got = in_threads(lambda n, r=remove: attempt(r, t.at(n, 'wanted')), *[(n,) for n in NODES])
            check(sorted(got) == [0, errno.ENOENT, errno.ENOENT], f'round {i}: removing gives {got}')
            t.seen.wait('no name', *[lambda n=n: status(t.at(n, 'wanted')) is None for n in NODES])


def fresh_attributes(c, name):
    """A change that comes while another node looks the name up for the first time is not missed."""
    t = Tree(c, name, Seen())
    for i in range(150):
        actor = NODES[i % 3]
        entry = f'd{i}'
        stop = threading.Event()

        def look(node, e=entry, s=stop):
            while not s.is_set():
                status(t.at(node, e))
                os.listdir(t.at(node))
        lookers = threading.Thread(target=in_threads, args=(look, *[(n,) for n in others(actor)]))
        lookers.start()
        os.mkdir(t.at(actor, entry), 0o700)
        os.chmod(t.at(actor, entry), 0o751)
        os.mkdir(t.at(actor, entry, 'child'))
        stop.set()
        lookers.join()
        t.see(actor, f'the mode of {entry}',
              lambda b, e=entry: mode(f'{b}/{e}') == 0o751)
        t.see(actor, f'what {entry} holds', lambda b, e=entry: attributes(f'{b}/{e}').st_nlink == 3)
        t.see(actor, f'the listing of {entry}', lambda b, e=entry: os.listdir(f'{b}/{e}') == ['child'])
        os.rmdir(t.at(actor, entry, 'child'))
        os.rmdir(t.at(actor, entry))
        t.names(actor, f'no {entry}', [], [entry])
    say(f'    {t.seen}')


CHECKS = [changes, open_listings, parents, hard_links, lengths, many, one_wins, fresh_attributes]

if __name__ == '__main__':
    main({'tree': suite(CHECKS)}, timeout=180)
