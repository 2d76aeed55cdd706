# SPDX-License-Identifier: BSD-3-Clause
"""What bench/alloc/run measures, and what each case has to show."""
import dataclasses
import statistics
import subprocess

ALLOCATORS = ('btd', 'btd_pool', 'pmemobj', 'pmemobj_pool', 'mimalloc', 'jemalloc', 'tcmalloc', 'glibc')
R, P, DRAM, POOL = 'btd', 'btd_pool', 'pmemobj', 'pmemobj_pool'
TITLES = {R: 'libbtd R', P: 'libbtd P', DRAM: 'libpmemobj, OID in DRAM', POOL: 'libpmemobj, OID in pool'}
MILLION = 1000000


def row(name, values, goal=None, at_most=False, against='', unit='', ours=None, other=None,
        our_counts=None, other_counts=None, allocator=None):
    """A line of the table: the median of the values, against the goal if there is one. `allocator`:
    whose figure it is, where each has its own."""
    full = f'{name}: {TITLES.get(allocator, allocator)}' if allocator else name
    return {'name': full, 'figure': name, 'allocator': allocator,
            'against': against, 'unit': unit, 'ours': ours, 'other': other,
            'ratio': statistics.median(values), 'low': min(values), 'high': max(values),
            'rounds': len(values), 'goal': goal, 'at_most': at_most, 'our_counts': our_counts,
            'other_counts': other_counts}


@dataclasses.dataclass
class Speed:
    """A workload under several allocators. `against`: (ours, other, least ratio or None)."""
    name: str
    args: tuple
    against: tuple
    title: str = ''     # of the rows; the contract is put before it
    contract: str = 'P'    # of what the program of P and T runs
    inverse: bool = False  # the goal is about time: at most so many times the other's
    per_op: tuple = ()  # (figure of P's output, what it is, greatest value)

    def has_goal(self):
        return any(goal is not None for _, _, goal in self.against)

    def pairs(self, bench):
        return [(a, b, goal) for a, b, goal in self.against
                if goal is not None or not bench.options.quick or bench.options.only]

    def measure(self, bench):
        pairs = self.pairs(bench)
        names = [n for n in ALLOCATORS if n in bench.programs
                 and any(n in (a, b) for a, b, _ in pairs)]
        counts = {}
        for n in list(names):  # first of all: an allocator that cannot do it is left out
            with bench.noting(self.name, lambda n=n: names.remove(n)):
                counts[n] = bench.counted(n, self.args)
        rates = {n: [] for n in names}  # of each round
        last = {}
        for _ in range(bench.options.rounds if self.has_goal() else min(3, bench.options.rounds)):
            seen = {n: [] for n in names}
            for n in [*names, *reversed(names)]:
                result = bench.visit(n, *self.args, '--seconds', bench.options.seconds)
                seen[n].append(result['ops'] / result['seconds'])
                last[n] = result
            for n in names:
                rates[n].append(statistics.median(seen[n]))
        rows = [self.ratio_row(a, b, goal, rates, counts) for a, b, goal in pairs
                if a in names and b in names]
        rows += [row(f'{title}, {self.title or self.name}', [round(last[P][key], 2)], most, True,
                     unit='a call, to hundredths, housekeeping included')
                 for key, title, most in self.per_op if P in last]
        return rows, {n: statistics.median(rates[n]) for n in names}

    def ratio_row(self, a, b, goal, rates, counts):
        ratios = [y / x if self.inverse else x / y for x, y in zip(rates[a], rates[b])]
        contract = {R: 'R', P: self.contract}[a]
        return row(f'{contract}, {self.title or self.name}', ratios, goal, self.inverse,
                   against=TITLES.get(b, b) + (' (time)' if self.inverse else ''),
                   ours=statistics.median(rates[a]), other=statistics.median(rates[b]),
                   our_counts=counts[a], other_counts=counts[b])


@dataclasses.dataclass
class Lines:
    """Lines and fences of a btd_malloc that takes fresh memory."""
    bytes: int
    most: float

    @property
    def name(self):
        return f'lines of {self.bytes} bytes'

    def has_goal(self):
        return True

    def measure(self, bench):
        if R not in bench.programs:
            return [], None
        result = bench.visit(R, 'lines', '--bytes', self.bytes)
        return [row(f'R, {what} of a malloc of {self.bytes} bytes', [result[what] / result['ops']],
                    self.most, True, unit='an operation') for what in ('lines', 'fences')], None


@dataclasses.dataclass
class Figures:
    """Figures of one workload, of each allocator; those of libbtd may have goals."""
    name: str
    args: tuple
    figures: tuple  # (title, unit, greatest value or None, function of the output)
    allocators: tuple = ALLOCATORS

    def has_goal(self):
        return any(most is not None for _, _, most, _ in self.figures)

    def measure(self, bench):
        rows = []
        for n in (n for n in self.allocators if n in bench.programs):
            if bench.options.quick and n not in (R, P):
                continue
            with bench.noting(self.name):
                rows += self.rows(n, bench.visit(n, *self.args))
        return rows, None

    def rows(self, n, result):
        found = ((title, unit, most, value(result)) for title, unit, most, value in self.figures)
        return [row(title, [value], most if n == R else None, True, unit=unit, allocator=n)
                for title, unit, most, value in found if value is not None]


