# SPDX-License-Identifier: BSD-3-Clause
"""Sends without a copy, over a card: from one guest to another, since the kernel copies on loopback
and between namespaces. What they save is told, not demanded: the processors are emulated."""
import json
import statistics

from guest import Guest
from kernel import Kernel
from lab import built, check

SIZES = (64 << 10, 256 << 10, 1 << 20)
SEND_BYTES = 1 << 20  # one takes so much
SECONDS = 60  # of a round, and of the boot


def card(bench, role, number):
    """One that gathers and splits what it sends, as real ones do: for one that can't, the kernel
    copies some packets into one piece."""
    side = 'server=on' if role == 'server' else 'server=off'
    return ['-netdev', f'stream,id=cable,{side},addr.type=unix,addr.path={bench.path("cable")}',
            '-device', f'e1000e,netdev=cable,mac=52:54:00:00:00:{number:02x}']


def figures(facts, rounds, setting, size):
    """What the client said in each round."""
    return [json.loads(facts[f'{setting}_{size}_{i}']) for i in range(rounds)]


def judge(facts, rounds, size):
    """The kernel refers to most of the bytes, and the ratios of a round's two visits."""
    with_copy, without = (figures(facts, rounds, setting, size) for setting in ('none', 'zero'))
    sends = sum(one['zero_copy_sends'] for one in without)
    copied = sum(one['zero_copies_copied'] for one in without)
    operations = sum(one['count'] for one in without)
    carried = sends * max(SEND_BYTES // size, 1)  # at most
    check(operations and all(one['count'] for one in with_copy), f'no write of {size} B was done')
    check(2 * carried > operations, f'{sends} sends without a copy carried {operations} writes of {size} B')
    check(2 * copied < sends, f'{copied} of {sends} sends were copied all the same')
    check(not any(one['zero_copy_sends'] for one in with_copy), 'who asked for none had some')
    ratios = {key: statistics.median(b[key] / a[key] for a, b in zip(with_copy, without))
              for key in ('cpu_ns', 'bytes_per_second')}
    return (f'{size >> 10} KiB: {copied} of {sends} copied, processor {ratios["cpu_ns"]:.2f} and '
            f'bandwidth {ratios["bytes_per_second"]:.2f} of a copy\'s')


def zero_copy(bench):
    kernel = Kernel('passthrough')
    tree = bench.initramfs(kernel, ['e1000e'], ['ip', built('bench/net/tcp_engine')])
    rounds = bench.options.rounds

    def boot(role, number):
        return Guest(bench.folder, kernel, tree,
                     {'case': 'zero_copy', 'role': role, 'rounds': rounds,
                      'sizes': ','.join(map(str, SIZES))},
                     network=card(bench, role, number), memory_mb=512)

    with boot('server', 1) as server:
        server.read_to('serving', SECONDS)
        with boot('client', 2) as client:
            bench.finish(client, SECONDS * (rounds + 1))
    return '; '.join(judge(bench.facts, rounds, size) for size in SIZES)
