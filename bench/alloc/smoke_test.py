#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Every workload of bench/alloc, tiny, under one allocator: its JSON, the contents of its objects,
and that nothing is left behind.
    smoke_test.py PROGRAM [WORKLOAD ...]"""
import json
import os
import signal
import subprocess
import sys
import tempfile

TINY = ['--seconds', '0.01', '--objects', '1600', '--rounds', '8', '--verify']
PAIRS = ('prod-con', 'xmalloc-test')
PER_OBJECT = ('threadtest', 'shbench', 'larson', 'linux-scalability', 'mstress', *PAIRS)


def run(program, workload, directory, *more, killed=False, **pipes):
    done = subprocess.run([program, workload, '--dir', directory, *TINY, *more], text=True, timeout=120,
                          env=dict(os.environ, PMEM_IS_PMEM_FORCE='1'), capture_output=True, check=False,
                          **pipes)
    expected = -signal.SIGKILL if killed else 0
    assert done.returncode == expected, f'{workload} ended with {done.returncode}: {done.stderr}'
    result = json.loads(done.stdout.splitlines()[-1])
    assert result['workload'] == workload, result
    assert result['ops'] > 0 and result['seconds'] > 0, result
    assert os.path.basename(program) == 'alloc_' + result['allocator'], result
    expected = result['allocator'].split('_')[0].replace('glibc', 'libc.so').replace('pmemobj', 'libpmemobj')
    assert expected in result['library'], f'{result["library"]} answers for {result["allocator"]}'
    return result


def restart(program, names, directory):
    """What a process that kills itself leaves is there for the next."""
    run(program, 'fill', directory, killed=True)
    for _ in range(2):
        result = run(program, 'reopen', directory, killed=True)
        assert result['live'] >= 1600, result
    if 'gc' not in names:
        return
    for shape in ('tree', 'scattered', 'typed', 'list'):
        with pool() as other:
            run(program, 'fill', other, '--shape', shape, killed=True)
            assert run(program, 'gc', other)['reclaimed'] >= 200 * 64


def pool():
    base = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix='btd-bench-smoke.', dir=base)


def main():
    program, *wanted = sys.argv[1:]
    names = subprocess.run([program, '--list'], capture_output=True, text=True, check=True).stdout.split()
    alone = [n for n in names if n not in ('fill', 'reopen', 'gc', 'hold')]
    for name in wanted or alone:
        for threads in (1, 2) if name in PER_OBJECT else (1,):
            with pool() as directory:
                run(program, name, directory, '--threads', str(threads))
    if 'fill' in names and not wanted:
        with pool() as directory:
            restart(program, names, directory)
        with pool() as directory:
            run(program, 'hold', directory, stdin=subprocess.DEVNULL)
    print(f'{len(names)} workloads are right')


if __name__ == '__main__':
    main()