def growth(result):
    return (max(result['files_after'], result['mapped_after']) -
            max(result['files_before'], result['mapped_before'])) / (1 << 20)


def restarts(bench, allocator, objects, times):
    """Milliseconds from opening to the first allocation (and to a root), after kill -9 each time."""
    with bench.pool() as pool:
        bench.run(allocator, 'fill', '--objects', objects, '--dir', pool, killed=True)
        seen = [bench.run(allocator, 'reopen', '--dir', pool, killed=True) for _ in range(times)]
        bench.run(allocator, 'reopen', '--objects', objects, '--dir', pool, '--verify', killed=True)
    return [s['open_ms'] for s in seen], [s['root_ms'] for s in seen]


class KillAndReopen:
    name = 'kill and reopen'
    FEW, MANY = 80000, 8 * MILLION

    def has_goal(self):
        return True

    def measure(self, bench):
        rows = []
        for n in (n for n in (R, DRAM) if n in bench.programs):
            if n == R or not bench.options.quick:
                with bench.noting(self.name):
                    rows += self.rows(bench, n)
        return rows, None

    def rows(self, bench, n):
        goal = 10 if n == R else None
        many, roots = restarts(bench, n, self.MANY, 5)
        few, _ = restarts(bench, n, self.FEW, 5)
        return [row('open to first malloc after kill -9, 8 M live', many, goal, True, unit='ms', allocator=n),
                row('open to first malloc after kill -9, 80 K live', few, goal, True, unit='ms', allocator=n),
                row('difference of the two',
                    [abs(statistics.median(many) - statistics.median(few))],
                    2 if n == R else None, True, unit='ms', allocator=n),
                row('open to root after kill -9, 8 M live', roots, unit='ms', allocator=n)]


@dataclasses.dataclass
class Mark:
    shape: str
    least: float = None  # marked objects a second and core
    threads: int = 1

    @property
    def name(self):
        return f'gc {self.shape}' + (f' with {self.threads} threads' if self.threads > 1 else '')

    def has_goal(self):
        return self.least is not None

    def measure(self, bench):
        if R not in bench.programs:
            return [], None
        objects = 2 * MILLION if bench.options.quick else 8 * MILLION
        seen = []
        for _ in range(3):
            with bench.pool() as pool:
                bench.run(R, 'fill', '--objects', objects, '--shape', self.shape, '--dir', pool, killed=True)
                seen.append(bench.run(R, 'gc', '--objects', objects, '--gc-threads', self.threads,
                                      '--dir', pool)['per_core'])
        return [row(f'marked objects, {self.name}', seen, self.least, unit='/s and core', allocator=R)], None


class ImageWhileAlive:
    """The pool is copied while a process allocates in it; the copy opens, and holds what was linked."""
    name = 'image while alive'
    OBJECTS = MILLION

    def has_goal(self):
        return False

    def measure(self, bench):
        rows = []
        for n in (n for n in (R, DRAM) if n in bench.programs):
            with bench.noting(self.name), bench.pool() as pool, bench.pool() as copy:
                seen = self.copy_and_open(bench, n, pool, copy)
                rows.append(row('open of an image copied while alive, 1 M live', [seen['open_ms']],
                                unit='ms', allocator=n))
        return rows, None

    def copy_and_open(self, bench, n, pool, copy):
        process = bench.start(n, 'hold', '--objects', self.OBJECTS, '--dir', pool, stdin=subprocess.PIPE)
        if process.stdout.readline() == 'ready\n':
            subprocess.run(['cp', '-r', '--sparse=always', pool + '/.', copy], check=True)
        bench.finish(process, False, f'alloc_{n} hold')  # closes its input first
        return bench.run(n, 'reopen', '--objects', self.OBJECTS, '--dir', copy, '--verify', killed=True)


ONE, SHARED, OWN = 'oneproc', 'twoproc', 'twoproc-own'  # workloads


