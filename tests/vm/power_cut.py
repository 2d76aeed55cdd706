# SPDX-License-Identifier: BSD-3-Clause
"""Power cuts: QEMU is killed at random moments, and the next life of the machine must find every
operation that was acknowledged, and none that is half done.

A killed QEMU keeps what the guest stored to the NVDIMM, flushed or not, and loses all that was in the
guest's RAM: its page cache, its processes, the state of its file system that was not written. So this
tests recovery; that no flush is missing is proved by the emulator of alloc/."""
import random
import time

from guest import Guest
from kernel import Kernel
from lab import Failed, check

LOADS = ('files', 'heap')
LIFE_SECONDS = 300
# What was done may be unheard of: the serial port's queue, and one operation.
UNHEARD = 2048
# Each so many cuts, one comes while the machine still recovers from the last.
DURING_RECOVERY = 4


class Ledger:
    """How many operations of each load were acknowledged; judges what is found."""

    def __init__(self):
        self.acknowledged = dict.fromkeys(LOADS, 0)

    def acknowledge(self, report):
        count = int(report.rest)
        check(count > self.acknowledged[report.name],
              f'{report.name}: operation {count} was acknowledged after '
              f'{self.acknowledged[report.name]}')
        self.acknowledged[report.name] = count

    def judge(self, name, found):
        """What a life found of a load; it goes on from there, so that is acknowledged too."""
        expected = self.acknowledged[name]
        check(expected <= found <= expected + UNHEARD,
              f'{name}: {expected} operations were acknowledged, and {found} are there')
        self.acknowledged[name] = found
        return found - expected


class Statistics:
    def __init__(self):
        self.cuts = self.in_recovery = 0
        self.unheard = 0

    def text(self, ledger, seconds):
        operations = ', '.join(f'{ledger.acknowledged[name]} of {name}' for name in LOADS)
        return (f'{self.cuts} cuts, {self.in_recovery} of them during recovery: {operations} '
                f'acknowledged and whole; at most {self.unheard} more were done than heard of; '
                f'{seconds / max(1, self.cuts):.1f} s a cut')


class Life:
    """One boot of the machine, until its power is cut or it ends by itself."""

    def __init__(self, bench, guest, ledger, statistics):
        self.bench, self.guest = bench, guest
        self.ledger, self.statistics = ledger, statistics
        self.found = set()
        self.working = set()

    def take(self, report):
        """True at the verdict, which must be "pass"."""
        if report.kind == 'ack':
            self.ledger.acknowledge(report)
            self.working.add(report.name)
        elif report.kind == 'fact' and report.name in LOADS:
            unheard = self.ledger.judge(report.name, int(report.rest))
            self.statistics.unheard = max(self.statistics.unheard, unheard)
            self.found.add(report.name)
        elif report.kind == 'fact':
            self.bench.facts[report.name] = report.rest
        elif report.kind == 'verdict':
            check(report.name == 'pass', report.rest + self.guest.last_words())
            return True
        return False

    def read_until(self, condition, what):
        deadline = self.guest.begin + LIFE_SECONDS
        while not condition():
            report = self.guest.report(deadline)
            check(report, f'the guest ended before {what}' + self.guest.last_words())
            self.take(report)
            if report.kind == 'at' and report.name == what:
                return

    def cut(self, moment):
        """Reads on for `moment` seconds, kills the guest, and reads what it had said until then."""
        for report in self.guest.pause_reading(moment):
            self.take(report)
        for report in self.guest.cut():
            self.take(report)

    def to_the_end(self):
        deadline = self.guest.begin + LIFE_SECONDS
        while True:
            report = self.guest.report(deadline)
            check(report, 'the guest ended without a verdict' + self.guest.last_words())
            if self.take(report):
                check(self.found == set(LOADS), f'the last life only verified {self.found}')
                return


def power_cut(file_system):
    def run(bench):
        chance = random.Random(bench.options.seed)
        try:
            return cuts(bench, file_system, chance)
        except Failed as failure:
            raise Failed(f'{failure}\n    seed {bench.options.seed}') from failure
    return run


def cuts(bench, file_system, chance):
    begin = time.monotonic()
    kernel = Kernel('passthrough')
    initramfs, nvdimm = bench.pool_initramfs(kernel, file_system), bench.nvdimm()
    ledger, statistics = Ledger(), Statistics()

    def boot(**parameters):
        return Guest(bench.folder, kernel, initramfs,
                     {'case': 'power', 'fs': file_system, **ledger.acknowledged, **parameters},
                     nvdimm=nvdimm)

    for number in range(bench.options.cuts):
        bench.say(f'cut {number + 1} of {bench.options.cuts}, {ledger.acknowledged}')
        with boot(**({} if number else {'first': 'yes'})) as guest:
            life = Life(bench, guest, ledger, statistics)
            if number % DURING_RECOVERY == DURING_RECOVERY - 1:
                life.read_until(lambda: False, 'recover')
                life.cut(chance.uniform(0, 1.2))
                statistics.in_recovery += not life.working
            else:
                life.read_until(lambda l=life: l.working == set(LOADS), 'the loads worked')
                life.cut(chance.uniform(0, 1.0) ** 2)
            statistics.cuts += 1
    with boot(last='yes') as guest:
        Life(bench, guest, ledger, statistics).to_the_end()
    bench.facts.update(cuts=statistics.cuts, seed=bench.options.seed, **ledger.acknowledged)
    check(all(count > 10 * bench.options.cuts for count in ledger.acknowledged.values()),
          f'too little was done between the cuts: {ledger.acknowledged}')
    return statistics.text(ledger, time.monotonic() - begin)
