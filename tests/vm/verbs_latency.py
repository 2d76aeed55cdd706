# SPDX-License-Identifier: BSD-3-Clause
"""Latency of the verbs engine over Soft-RoCE, beside perftest and a bare baseline on the same device.

What compares fairly: ib_read_lat is a whole round trip, as a read is. ib_write_lat is half a round trip of
plain writes, and its other end polls the memory; a write_persist ends when the writer knows that the bytes
are durable, which takes a whole one, so its counterpart is twice that. bench/net/verbs_bare.c posts what the
engine posts, and nothing else.

What else the machine does can only add to a figure, and to that of two programs that both spin it adds whole
time slices, so the ratio that counts is that of the best rounds; the rounds' own ratios are shown beside it."""
import dataclasses
import os
import statistics

from guest import Guest
from kernel import Kernel
from lab import built, check
from soft_roce import MODULES

BENCH = 'bench/net'
GOAL = 1.2
# Emulation on a busy machine is off by a half easily; only what is broken is a failure.
WORST = 4.0
SIZES = (64, 4096)
SECONDS_PER_ROUND = 180


@dataclasses.dataclass
class Measure:
    text: str
    ours: str
    # (text, program, how often it counts, whether the goal is of it)
    others: tuple


HALF = ('ib_write_lat: half a round trip, nothing durable', 'ib_write_lat', 1, False)
WHOLE = ('2 x ib_write_lat: a round trip', 'ib_write_lat', 2, True)
MEASURES = (
    Measure('read', 'read', (('ib_read_lat', 'ib_read_lat', 1, True),
                             ('bare READ', 'bare-read', 1, False))),
    Measure('write_persist, read behind', 'write+read',
            (HALF, WHOLE, ('bare WRITE and READ', 'bare-write+read', 1, False))),
    Measure('write_persist, acknowledged', 'write+ack',
            (HALF, WHOLE, ('bare WRITE and SEND, SEND back', 'bare-write+ack', 1, False))),
)


@dataclasses.dataclass
class Row:
    measure: str
    against: str
    ours: float
    other: float
    ratio: float
    median: float
    low: float
    high: float
    goal: float | None

    def cells(self):
        verdict = '' if self.goal is None else 'reached' if self.ratio <= self.goal else 'missed'
        return [self.measure, self.against, f'{self.ours:.1f} us', f'{self.other:.1f} us',
                f'{self.ratio:.2f}', f'{self.median:.2f}', f'{self.low:.2f} to {self.high:.2f}',
                '' if self.goal is None else f'<= {self.goal:.2f}', verdict]


def figures(facts, program, size, rounds):
    """Its typical time of every round."""
    found = [facts.get(f'{number}/{program}/{size}') for number in range(rounds)]
    check(all(found), f'{program} gave no figure for {size} bytes')
    return [float(figure) for figure in found]


def rows(facts, rounds):
    made = []
    for measure in MEASURES:
        for size in SIZES:
            ours = figures(facts, measure.ours, size, rounds)
            for text, program, times, has_goal in measure.others:
                other = [times * figure for figure in figures(facts, program, size, rounds)]
                ratios = [mine / its for mine, its in zip(ours, other)]
                made.append(Row(f'{measure.text}, {size} B', text, min(ours), min(other),
                                min(ours) / min(other), statistics.median(ratios), min(ratios),
                                max(ratios), GOAL if has_goal else None))
    return made


def table(made):
    head = ['measure', 'compared with', 'engine', 'other', 'ratio', 'median of rounds',
            'lowest to highest', 'goal', '']
    return ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head),
            *('| ' + ' | '.join(row.cells()) + ' |' for row in made)]


def judge(facts, rounds):
    """The reason of the verdict, with the table."""
    made = rows(facts, rounds)
    for row in made:
        check(row.goal is None or row.ratio <= WORST,
              f'{row.measure} takes {row.ratio:.1f} times as long as {row.against}')
    goals = [row for row in made if row.goal is not None]
    reached = sum(row.ratio <= row.goal for row in goals)
    return '\n'.join([f'{reached} of {len(goals)} goals reached in {rounds} rounds', *table(made)])


def verbs_latency(bench):
    rounds = bench.options.rounds
    kernel = Kernel('passthrough')
    programs = [built(os.path.join(BENCH, name)) for name in ('verbs_bench', 'verbs_bare')]
    tree = bench.initramfs(kernel, [*MODULES, 'veth'],
                           ['ip', 'rdma', 'chrt', 'ib_write_lat', 'ib_read_lat', *programs],
                           verbs=True)
    parameters = {'case': 'verbs_latency', 'rounds': rounds, 'iterations': 500}
    with Guest(bench.folder, kernel, tree, parameters) as guest:
        bench.finish(guest, rounds * SECONDS_PER_ROUND)
    return judge(bench.facts, rounds)
