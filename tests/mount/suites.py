# SPDX-License-Identifier: BSD-3-Clause
"""The suites that run on any directory, run on a mount; a second run with the page-cache path."""
import mmap
import os
import subprocess
import sys

from mountlib import Bartender, check, main, must, program, run, say

# Sizes for CTest; tests/soak/run sets larger ones.
FSX_OPS = os.environ.get('BTD_FSX_OPS', '6000')
FSSTORM_OPS = os.environ.get('BTD_FSSTORM_OPS', '4000')
KILL_LIMIT = int(os.environ.get('BTD_KILL_LIMIT', '60'))
PATIENCE = int(os.environ.get('BTD_CASE_TIMEOUT', '300'))


def suite_environment(**extra):
    return dict(os.environ, BTD_TEST_STRICT='1', **extra)


def posix(options=()):
    with Bartender(os.environ.get('BTD_POOL_SIZE', '512M'), options=options) as b:
        outcome = run(program('posix_suite', 'BTD_POSIX_SUITE'), b.mnt, '--gtest_brief=1',
                      *sys.argv[2:],
                      timeout=PATIENCE - 20, env=suite_environment())
        say(outcome.text[-20000:])
        check(outcome.code == 0, f'posix_suite ended with {outcome.code}')


def posix_full():
    with Bartender('96M') as b:
        outcome = run(program('posix_suite', 'BTD_POSIX_SUITE'), b.mnt, '--gtest_filter=Full.*:Space.*',
                      timeout=100, env=suite_environment(BTD_TEST_FILL='1', BTD_TEST_RESERVES='1'))
        say(outcome.text[-20000:])
        check(outcome.code == 0, f'posix_suite ended with {outcome.code}')


def fsx(options=()):
    with Bartender('256M', options=options) as b:
        for seed in range(1, 4):
            say(must(program('fsx', 'BTD_FSX'), b.mnt, '--strict', '--ops', FSX_OPS, '--seed', seed,
                     timeout=PATIENCE).strip())


def fsstorm():
    with Bartender('512M') as b:
        say(must(program('fsstorm', 'BTD_FSSTORM'), b.mnt, '--procs', 4, '--ops', FSSTORM_OPS, '--keep',
                 timeout=PATIENCE).strip())
        b.umount()
        b.check_pool()


def killed():
    """fsx and fsstorm notice nothing of a worker that is killed under them."""
    with Bartender('512M') as b:
        loads = [subprocess.Popen([program('fsx', 'BTD_FSX'), b.mnt, '--strict', '--ops', FSX_OPS,
                                   '--seed', '11']),
                 subprocess.Popen([program('fsstorm', 'BTD_FSSTORM'), b.mnt, '--procs', '2', '--ops',
                                   FSSTORM_OPS, '--seed', '11'])]
        kills = 0
        while any(load.poll() is None for load in loads) and kills < KILL_LIMIT:
            b.kill_worker()
            kills += 1
        check(all(load.wait(PATIENCE) == 0 for load in loads), 'a load failed, its output is above')
        say(f'{kills} kills under fsx and fsstorm')
        check(kills >= 3, 'the loads ended before they were disturbed')
        b.umount()
        b.check_pool()


def python_mmap():
    """What a newcomer would try first."""
    with Bartender() as b:
        with open(b.path('memory'), 'wb+') as f:
            f.truncate(1 << 20)
            with mmap.mmap(f.fileno(), 1 << 20) as memory:
                memory[4096:4101] = b'hello'
                f.seek(4096)
                check(f.read(5) == b'hello', 'read does not see what the mapping holds')
                memory.flush()
        b.kill_worker()
        with open(b.path('memory'), 'rb') as f:
            with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as memory:
                check(memory[4096:4101] == b'hello', 'a later mapping sees other bytes')
        b.umount()
        b.mount()
        with open(b.path('memory'), 'rb') as f:
            check(f.read()[4096:4101] == b'hello', 'the content did not survive a remount')


if __name__ == '__main__':
    main({
        'posix': (posix, 300),
        'posix_cached': (lambda: posix(['nopassthrough']), 300),
        'posix_full': (posix_full, 120),
        'fsx': (fsx, 200),
        'fsx_cached': (lambda: fsx(['nopassthrough']), 200),
        'fsstorm': (fsstorm, 240),
        'killed': (killed, 240),
        'python_mmap': (python_mmap, 60),
    })
