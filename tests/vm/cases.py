# SPDX-License-Identifier: BSD-3-Clause
"""The cases, and what each demands of what its guest reported."""
import dataclasses
import os
import time

from guest import Guest
from initramfs import Initramfs
from kernel import Kernel
from lab import MIB, Skip, built, check
from node_reset import node_reset
from power_cut import power_cut
from soft_roce import soft_roce, soft_roce_flush, soft_roce_pair
from verbs_latency import verbs_latency
from zero_copy import zero_copy

NVDIMM_BYTES = 512 * MIB
NVDIMM_MODULES = ['nfit', 'nd_pmem', 'dax_pmem', 'fuse']


@dataclasses.dataclass
class Case:
    text: str
    run: object  # called with a Bench; returns the reason of its verdict
    quick: bool = True  # whether it belongs to the set that every change has to pass


class Bench:
    """What a case works with: a folder that is removed afterwards, options, and progress."""

    def __init__(self, folder, options, progress):
        self.folder = folder
        self.options = options
        self.progress = progress
        self.facts = {}

    def path(self, name):
        return os.path.join(self.folder, name)

    def say(self, text):
        self.progress.show(text)

    def initramfs(self, kernel, modules, programs=(), verbs=False):
        tree = Initramfs(kernel)
        tree.modules(modules)
        for program in programs:
            tree.program(program)
        if verbs:
            tree.verbs()
        return tree.write(self.path('initramfs'))

    def pool_initramfs(self, kernel, file_system):
        # The checksum first: the others only find it when they are loaded, and no module names it.
        return self.initramfs(kernel, ['crc32c_generic', file_system, *NVDIMM_MODULES],
                              [built('bin/btd'), built('tests/vm/power_load'),
                               built('tests/vm/dax_probe'), 'ndctl', f'mkfs.{file_system}'])

    def nvdimm(self):
        """A file that is all zero, as a new NVDIMM."""
        path = self.path('nvdimm')
        with open(path, 'wb') as f:
            f.truncate(NVDIMM_BYTES)
        return path

    def finish(self, guest, seconds):
        """Reads reports to the verdict. The facts go to self.facts; a verdict that is not "pass" is
        raised as what it is."""
        deadline = time.monotonic() + seconds
        while True:
            report = guest.report(deadline)
            check(report, 'the guest ended without a verdict' + guest.last_words())
            if report.kind == 'fact':
                self.facts[report.name] = report.rest
            elif report.kind == 'at':
                self.say(f'{report.name} {report.rest}')
            elif report.kind == 'verdict':
                if report.name == 'skip':
                    raise Skip(report.rest)
                check(report.name == 'pass', report.rest + guest.last_words())
                return

    def fact_is(self, name, *words):
        value = self.facts.get(name, '')
        for word in words:
            check(word in value, f'{name} is "{value}", and "{word}" should be in it')

    def fact_is_not(self, name, word):
        value = self.facts.get(name, '')
        check(value and word not in value, f'{name} is "{value}", and "{word}" should not be in it')


def demand_dax(bench):
    """The mapping is the memory itself, everybody agrees, and the daemon says so."""
    bench.fact_is('dax_passthrough', 'active')
    bench.fact_is('dax_nvram', 'DAX', 'cache-line flush', 'power loss')
    bench.fact_is('dax_statx', 'yes')
    # Other programs of the guest read files meanwhile.
    check(int(bench.facts.get('dax_page_cache_growth_mib', '32')) < 4,
          f'the page cache grew by {bench.facts.get("dax_page_cache_growth_mib")} MiB')
    bench.fact_is('dax_map_sync_backing', 'granted')
    check(bench.facts.get('dax_libpmem') == 'pmem',
          f'libpmem says "{bench.facts.get("dax_libpmem")}" of the backing file')


