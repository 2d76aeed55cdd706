#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A heap of libbtd on the mounts of a development cluster: programs (heap_program.cc) on its nodes
allocate, follow each other's pointers, free each other's blocks, lock, and are killed."""
import glob
import os
import select
import shutil
import signal
import subprocess
import time

from clusterlib import suite
from mountlib import BUILD, Skip, check, main, must, say, wait_until

PROGRAM = os.environ.get('BTD_HEAP_PROGRAM') or os.path.join(BUILD, 'tests', 'cluster', 'heap_program')
PATIENCE = 60


class Failed(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.code = text.split()[2 if text.startswith('error') else 0]


class Program:
    """One on a node; a command is a method, its answer the rest of the line."""

    def __init__(self, c, node, name):
        self.node, self.place = node, c.path(node, name)
        # The mounts are seen by all; a program needs no network of its own.
        self.process = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)

    def say(self, *words):
        self.process.stdin.write(' '.join(map(str, words)) + '\n')
        self.process.stdin.flush()

    def hear(self, seconds=PATIENCE):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        check(ready, f'the program on n{self.node} gives no answer in {seconds} s')
        line = self.process.stdout.readline().strip()
        if not line:
            raise Failed(f'died {self.process.wait()}')
        if line.split()[0] != 'ok':
            raise Failed(line)
        return line[3:]

    def __getattr__(self, command):
        def call(*words, seconds=PATIENCE):
            self.say(command, *words)
            return self.hear(seconds)
        return call

    def open(self, *options, heap='h', arena=32, seconds=PATIENCE):
        self.say('open', self.place, heap, arena, *options)
        return self.hear(seconds)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


class Programs:
    """A context manager: one on each of `nodes`, in a directory of that mode."""

    def __init__(self, c, name, *nodes, mode='coherent'):
        os.setxattr(c.path(1, name), 'user.btd.mode', mode.encode())
        for node in range(1, c.nodes + 1):
            wait_until(lambda n=node: os.getxattr(c.path(n, name), 'user.btd.mode') == mode.encode(),
                       5, f'the mode at n{node}')
        self.c, self.name = c, name
        self.all = [Program(c, node, name) for node in nodes]

    def __enter__(self):
        return self.all

    def __exit__(self, kind, value, trace):
        for program in self.all:
            program.end()

    def more(self, node):
        self.all.append(Program(self.c, node, self.name))
        return self.all[-1]


def refused_by(codes, call, *words, **options):
    """The sentence of a command that ends with one of these errors."""
    try:
        text = call(*words, **options)
    except Failed as error:
        check(error.code in codes, f'{error} instead of {codes}')
        return str(error)
    raise AssertionError(f'not refused but "{text}"; {codes} was due')


def refused(code, call, *words, **options):
    return refused_by((code,), call, *words, **options)


def home(c, name, arena, node, heap='h'):
    """As that node says, where the arena was just made."""
    return int(os.getxattr(c.path(node, name, heap, f'arena.{arena}'), 'user.btd.home'))


def pointers(c, name):
    """Allocated on one node, reached by a root and by pointers on the other, freed there."""
    with Programs(c, name, 1, 2) as (one, two):
        base = one.open()
        check(two.open() == base, 'the heap has another address on n2')
        block = one.malloc(5000)
        one.fill(block, 5000, 7)
        one.set_root('from-one', block)
        check(two.root('from-one') == block, 'n2 finds another address')
        two.check(block, 5000, 7)
        two.fill(block, 5000, 8)  # without any call: the mapping is coherent
        one.check(block, 5000, 8)
        two.free(block)
        refused('EINVAL', one.usable, block)
        refused('EINVAL', two.free, block)
        theirs = two.malloc(3000)
        two.fill(theirs, 3000, 9)
        one.map(theirs, 3000)
        one.check(theirs, 3000, 9)
        two.set_root('from-two', theirs)
        check(one.root('from-two') == theirs, 'n1 does not find the root of n2')
        for program in (one, two):
            program.problems()
            program.close()
        check(two.open().startswith(base) and two.stats().split()[2] == '1', 'it was not left clean')
        check(two.root('from-two') == theirs, 'the root is gone')
        two.check(theirs, 3000, 9)
        two.close()


def made_at_once(c, name):
    """Programs of two nodes that make one heap at the same time have one heap, and leave no lock."""
    with Programs(c, name, 1, 2) as (one, two):
        for i in range(8):
            for program in (one, two):
                program.say('open', program.place, f'h{i}', 32)
            base = one.hear()
            check(two.hear() == base, f'h{i} has another address on n2')
            block = one.malloc(100)
            one.fill(block, 100, i)
            one.set_root('root', block)
            check(two.root('root') == block, f'h{i} of n2 is another one')
            two.check(block, 100, i)
            for program in (one, two):
                program.close()
        names = sorted(f'h{i}' for i in range(8))
        for node in (1, 2):
            wait_until(lambda n=node: sorted(os.listdir(c.path(n, name))) == names, 5,
                       f'just the heaps at n{node}')


def local_first(c, name):
    """Each allocates from arenas that lie on its own node, whoever made the heap."""
    with Programs(c, name, 1, 2) as (one, two):
        base = int(one.open(), 16)
        two.open()
        arena = lambda at: (int(at, 16) - base) // (32 << 20)
        nodes = [int(os.getxattr(c.path(n, name), 'user.btd.node')) for n in (1, 2)]
        for program, node in zip((one, two), nodes):
            blocks = [program.malloc(300_000) for _ in range(200)]  # more than one arena
            homes = {home(c, name, arena(b), program.node) for b in blocks}
            check(homes == {node}, f'n{program.node} is node {node} and allocated on {homes}')
        one.close()
        two.close()
        # Alone on the node that did not make it.
        two.open()
        check(home(c, name, arena(two.malloc(100)), 2) == nodes[1], 'a lone n2 allocates on n1')
        two.close()


def remains(c, name):
    """A file that a crash left where the next arena comes, on another node, is no arena."""
    with Programs(c, name, 1, 2) as (one, two):
        base = int(one.open(), 16)
        two.open()
        count = int(two.stats().split()[0])
        with open(c.path(1, name, 'h', f'arena.{count}'), 'wb') as f:
            f.write(b'x' * 100_000)
        wait_until(lambda: os.path.exists(c.path(2, name, 'h', f'arena.{count}')), 5, 'the file at n2')
        arena = 0
        while arena < count:
            arena = (int(two.malloc(5 << 20), 16) - base) // (32 << 20)
        node = int(os.getxattr(c.path(2, name), 'user.btd.node'))
        check(home(c, name, count, 2) == node, f'arena.{count} lies on {home(c, name, count, 2)}')
        two.problems()
        one.close()
        two.close()


def spills(c, name):
    """When the pool of n2 is full, it goes on in arenas on n1 that nobody has, then in new ones there."""
    with Programs(c, name, 1, 2) as (one, two):
        base = int(one.open(), 16)
        blocks = [one.malloc(10 << 20) for _ in range(8)]
        two.open()
        left = sum(home(c, name, int(at.rsplit('.', 1)[1]), 1) == 0
                   for at in glob.glob(c.path(1, name, 'h', 'arena.*')))
        one.free(*blocks)
        one.close()
        where = {}

        def fill():
            while True:
                block = two.malloc(10 << 20)
                arena = (int(block, 16) - base) // (32 << 20)
                if arena not in where:
                    where[arena] = home(c, name, arena, 2)
        sentence = refused('ENOSPC', fill)
        mine = int(os.getxattr(c.path(2, name), 'user.btd.node'))
        homes = list(where.values())
        say(f'    arenas by home: {homes}; then {sentence}')
        own = homes.count(mine)
        check(homes == [mine] * own + [1 - mine] * (len(homes) - own) and own > 0,
              'not first its own, then those of n1')
        check(len(homes) - own > left, f'no new arena on n1, but the {left} that it had')
        two.problems()
        two.close()
    shutil.rmtree(c.path(2, name, 'h'))  # the others need room


def at_once(c, name):
    """Both allocate and free at the same time: no block overlaps another, all hold what was stored."""
    with Programs(c, name, 1, 2) as (one, two):
        one.open('process')
        two.open('process')
        for turn in range(3):
            one.say('several', 400, turn * 2)
            two.say('several', 400, turn * 2 + 1)
            mine, theirs = one.hear().split(), two.hear().split()
            ranges = sorted((int(a, 16), int(n)) for a, n, _ in (b.split(':') for b in mine + theirs))
            for (at, length), (following, _) in zip(ranges, ranges[1:]):
                check(at + length <= following, f'blocks overlap at {at:x}')
            one.look(*theirs)
            two.look(*mine)
            address = lambda blocks: [b.split(':')[0] for b in blocks]
            one.say('free', *address(theirs)[::2], *address(mine)[::2])
            two.say('free', *address(mine)[1::2], *address(theirs)[1::2])
            one.hear()
            two.hear()
        for program in (one, two):
            program.checkpoint()
        say(f'    n1 {one.stats()}; n2 {two.stats()}')
        for program in (one, two):
            program.problems()
            program.close()


def first_touch(c, name):
    """What another node adds later is mapped by the first load, if a program asked for that."""
    with Programs(c, name, 1, 1, 2) as (careless, one, two):
        one.open('touch')
        careless.open()
        two.open()
        blocks = [two.malloc(4 << 20) for _ in range(20)]  # two new arenas at least
        for i, block in enumerate(blocks):
            two.fill(block, 5000, i)
        for i, block in enumerate(blocks):
            one.check(block, 5000, i)
        refused('died', careless.check, blocks[-1], 5000, 19)
        check(careless.process.returncode == -signal.SIGSEGV, 'it did not die of SIGSEGV')
        # What is no heap's is the program's affair, as ever.
        refused('died', one.check, '0x10', 8, 0)
        check(one.process.returncode == -signal.SIGSEGV, 'the handler swallowed a fault')
        two.close()


def words(c, name):
    """Atomic operations and a mutex, between the nodes and between processes of one."""
    with Programs(c, name, 1, 1, 2) as programs:
        one, other, two = programs
        for program in programs:
            program.open('process', 'touch')
        word, mutex, guarded = one.calloc(4096), one.calloc(4096), one.calloc(4096)
        for program in programs:
            program.say('add', word, 200_000)
        for program in programs:
            program.hear()
        check(int(two.word(word)) == 600_000, f'{two.word(word)} of 600000 additions')
        start = time.monotonic()
        for program in programs:
            program.say('count', mutex, guarded, 1_000_000)
        for program in programs:
            program.hear()
        check(int(one.word(guarded)) == 3_000_000, f'{one.word(guarded)} of 3000000 counted')
        say(f'    3000000 lockings by three processes on two nodes: {time.monotonic() - start:.2f} s')
        one.lock(mutex)
        refused('EDEADLK', one.lock, mutex)
        refused('EBUSY', two.trylock, mutex)
        refused('ETIMEDOUT', two.timedlock, mutex, 200)
        refused('EPERM', two.unlock, mutex)
        two.say('lock', mutex)
        time.sleep(0.2)
        one.unlock(mutex)
        check(two.hear() == 'free', 'n2 did not get it')
        # Its holder dies.
        two.kill()
        check(one.timedlock(mutex, 5000) == 'died', 'nobody said that the holder died')
        one.unlock(mutex)
        check(other.lock(mutex) == 'free', 'the mutex is not as new')
        other.unlock(mutex)
        one.close()
        other.close()


def transactions(c, name):
    """A list by contract T that both change; then what one committed is there after its death."""
    with Programs(c, name, 1, 2) as (one, two):
        one.open()
        two.open()
        one.make_list('l')
        start = time.monotonic()
        one.say('push', 'l', 100, 0)
        two.say('push', 'l', 100, 100)
        one.hear()
        two.hear()
        say(f'    200 transactions by two nodes: {time.monotonic() - start:.2f} s')
        expected = f'200 {sum(range(200))}'
        for program in (one, two):
            check(program.list('l') == expected, f'n{program.node}: {program.list("l")}')
        one.say('pop', 'l', 60)
        two.say('pop', 'l', 60)
        one.hear()
        two.hear()
        check(one.list('l').split()[0] == '80', f'{one.list("l")} are left')
        for program in (one, two):
            program.checkpoint()
            program.problems()
            program.close()


def killed(c, name):
    """kill -9 on n2 amid transactions: n1 goes on with all that was committed; then the heap is
    recovered by one that opens it alone."""
    with (programs := Programs(c, name, 1, 2)) as (one, two):
        one.open()
        two.open()
        one.make_list('l')
        kept = 0
        for turn in range(3):
            two.say('push', 'l', 100_000, 0)
            time.sleep(0.3 + turn / 10)
            two.kill()
            one.push('l', 10, 0)  # takes the mutex from the dead, and what else it held
            one.checkpoint()
            count = int(one.list('l').split()[0])
            check(count > kept + 10, f'{count} nodes after {kept}')
            kept = count
            two = programs.more(2)
            two.open()
            check(int(two.list('l').split()[0]) == kept, 'the next one on n2 sees another list')
        say(f'    {kept} nodes')
        lost = two.malloc(1000)
        one.kill()
        two.kill()
        three = programs.more(2)
        three.open()
        check(int(three.list('l').split()[0]) == kept, 'after a recovery the list is another')
        refused('EINVAL', three.usable, lost)
        three.problems()
        three.close()


def checkpointed(c, name):
    """What n2 committed and only its kernel has, a checkpoint of n1 brings to the backing file."""
    with Programs(c, name, 1, 2) as (one, two):
        base = int(one.open(), 16)
        two.open()
        block = one.tx_alloc(4096)
        arena, at = divmod(int(block, 16) - base, 32 << 20)
        backing = os.getxattr(c.path(1, name, 'h', f'arena.{arena}'), 'user.btd.backing').decode()

        def stored():
            with open(os.path.join(c.pool(1), backing), 'rb') as f:
                return int.from_bytes(os.pread(f.fileno(), 8, at), 'little')
        for value in (17, 18):
            two.tx_set(block, value)
            say(f'    committed by n2: {value}; in the backing file: {stored()}')
            one.checkpoint()
            check(stored() == value, f'{stored()} is in the backing file, not {value}')
        one.close()
        two.close()


def opens(program):
    try:
        program.open()
    except Failed as error:
        check('EBUSY' in str(error), f'{error}')
        return False
    return True


def direct(c, name):
    """A direct heap is used on one node at a time; readers elsewhere acquire what was released."""
    with Programs(c, name, 1, 2, 2, mode='direct') as (one, two, reader):
        base = one.open()
        check('is open on node' in refused('EBUSY', two.open), 'it is not said why')
        check(reader.open('reader') == base, 'a reader has it at another address')
        blocks = [one.malloc(3 << 20) for _ in range(15)]  # more than one arena
        for seed in range(3):
            for block in blocks:
                one.fill(block, 20_000, seed)
                one.release(block, 20_000)
            for block in blocks:
                reader.acquire(block, 20_000)
                reader.check(block, 20_000, seed)
        refused('EROFS', reader.free, blocks[0])
        refused('EROFS', reader.malloc, 10)
        one.set_root('r', blocks[0])
        one.close()
        # Then the other node, whose stores go to the first.
        two.open()
        check(two.root('r') == blocks[0], 'n2 has another root')
        two.check(blocks[0], 20_000, 2)
        check('is open on node' in refused('EBUSY', one.open), 'it is not said why')
        two.fill(blocks[0], 20_000, 3)
        two.release(blocks[0], 20_000)
        check(one.open('reader') == base, 'n1 has it at another address')
        one.acquire(blocks[0], 20_000)
        one.check(blocks[0], 20_000, 3)
        one.close()
        two.kill()
        # The locks of a process that was killed go a moment after it. Then this recovers it.
        wait_until(lambda: opens(one), 10, 'the end of the locks of n2')
        check(one.root('r') == blocks[0], 'the root is gone')
        one.check(blocks[0], 20_000, 3)
        one.problems()
        one.close()


def away(c, name):
    """A node that is cut off: what lies there is an error, and no program hangs."""
    with Programs(c, name, 1, 2) as (one, two):
        one.open('touch')
        two.open()
        known, late = two.malloc(20 << 20), None
        one.map(known, 4096)
        while not late or int(late, 16) - int(known, 16) < 64 << 20:
            late = two.malloc(10 << 20)
        one.map(known, 4096)  # it knows how many arenas there are, and has not met the last ones
        c.must('partition', 'n2')
        start = time.monotonic()
        sentence = refused_by(('ETIMEDOUT', 'EHOSTUNREACH'), one.map, late, 4096)
        say(f'    {sentence} ({time.monotonic() - start:.1f} s)')
        start = time.monotonic()
        refused('died', one.check, known, 4096, 0, seconds=200)
        check(one.process.returncode == -signal.SIGBUS, 'it did not die of SIGBUS')
        say(f'    a load: SIGBUS after {time.monotonic() - start:.1f} s')
        c.must('heal')
        two.fill(known, 4096, 1)
        try:
            two.close()
        except Failed as error:  # its locks are lost if it was cut off for longer than they are kept
            check('EIO' in str(error), f'{error}')
            say(f'    {error}')


def example(c, name):
    """examples/shared.c on both nodes at once."""
    program = os.environ.get('BTD_EXAMPLE_SHARED') or os.path.join(BUILD, 'examples', 'shared')
    if not os.path.exists(program):
        raise Skip('the examples are not built')
    with Programs(c, name):
        place = lambda node: c.path(node, name)
        must(program, place(1), '0')
        both = [subprocess.Popen([program, place(n), '50'], stdout=subprocess.PIPE) for n in (1, 2)]
        for process in both:
            process.communicate(timeout=PATIENCE)
            check(process.returncode == 0, f'it ended with {process.returncode}')
        last = must(program, place(2), '0')
        check(last.strip() == '100', f'{last} of 100')


CHECKS = [pointers, made_at_once, local_first, remains, spills, at_once, first_touch, words, transactions, killed,
          checkpointed, direct, example]

if __name__ == '__main__':
    main({'heap': suite(CHECKS, '--size', '400M', nodes=2), 'away': suite([away], '--size', '400M', nodes=2)},
         timeout=390)
