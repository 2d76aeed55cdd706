# SPDX-License-Identifier: BSD-3-Clause
"""A machine that lends its NVDIMM to another one is reset: QEMU is killed, and a new one boots on the
same NVDIMM. The other machine reads and writes all the time, over both engines. What it may see of each
word, and that each operation ends by its deadline, it judges itself (guest/reset_worker.cc); that
nothing acknowledged is lost is judged here, too, by what it had reported before.

A killed QEMU keeps what the guest stored to the NVDIMM, flushed or not, as with power cuts."""
import random
import time

from guest import Guest
from kernel import Kernel
from lab import Failed, built, check
from soft_roce import MODULES, card

ENGINES = ('tcp', 'verbs')
SLOTS = 64
SECONDS = 200
# So much each engine has done before the reset: each slot was written several times.
BEFORE = 4 * SLOTS
AFTER = 100


class Lent:
    """What an engine has acknowledged of each slot, and what was found after the reset."""

    def __init__(self, name):
        self.name = name
        self.acknowledged = {}
        self.found = {}
        self.count = self.after = 0
        self.back = None  # when the first slot was found

    def acknowledge(self, slot, version):
        check(version > self.acknowledged.get(slot, 0),
              f'{self.name}: version {version} of slot {slot} was acknowledged after '
              f'{self.acknowledged.get(slot, 0)}')
        self.acknowledged[slot] = version
        self.count += 1
        self.after += bool(self.found)

    def find(self, slot, oldest, newest):
        """A slot may hold words of a write that was not acknowledged, never of one before the last
        that was."""
        least = self.acknowledged.get(slot, 0)
        check(least <= oldest <= newest,
              f'{self.name}: version {least} of slot {slot} was acknowledged, and {oldest} to '
              f'{newest} is there')
        check(slot not in self.found, f'{self.name}: slot {slot} was verified twice')
        self.found[slot] = newest
        self.back = self.back or time.monotonic()

    def take(self, report):
        numbers = [int(word) for word in report.rest.split()]
        if report.kind == 'ack':
            self.acknowledge(*numbers)
        else:
            self.find(*numbers)

    def judge(self):
        check(set(self.found) == set(range(SLOTS)),
              f'{self.name}: only {len(self.found)} of {SLOTS} slots were verified')
        check(self.after >= AFTER,
              f'{self.name}: only {self.after} writes were acknowledged after the reset')


class Reader:
    """The guest that works, and what it has reported."""

    def __init__(self, bench, guest):
        self.bench, self.guest = bench, guest
        self.lent = {name: Lent(name) for name in ENGINES}
        self.is_done = False

    def take(self, report):
        check(report, 'the reader ended without a verdict' + self.guest.last_words())
        if report.kind in ('ack', 'found'):
            self.lent[report.name].take(report)
        elif report.kind == 'fact':
            self.bench.facts[report.name] = report.rest
        elif report.kind == 'verdict':
            check(report.name == 'pass', report.rest + self.guest.last_words())
            self.is_done = True

    def read_until(self, condition, other):
        deadline = time.monotonic() + SECONDS
        try:
            while not condition():
                self.take(self.guest.report(deadline))
        except Failed as failure:
            raise Failed(f'{failure}\n  the other guest:{other.last_words()}') from failure

    def has_worked(self):
        return all(lent.count >= BEFORE for lent in self.lent.values())


def node_reset(bench):
    kernel = Kernel('passthrough')
    tree = bench.initramfs(kernel, [*MODULES, 'virtio_net', 'nfit', 'nd_pmem', 'dax_pmem',
                                    'device_dax'],
                           [built('tests/vm/reset_load'), 'ndctl', 'ip', 'rdma'], verbs=True)
    nvdimm = bench.nvdimm()
    moment = random.Random(bench.options.seed).uniform(0, 0.5)

    def boot(role, cable, number, **more):
        return Guest(bench.folder, kernel, tree, {'case': 'node_reset', 'role': role},
                     network=card(bench, cable, number), processors=1, memory_mb=512, **more)

    # The cable is the reader's: it stays when the other guest goes.
    with boot('reader', 'server', 2) as guest:
        guest.read_to('up', SECONDS)
        reader = Reader(bench, guest)
        with boot('memory', 'client', 1, nvdimm=nvdimm) as memory:
            reader.read_until(reader.has_worked, memory)
            for report in guest.pause_reading(moment):
                reader.take(report)
            memory.cut()
        cut = time.monotonic()
        before = sum(lent.count for lent in reader.lent.values())
        bench.say('the memory was reset')
        with boot('memory', 'client', 1, nvdimm=nvdimm) as memory:
            reader.read_until(lambda: reader.is_done, memory)
    for lent in reader.lent.values():
        lent.judge()
    # By this machine's clock: an emulated one may go wrong under load.
    figures = '; '.join(f'{lent.name} away for {lent.back - cut:.1f} s: '
                        f'{bench.facts[f"{lent.name}_figures"]}' for lent in reader.lent.values())
    return f'{before} writes were acknowledged before the reset, and all are there; {figures}'
