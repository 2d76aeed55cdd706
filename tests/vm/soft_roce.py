# SPDX-License-Identifier: BSD-3-Clause
"""RDMA without hardware: rdma_rxe over a veth pair in one guest, or over a network between two. The
place where the project's suite of transports over verbs runs, where the build has it."""
import os

from guest import Guest
from kernel import Kernel
from lab import BUILD, Skip, check

# In one guest, and between two, where the second program is what the first drives in the other one.
SUITE = ['tests/net/net_verbs_test']
PAIR_SUITE = ['tests/net/net_pair_test', 'tests/net/net_peer']
# Writes that take no processor of the peer: two tests are about those that do.
SKIPPED = '2'
PROGRAMS = ['ibv_rc_pingpong', 'ib_write_lat', 'ib_read_lat']
# The checksum first: rxe only finds it when it is loaded, and names no module.
MODULES = ['crc32_generic', 'rdma_rxe', 'rdma_ucm', 'ib_uverbs']
# The suite of transports may take most of it.
SECONDS = 300


def programs(suite):
    """The programs of a suite, or nothing."""
    paths = [os.path.join(BUILD, path) for path in suite]
    return paths if all(os.path.exists(path) for path in paths) else []


def initramfs(bench, kernel, suite, *more_modules):
    return bench.initramfs(kernel, [*MODULES, *more_modules],
                           ['ip', 'rdma', 'ibv_devices', 'ndctl', *PROGRAMS, *programs(suite)],
                           verbs=True)


def judge(bench, suite):
    """Every program gave its figure; the reason of the verdict."""
    figures = []
    for name in PROGRAMS:
        check(bench.facts.get(name), f'{name} gave no figure')
        figures.append(f'{name} {bench.facts[name]}')
    text = ', '.join(figures)
    name = os.path.basename(suite[0])
    if not programs(suite):
        raise Skip(f'{name} is not built; Soft-RoCE itself works: {text}')
    check('PASSED' in bench.facts.get('suite', ''), f'{name} said "{bench.facts.get("suite")}"')
    check(bench.facts.get('suite_skipped') == SKIPPED,
          f'{name} skipped {bench.facts.get("suite_skipped")} tests, and {SKIPPED} should be')
    return f'{text}; {name}: {bench.facts["suite"]}, {SKIPPED} skipped'


def soft_roce(bench):
    kernel = Kernel('passthrough')
    with Guest(bench.folder, kernel, initramfs(bench, kernel, SUITE, 'veth'),
               {'case': 'soft_roce'}) as guest:
        bench.finish(guest, SECONDS)
    return judge(bench, SUITE)


def card(bench, role, number):
    """A card on a cable, which is a socket of this machine's file system."""
    side = 'server=on' if role == 'server' else 'server=off'
    return ['-netdev', f'stream,id=cable,{side},addr.type=unix,addr.path={bench.path("cable")}',
            '-device', f'virtio-net-pci,netdev=cable,mac=52:54:00:00:00:{number:02x}']


def soft_roce_pair(bench):
    kernel = Kernel('passthrough')
    tree = initramfs(bench, kernel, PAIR_SUITE, 'virtio_net')

    def boot(role, number):
        return Guest(bench.folder, kernel, tree, {'case': 'soft_roce_pair', 'role': role},
                     network=card(bench, role, number), processors=1, memory_mb=512)

    with boot('server', 1) as server:
        server.read_to('up', SECONDS)
        with boot('client', 2) as client:
            bench.finish(client, SECONDS)
    return judge(bench, PAIR_SUITE)


# What VerbsFlushTest writes to NVRAM, one after the other: where in the region, and how much.
FLUSHED = [(step * (320 << 10) + 8, length)
           for step, length in enumerate((8, 100, 5000, 64 << 10, 300 << 10))]


def has_flush():
    """Whether the build can; where it can, nothing is skipped."""
    with open(os.path.join(BUILD, 'CMakeCache.txt'), encoding='utf-8') as f:
        return 'BTD_HAVE_IBV_WR_FLUSH:INTERNAL=1\n' in f.read()


def judge_flush(facts):
    """The kernel made durable just what was written, and the suite passed."""
    for name in ('nvram', 'suite'):
        check('PASSED' in facts.get(name, ''), f'the suite said "{facts.get(name)}"')
    wanted = ' '.join(f'{at:x}+{length:x}' for at, length in FLUSHED)
    found = facts.get('flushed', '').strip()
    check(found == wanted, f'the kernel flushed "{found}" of NVRAM, and "{wanted}" was written')
    return (f'{len(FLUSHED)} writes into NVRAM, each flushed by the NIC and by no processor; '
            f'{os.path.basename(SUITE[0])}: {facts["suite"]}')


def soft_roce_flush(bench):
    if not programs(SUITE):
        raise Skip(f'{SUITE[0]} is not built; build the preset release')
    if not has_flush():
        raise Skip('the build\'s rdma-core has no ibv_wr_flush; ./bootstrap deps builds one that has '
                   'it, where the archive gives its source')
    kernel = Kernel('passthrough')
    tree = initramfs(bench, kernel, SUITE, 'veth', 'nfit', 'nd_pmem', 'dax_pmem', 'device_dax')
    with Guest(bench.folder, kernel, tree, {'case': 'soft_roce_flush'},
               nvdimm=bench.nvdimm()) as guest:
        bench.finish(guest, SECONDS)
    return judge_flush(bench.facts)
