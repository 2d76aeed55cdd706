# SPDX-License-Identifier: BSD-3-Clause
"""The worker is killed with -9 under eight writers: no application sees an error, nothing that was
acknowledged is lost, and the mount is back at once. `run [--rounds N] [--limit-ms MS]`."""
import argparse
import os
import random
import subprocess
import sys
import time

from mountlib import Bartender, check, main, must, program, say, spread

WRITER = program('writer_verify', 'BTD_WRITER_VERIFY')


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=int(os.environ.get('BTD_KILL_ROUNDS', '25')))
    parser.add_argument('--limit-ms', type=float, default=300)
    parser.add_argument('--writers', type=int, default=8)
    parser.add_argument('--seed', type=int, default=1)
    return parser.parse_args(sys.argv[2:])


def rounds(b, wanted):
    """Kills the worker that many times while the writers run; returns the downtimes in ms."""
    ledger = os.path.join(b.base, 'ledger')
    os.mkdir(ledger)
    writers = subprocess.Popen([WRITER, 'write', b.mnt, ledger, '--writers', str(wanted.writers),
                                '--seconds', '100000', '--seed', str(wanted.seed)])
    pause = random.Random(wanted.seed)
    downtimes = []
    for number in range(wanted.rounds):
        time.sleep(pause.uniform(0.05, 0.35))
        check(writers.poll() is None, f'the writers failed in round {number}')
        downtimes.append(b.kill_worker())
    writers.terminate()
    check(writers.wait(60) == 0, 'a writer saw an error, it is above')
    return ledger, downtimes


def kill():
    wanted = arguments()
    with Bartender('1G') as b:
        ledger, downtimes = rounds(b, wanted)
        say(must(WRITER, 'verify', b.mnt, ledger, timeout=120).strip())
        restarts = b.status()['worker']['restarts']
        check(restarts == wanted.rounds, f'{wanted.rounds} kills, but status counts {restarts}')
        b.umount()
        b.check_pool()
        b.mount()
        say('after a cold mount: ' + must(WRITER, 'verify', b.mnt, ledger, timeout=120).strip())
        say(f'{wanted.rounds} kills under {wanted.writers} writers; back in service after '
            f'{spread(downtimes)} ms')
        check(max(downtimes) < wanted.limit_ms, f'the slowest came back after {max(downtimes):.0f} ms')


def everything():
    """Supervisor and worker die together: applications get errors at once instead of hanging, and
    what was acknowledged is there after the next mount."""
    with Bartender('1G') as b:
        ledger = os.path.join(b.base, 'ledger')
        os.mkdir(ledger)
        writers = subprocess.Popen([WRITER, 'write', b.mnt, ledger, '--seconds', '1000'],
                                   stderr=subprocess.DEVNULL)
        time.sleep(2)
        b.kill_all()
        start = time.monotonic()
        check(writers.wait(20) == 1, 'the writers should have met the end of the connection')
        say(f'the writers had their errors within {(time.monotonic() - start) * 1000:.0f} ms')
        start = time.monotonic()
        b.mount()
        say(f'mounted again within {(time.monotonic() - start) * 1000:.0f} ms')
        say(must(WRITER, 'verify', b.mnt, ledger, '--in-flight', timeout=120).strip())
        b.umount()
        b.check_pool()


if __name__ == '__main__':
    main({'run': (kill, 3600), 'everything': (everything, 120)})
