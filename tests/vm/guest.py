# SPDX-License-Identifier: BSD-3-Clause
"""One QEMU guest. It is ended when its `with` block is left, however that is, and by the kernel
when the runner itself is killed.

The guest has two serial ports: the first is its console, kept for the case of a failure; on the
second it reports, a line at a time (report.py)."""
import ctypes
import os
import select
import shutil
import signal
import subprocess
import time

from lab import Failed, Skip
from report import parse

QEMU = 'qemu-system-x86_64'
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
# Emulated processors have no secrets to keep from each other, and no entropy to wait for.
APPEND = ('console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on '
          'no_timer_check tsc=reliable')
# An emulated kernel may stumble over the code that it patches while another of its processors runs
# that; it does so before its first process, and nothing of the case has begun.
BOOTS = 3
PANIC = 'Kernel panic'


def qemu():
    found = shutil.which(QEMU)
    if not found:
        raise Skip(f'{QEMU} is not installed; ./bootstrap deps installs qemu-system-x86')
    return found


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guest:
    """Boots at once. `nvdimm` is a file that the guest has as NVRAM, `network` a list of arguments
    for QEMU, `parameters` becomes the environment of the guest's scripts."""

    count = 0

    def __init__(self, folder, kernel, initramfs, parameters, nvdimm=None, network=(), memory_mb=768,
                 processors=2):
        Guest.count += 1
        self.console = os.path.join(folder, f'console{Guest.count}')
        words = ' '.join(f'btd_{k}={v}' for k, v in parameters.items())
        command = [qemu(), '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
                   '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', str(processors),
                   '-serial', f'file:{self.console}', '-serial', 'stdio',
                   '-kernel', kernel.image, '-initrd', initramfs, '-append', f'{APPEND} {words}']
        if nvdimm:
            size = os.path.getsize(nvdimm)
            command += ['-machine', 'q35,nvdimm=on', '-m', f'{memory_mb}M,slots=2,maxmem=8G',
                        '-object', 'memory-backend-file,id=nv,share=on,pmem=off,'
                        f'mem-path={nvdimm},size={size}', '-device', 'nvdimm,memdev=nv']
        else:
            command += ['-machine', 'q35', '-m', f'{memory_mb}M']
        self.command = [*command, *network]
        self.boots, self.is_up = 0, False
        self.boot()

    def boot(self):
        self.boots += 1
        self.begin = time.monotonic()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, preexec_fn=die_with_parent)
        self.buffer = b''

    def boots_again(self):
        """Whether it ended before it reported anything, and begins anew."""
        if self.is_up or self.boots == BOOTS:
            return False
        words = self.last_words()
        if PANIC not in words:
            return False
        print(f'the kernel panicked before its first process; it is booted again{words}', flush=True)
        self.kill()
        self.boot()
        return True

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def cut(self):
        """Kills the guest; returns what it had reported until then."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        reports = []
        while report := self.report(time.monotonic() + 5):
            reports.append(report)
        return reports

    def age(self):
        return time.monotonic() - self.begin

    def report(self, deadline):
        """The guest's next report, or None when it has ended. Failed at the deadline (of
        time.monotonic())."""
        while True:
            line, newline, rest = self.buffer.partition(b'\n')
            if newline:
                self.buffer = rest
                report = parse(line)
                if report:
                    self.is_up = True
                    return report
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failed(f'the guest said nothing more; it had run for {self.age():.0f} s'
                             + self.last_words())
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more and not self.boots_again():
                return None
            self.buffer += more

    def read_to(self, place, seconds):
        """Reads on until the guest is there."""
        deadline = time.monotonic() + seconds
        report = None
        while report is None or (report.kind, report.name) != ('at', place):
            report = self.report(deadline)
            if report is None or report.kind == 'verdict':
                raise Failed(f'the guest did not get to "{place}"' + self.last_words())

    def pause_reading(self, seconds):
        """Reads on for so long, and returns the reports that came."""
        reports, deadline = [], time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if b'\n' not in self.buffer and (
                    left <= 0 or not select.select([self.process.stdout], [], [], left)[0]):
                return reports
            report = self.report(deadline + 1)
            if report is None:
                return reports
            reports.append(report)

    def last_words(self, lines=25):
        """The end of the console, for a message about a failure."""
        try:
            with open(self.console, encoding='utf-8', errors='replace') as f:
                text = f.read().replace('\r', '')
        except FileNotFoundError:
            text = ''
        if self.process.poll() is not None and not self.process.stderr.closed:
            text += self.process.stderr.read().decode(errors='replace')
        last = [line for line in text.splitlines() if line.strip()][-lines:]
        return ''.join(f'\n    | {line}' for line in last) if last else '; its console is empty'