class TwoProcesses:
    """Two processes on one heap, against one process and against two that share nothing: the latter
    is all that libpmemobj can do."""
    name = 'two processes'
    VISITS = (*((n, w) for n in (R, P) for w in (ONE, SHARED, OWN)), (DRAM, OWN), (POOL, OWN))

    def has_goal(self):
        return False

    def measure(self, bench):
        visits = [v for v in self.VISITS if v[0] in bench.programs]
        counts = {}
        for visit in list(visits):
            with bench.noting(self.name, lambda v=visit: visits.remove(v)):
                counts[visit] = bench.counted(visit[0], (visit[1],))
        rates = {v: [] for v in visits}  # of each round
        for _ in range(min(3, bench.options.rounds)):
            seen = {v: [] for v in visits}
            for visit in [*visits, *reversed(visits)]:
                result = bench.visit(*visit, '--seconds', bench.options.seconds)
                seen[visit].append(result['ops'] / result['seconds'])
            for visit in visits:
                rates[visit].append(statistics.median(seen[visit]))
        return [self.ratio_row(ours, other, title, rates, counts)
                for ours, other, title in self.pairs() if ours in rates and other in rates], None

    def pairs(self):
        for contract, ours, theirs in (('R', R, DRAM), ('P', P, POOL)):
            title = f'two processes on one heap, {contract}'
            for other in ((ours, ONE), (ours, OWN), (theirs, OWN)):
                yield (ours, SHARED), other, title

    def ratio_row(self, ours, other, title, rates, counts):
        with_what = {ONE: 'one process', OWN: 'two, a heap each'}[other[1]]
        return row(title, [x / y for x, y in zip(rates[ours], rates[other])],
                   against=f'{TITLES[other[0]]}, {with_what}',
                   ours=statistics.median(rates[ours]), other=statistics.median(rates[other]),
                   our_counts=counts[ours], other_counts=counts[other])


def volatile(goals=None):
    """R against everybody, P against the form of libpmemobj that promises the same."""
    goals = goals or {}
    return tuple((R, n, goals.get(n)) for n in ('mimalloc', 'jemalloc', 'tcmalloc', 'glibc', DRAM)) + (
        (P, POOL, None),)


def threads(n):
    return f'{n} thread{"s" if n > 1 else ""}'


THREADTEST = {'mimalloc': 0.75, 'jemalloc': 1.3, DRAM: 40}
OTHERS = {'jemalloc': 1.0, DRAM: 40}
P_CALL = (('alloc_lines', 'lines of a malloc_to', 2), ('alloc_fences', 'fences of a malloc_to', 1),
          ('free_lines', 'lines of a free_from', 2), ('free_fences', 'fences of a free_from', 1))

CASES = [
    *(Speed(f'threadtest 64 B, {threads(n)}', ('threadtest', '--threads', n), volatile(THREADTEST))
      for n in (1, 2)),
    *(Speed(f'{w}, {threads(n)}', (w, '--threads', n), volatile(OTHERS))
      for w, n in (('larson', 1), ('larson', 2), ('shbench', 1), ('shbench', 2), ('prod-con', 2))),
    *(Speed(f'{w}, {threads(n)}', (w, '--threads', n), volatile())
      for w, n in (('xmalloc-test', 2), ('linux-scalability', 1), ('linux-scalability', 2))),
    Speed('mstress, 2 threads', ('mstress', '--threads', 2), volatile()[:-1]),
    *(Speed(f'nvm_malloc {w}', (w,), volatile())
      for w in ('fastalloc', 'alloc_free', 'alloc_free_alloc', 'linkedlist')),
    *(Lines(size, most) for size, most in ((64, 0.001), (1024, 0.016), (8192, 0.06))),
    Speed('publish-list', ('publish-list',), ((P, POOL, 4),), per_op=P_CALL),
    Speed('publish32', ('publish32',), ((P, POOL, 4),), title='publish of 32 at once'),
    Speed('publish32-link', ('publish32-link',), ((P, POOL, None),), title='publish of 32 and their links'),
    Speed('tx', ('tx',), ((P, POOL, 4),), title='one link and one allocation', contract='T'),
    Speed('tx-content', ('tx-content',), ((P, POOL, None),), title='the same with 64 bytes of content',
          contract='T'),
    Speed('churn', ('churn',), ((R, DRAM, 1.5), (R, 'mimalloc', None)), title='1 MiB, 100,000 rounds',
          inverse=True),
    Figures('churn growth', ('churn',),
            (('growth in 100,000 rounds of 1 MiB', 'MiB', 1, growth),)),
    Figures('space', ('space',),
            (('segments in use / requested, 10 M objects of 64 B', '', 1.03, lambda r: r.get('mapped_ratio')),
             ('files or resident / requested, the same', '', 1.03, lambda r: r['files_ratio']))),
    Figures('fragment', ('fragment',),
            (('taken / live, 87.5 % of 64 B freed', '', None, lambda r: r['freed_ratio']),
             ('taken / live, and resized to 200 B', '', None, lambda r: r['resized_ratio']))),
    TwoProcesses(),
    KillAndReopen(),
    ImageWhileAlive(),
    Figures('nvm_malloc recovery', ('recovery',),
            (('nvm_malloc recovery, open', 'ms', None, lambda r: r['open_ms']),), (P, POOL)),
    Mark('tree', 20 * MILLION), Mark('scattered'), Mark('typed'), Mark('list'), Mark('tree', threads=2),
]
