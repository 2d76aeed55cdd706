#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Heaps on a mount: the same library, the same promises, the same tests. Run it in a mount namespace
of its own (unshare -m): it mounts over /mnt."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'mount'))
from mountlib import Bartender, check, main, must, say  # noqa: E402

EXAMPLE = os.environ.get('BTD_EXAMPLE', '')
SUITES = os.environ.get('BTD_SUITES', '').split(':')


def as_user(**changes):
    environment = {k: v for k, v in os.environ.items() if k != 'BTD_POOL'}
    return {**environment, **changes}


def over_mnt(size='512M'):
    """A pool whose mount is /mnt/bartender, in this namespace alone."""
    must('mount', '--make-rprivate', '/')
    must('mount', '-t', 'tmpfs', 'none', '/mnt')
    return Bartender(size, mountpoint='/mnt/bartender')


def default_place():
    """Without any setting the heap of the example lies on the mount, and is found there again."""
    with over_mnt() as b:
        arena = b.path(f'.heaps-{os.geteuid()}', 'default', 'arena.0')
        for _ in range(2):
            must(EXAMPLE, env=as_user())
            check(os.path.exists(arena), f'{arena} is not there')
        check(os.stat(os.path.dirname(os.path.dirname(arena))).st_mode & 0o777 == 0o700,
              'the directory is open to others')
        taken = os.stat(arena).st_blocks * 512
        check(taken <= 64 << 20, f'a small heap took {taken} bytes')
        b.umount()
        b.mount()
        must(EXAMPLE, env=as_user())
        say(f'a heap of {taken >> 20} MiB in {arena}')


def suites():
    """What holds on /dev/shm holds on a mount."""
    with Bartender('768M') as b:
        for suite in SUITES:
            say(must(suite, '--gtest_brief=1', timeout=250,
                     env=as_user(BTD_TEST_DIRECTORY=b.mnt)).strip())


def worker_killed():
    """The daemon's worker may die under an open heap: nobody notices."""
    with Bartender('512M') as b:
        suite = subprocess.Popen([SUITES[0], '--gtest_brief=1', '--gtest_repeat=3'],
                                 env=as_user(BTD_TEST_DIRECTORY=b.mnt),
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        kills = 0
        while True:
            try:
                output = suite.communicate(timeout=0.5)[0].decode(errors='replace')
                break
            except subprocess.TimeoutExpired:
                b.kill_worker()
                kills += 1
        check(suite.returncode == 0, output)
        say(f'{kills} workers killed')


if __name__ == '__main__':
    main({'default_place': default_place, 'suites': (suites, 280), 'worker_killed': worker_killed})