def demand_no_dax(bench):
    """The control: what demand_dax() asks for is not there where it cannot be."""
    bench.fact_is_not('plain_nvram', 'DAX')
    bench.fact_is('plain_statx', 'no')
    check(int(bench.facts.get('plain_page_cache_growth_mib', '0')) >= 28,
          'the page cache did not grow by what was touched')
    bench.fact_is('plain_map_sync_backing', 'refused')
    bench.fact_is('plain_libpmem', 'not pmem')


def dax(file_system):
    def run(bench):
        kernel = Kernel('passthrough')
        with Guest(bench.folder, kernel, bench.pool_initramfs(kernel, file_system),
                   {'case': 'dax', 'fs': file_system}, nvdimm=bench.nvdimm()) as guest:
            bench.finish(guest, 90)
        demand_dax(bench)
        demand_no_dax(bench)
        return (f'page cache +{bench.facts["dax_page_cache_growth_mib"]} MiB of 32 (without DAX '
                f'+{bench.facts["plain_page_cache_growth_mib"]}), MAP_SYNC by the backing file '
                f'{bench.facts["dax_map_sync_backing"]}; status: {bench.facts["dax_nvram"]}')
    return run


def heap_dax(bench):
    kernel = Kernel('passthrough')
    with Guest(bench.folder, kernel, bench.pool_initramfs(kernel, 'ext4'),
               {'case': 'dax', 'fs': 'ext4', 'heap': 'yes'}, nvdimm=bench.nvdimm()) as guest:
        bench.finish(guest, 90)
    demand_dax(bench)
    acknowledged = int(bench.facts['heap_acknowledged'])
    check(acknowledged > 20, f'only {acknowledged} operations were done before the kill')
    return (f'{bench.facts["heap"]} operations on the heap are whole, {acknowledged} were '
            f'acknowledged; {bench.facts["heap_check"]}')


def stock_kernel(bench):
    """Without passthrough there is no DAX to be had through the mount, and nobody may claim it."""
    kernel = Kernel('stock')
    with Guest(bench.folder, kernel, bench.pool_initramfs(kernel, 'ext4'), {'case': 'stock'},
               nvdimm=bench.nvdimm()) as guest:
        bench.finish(guest, 90)
    bench.fact_is('passthrough', 'off')
    bench.fact_is('stock_map_sync_backing', 'no descriptor')
    bench.fact_is('gives_up', 'the mount ends')
    return (f'Linux {kernel.version}: passthrough {bench.facts["passthrough"]}; '
            f'{bench.facts["files"]} operations on files and {bench.facts["heap"]} on a heap are '
            f'whole after a remount; of a killed worker a program sees '
            f'"{bench.facts["worker_killed"]}"')


CASES = {
    'ext4-dax': Case('a mount on ext4 -o dax on an NVDIMM: mappings are DAX, MAP_SYNC is granted',
                     dax('ext4')),
    'xfs-dax': Case('the same on xfs', dax('xfs')),
    'heap-dax': Case('a heap of libbtd on that mount: killed, opened again, checked', heap_dax),
    'stock-kernel': Case('a kernel without FUSE passthrough: what works, and what bartender says',
                         stock_kernel),
    'power-cut': Case('the power is cut at random moments under load; --cuts N, --seed N',
                      power_cut('ext4')),
    'soft-roce': Case('RDMA in software over a veth pair, and the suite of transports over verbs',
                      soft_roce),
    'soft-roce-pair': Case('the same between two guests', soft_roce_pair),
    'soft-roce-flush': Case("writes into NVRAM that the NIC's own flush makes durable",
                            soft_roce_flush),
    'verbs-latency': Case('latency over verbs beside perftest and a bare baseline; --rounds N',
                          verbs_latency, quick=False),
    'zero-copy': Case('sends without a copy over a card, from one guest to another; --rounds N',
                      zero_copy),
    'node-reset': Case('the guest that lends its NVDIMM is killed and boots again; --seed N',
                       node_reset),
    'power-cut-xfs': Case('the same on xfs', power_cut('xfs'), quick=False),
}
