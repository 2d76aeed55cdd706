#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Whether what judges the cases can say no: logs, directories, heaps and lent memory are
doctored here, and each must be found out. No guest is booted."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

sys.dont_write_bytecode = True
import cases
import guest
import kernel
import soft_roce
import verbs_latency
import zero_copy
from lab import HERE, Failed, built
from node_reset import AFTER, SLOTS, Lent
from power_cut import UNHEARD, Ledger
from report import Report, parse

DONE = 400


class LatencyTest(unittest.TestCase):
    """The ratios of a measurement: what is missing or broken must be found out."""

    def facts(self, ours=100.0):
        programs = {other[1] for measure in verbs_latency.MEASURES for other in measure.others}
        facts = {f'{number}/{program}/{size}': '100.0' for number in range(3)
                 for size in verbs_latency.SIZES for program in programs}
        facts |= {f'{number}/{measure.ours}/{size}': str(ours + number) for number in range(3)
                  for size in verbs_latency.SIZES for measure in verbs_latency.MEASURES}
        return facts

    def test_a_ratio_is_of_the_best_rounds(self):
        row = verbs_latency.rows(self.facts(), 3)[0]
        self.assertEqual((row.ratio, row.median, row.low, row.high), (1.0, 1.01, 1.0, 1.02))
        self.assertIn('6 of 6 goals', verbs_latency.judge(self.facts(), 3))
        self.assertIn('4 of 6 goals', verbs_latency.judge(self.facts(130), 3))

    def test_what_is_broken_is_found_out(self):
        with self.assertRaisesRegex(Failed, 'times as long'):
            verbs_latency.judge(self.facts(1000), 3)
        facts = self.facts()
        facts['1/read/64'] = ''
        with self.assertRaisesRegex(Failed, 'read gave no figure for 64 bytes'):
            verbs_latency.judge(facts, 3)


class ZeroCopyTest(unittest.TestCase):
    """Sends that were copied, or that were none, must be found out."""

    def facts(self, sends=50, copied=1, count=50, sends_with_copy=0):
        without = {'count': count, 'cpu_ns': 30, 'bytes_per_second': 200,
                   'zero_copy_sends': sends, 'zero_copies_copied': copied}
        with_copy = {**without, 'cpu_ns': 100, 'bytes_per_second': 100,
                     'zero_copy_sends': sends_with_copy, 'zero_copies_copied': 0}
        return {f'{name}_1048576_{number}': json.dumps(said) for number in range(3)
                for name, said in (('none', with_copy), ('zero', without))}

    def test_says_what_it_saves(self):
        self.assertIn('3 of 150 copied, processor 0.30 and bandwidth 2.00',
                      zero_copy.judge(self.facts(), 3, 1 << 20))

    def test_what_is_wrong_is_found_out(self):
        for wrong in ({'sends': 5}, {'copied': 30}, {'count': 0}, {'sends_with_copy': 1}):
            with self.assertRaises(Failed, msg=wrong):
                zero_copy.judge(self.facts(**wrong), 3, 1 << 20)


class FlushTest(unittest.TestCase):
    """What a guest's kernel made durable must be just what was written."""

    FACTS = {'nvram': '[  PASSED  ] 1 test.', 'suite': '[  PASSED  ] 21 tests.',
             'flushed': '8+8 50008+64 a0008+1388 f0008+10000 140008+4b000 '}

    def test_what_was_written_was_flushed(self):
        self.assertIn('5 writes into NVRAM', soft_roce.judge_flush(self.FACTS))

    def test_a_flush_too_few_too_many_or_too_short_is_found_out(self):
        whole = self.FACTS['flushed']
        for flushed in ('', whole[4:], f'{whole}8+8', whole.replace('4b000', '4aff8')):
            with self.assertRaisesRegex(Failed, 'the kernel flushed'):
                soft_roce.judge_flush({**self.FACTS, 'flushed': flushed})

    def test_a_suite_that_failed_is_found_out(self):
        for name in ('nvram', 'suite'):
            with self.assertRaisesRegex(Failed, 'the suite said'):
                soft_roce.judge_flush({**self.FACTS, name: '[  FAILED  ] 1 test'})


class LoadTest(unittest.TestCase):
    """power_load, in a directory of this machine: what it must accept, and what not."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='btd-judges.', dir='/dev/shm')
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def load(self, kind, *options):
        return subprocess.run([built('tests/vm/power_load'), kind, self.path(kind), *options],
                              capture_output=True, text=True, timeout=60, check=False)

    def work(self, kind, operations=DONE, acknowledged=0):
        done = self.load(kind, '--operations', str(operations), '--acknowledged', str(acknowledged))
        self.assertEqual(done.returncode, 0, done.stderr)

    def accepts(self, kind, acknowledged, found=DONE):
        done = self.load(kind, '--acknowledged', str(acknowledged))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, f'@btd fact {kind} {found}\n')

    def rejects(self, kind, acknowledged, words):
        done = self.load(kind, '--acknowledged', str(acknowledged))
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(words, done.stderr)

    def regular_file(self):
        with os.scandir(self.path('files')) as entries:
            return next(e.path for e in entries
                        if e.is_file(follow_symlinks=False) and e.stat().st_size > 100)

    def test_what_was_acknowledged_is_there(self):
        for kind in ('files', 'heap'):
            self.work(kind)
            self.accepts(kind, DONE)
            self.accepts(kind, DONE - 3)  # done, and unheard of
            self.work(kind, operations=100, acknowledged=DONE - 3)  # goes on from what it found
            self.accepts(kind, DONE + 100, DONE + 100)

    def test_a_doctored_log_is_found_out(self):
        for kind in ('files', 'heap'):
            self.work(kind)
            self.rejects(kind, DONE + 1, f'{DONE + 1}')
            self.rejects(kind, DONE + UNHEARD, f'{DONE + UNHEARD}')

    def test_files_that_went_back_are_found_out(self):
        self.work('files')
        shutil.copytree(self.path('files'), self.path('older'), symlinks=True)
        self.work('files', 50, DONE)
        shutil.rmtree(self.path('files'))
        shutil.move(self.path('older'), self.path('files'))
        self.rejects('files', DONE + 50, 'missing')

    def test_a_heap_that_went_back_is_found_out(self):
        self.work('heap')
        shutil.copytree(self.path('heap'), self.path('older'))
        self.work('heap', 50, DONE)
        shutil.rmtree(self.path('heap'))
        shutil.move(self.path('older'), self.path('heap'))
        self.rejects('heap', DONE + 50, 'were acknowledged')

    def test_a_lost_file_is_found_out(self):
        self.work('files')
        os.unlink(self.regular_file())
        self.rejects('files', DONE, 'missing')

    def test_a_file_too_many_is_found_out(self):
        self.work('files')
        with open(self.path('files', 'foreign'), 'w', encoding='ascii') as f:
            f.write('foreign')
        self.rejects('files', DONE, 'too much')

    def test_a_draft_is_of_no_operation(self):
        self.work('files')
        with open(self.path('files', '.draft'), 'w', encoding='ascii') as f:
            f.write('half')
        self.accepts('files', DONE)

    def test_a_torn_file_is_found_out(self):
        self.work('files')
        with open(self.regular_file(), 'r+b') as f:
            f.seek(90)
            byte = f.read(1)
            f.seek(90)
            f.write(bytes([byte[0] ^ 1]))
        self.rejects('files', DONE, 'missing')

    def test_a_mode_that_is_half_set_is_found_out(self):
        self.work('files')
        path = self.regular_file()
        os.chmod(path, os.stat(path).st_mode ^ 0o4000)
        self.rejects('files', DONE, 'missing')

    def test_a_block_that_is_torn_is_found_out(self):
        self.work('heap')
        changed, journal = False, 5 << 20  # whose records have blocks in them too
        with open(self.path('heap', 'load', 'arena.0'), 'r+b') as f:
            arena = f.read(24 << 20)
            # A block begins with its id and its size; its fourth word is never a mark.
            for at in range(journal, len(arena) - 32, 16):
                identity = int.from_bytes(arena[at:at + 8], 'little')
                size = int.from_bytes(arena[at + 8:at + 16], 'little')
                if 0 < identity <= DONE and 32 <= size < 62000:
                    f.seek(at + 24)
                    f.write(bytes([arena[at + 24] ^ 1]))
                    changed = True
        self.assertTrue(changed)
        self.rejects('heap', DONE, 'is not as')


class LedgerTest(unittest.TestCase):
    def test_counts_what_was_acknowledged(self):
        ledger = Ledger()
        ledger.acknowledge(Report('ack', 'files', '7'))
        self.assertEqual(ledger.judge('files', 9), 2)
        self.assertEqual(ledger.acknowledged, {'files': 9, 'heap': 0})

    def test_an_acknowledged_operation_that_is_missing_fails(self):
        ledger = Ledger()
        ledger.acknowledge(Report('ack', 'heap', '7'))
        with self.assertRaisesRegex(Failed, '7 operations were acknowledged, and 6 are there'):
            ledger.judge('heap', 6)

    def test_more_than_can_be_unheard_of_fails(self):
        with self.assertRaises(Failed):
            Ledger().judge('heap', UNHEARD + 1)

    def test_operations_are_acknowledged_in_order(self):
        ledger = Ledger()
        ledger.acknowledge(Report('ack', 'heap', '7'))
        with self.assertRaises(Failed):
            ledger.acknowledge(Report('ack', 'heap', '7'))


class LentTest(unittest.TestCase):
    """What a reader reported of a machine that was reset."""

    def lent(self, lost=None, found=SLOTS, after=AFTER):
        lent = Lent('tcp')
        for version in (1, 2, 3):
            for slot in range(SLOTS):
                lent.take(Report('ack', 'tcp', f'{slot} {version}'))
        for slot in range(found):
            oldest = 2 if slot == lost else 3
            lent.take(Report('found', 'tcp', f'{slot} {oldest} 4'))
        for number in range(after):
            lent.take(Report('ack', 'tcp', f'{number % SLOTS} {5 + number // SLOTS}'))
        return lent

    def test_what_was_acknowledged_is_there(self):
        self.lent().judge()

    def test_a_lost_acknowledged_write_is_found_out(self):
        with self.assertRaisesRegex(Failed, 'version 3 of slot 9 was acknowledged, and 2 to 4'):
            self.lent(lost=9)

    def test_a_slot_that_nobody_verified_fails(self):
        with self.assertRaisesRegex(Failed, '63 of 64'):
            self.lent(found=SLOTS - 1).judge()

    def test_a_session_that_does_not_go_on_fails(self):
        with self.assertRaisesRegex(Failed, 'after the reset'):
            self.lent(after=AFTER - 1).judge()

    def test_versions_are_acknowledged_in_order(self):
        with self.assertRaises(Failed):
            self.lent().acknowledge(0, 1)


class ResetTest(unittest.TestCase):
    """reset_load on loopback: the server is killed, its memory doctored, and another one started."""
    PAGE, BYTES = 4096, 2 << 20

    def setUp(self):
        folder = tempfile.mkdtemp(prefix='btd-judges.', dir='/dev/shm')
        self.addCleanup(shutil.rmtree, folder)
        self.memory = os.path.join(folder, 'memory')
        with open(self.memory, 'wb') as f:
            f.truncate(self.BYTES)
        self.address = '127.0.0.1:0'

    def start(self, *arguments):
        process = subprocess.Popen([built('tests/vm/reset_load'), *arguments], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        def end():
            process.kill()
            process.communicate(timeout=30)
        self.addCleanup(end)
        return process

    def serve(self):
        """The kernel may hold on to the port of a server that was killed for a moment."""
        for _ in range(100):
            server = self.start('serve', 'tcp', self.address, self.memory, '0')
            listening = server.stdout.readline().strip()
            if listening:
                self.address = listening
                return server
            time.sleep(0.1)
        self.fail(f'nobody can listen on {self.address}')

    def after_reset(self, doctor):
        """What a worker says whose server was reset, when the memory was doctored meanwhile."""
        server = self.serve()
        worker = self.start('work', 'tcp', self.address, '--more', '10', '--seconds', '30',
                            '--reports', '/dev/stdout')
        lines = [worker.stdout.readline() for _ in range(3 * SLOTS)]
        with open(self.memory, 'rb') as f:
            older = f.read()
        lines += [worker.stdout.readline() for _ in range(3 * SLOTS)]
        server.kill()
        server.wait(timeout=30)
        with open(self.memory, 'r+b') as f:
            doctor(f, older)
        self.serve()
        out, said = worker.communicate(timeout=60)
        return worker.returncode, ''.join(lines) + out, said

    def test_memory_that_stayed_is_accepted(self):
        code, out, said = self.after_reset(lambda f, older: None)
        self.assertEqual(code, 0, said)
        self.assertEqual(out.count('@btd found tcp '), SLOTS)

    def test_memory_that_went_back_is_found_out(self):
        code, _, said = self.after_reset(lambda f, older: f.write(older))
        self.assertEqual(code, 1)
        self.assertRegex(said, 'of version [0-9]+, not of')

    def test_a_single_bit_is_found_out(self):
        def doctor(f, _):
            f.seek(7 * self.PAGE + 1000)
            byte = f.read(1)
            f.seek(7 * self.PAGE + 1000)
            f.write(bytes([byte[0] ^ 1]))
        code, _, said = self.after_reset(doctor)
        self.assertEqual(code, 1)
        self.assertIn('word 125 of slot 7 is of no version', said)

    def test_a_server_that_stays_away_is_found_out(self):
        server = self.serve()
        worker = self.start('work', 'tcp', self.address, '--seconds', '2', '--reports',
                            '/dev/stdout')
        self.assertIn('@btd ack', worker.stdout.readline())
        server.kill()
        _, said = worker.communicate(timeout=60)
        self.assertEqual(worker.returncode, 1)
        self.assertIn('did not come back', said)


class ReportTest(unittest.TestCase):
    def test_whole_lines_are_reports(self):
        self.assertEqual(parse(b'@btd ack files 12\r\n'), Report('ack', 'files', '12'))
        self.assertEqual(parse(b'@btd verdict pass'), Report('verdict', 'pass', ''))
        self.assertEqual(parse(b'@btd fact a b c d'), Report('fact', 'a', 'b c d'))

    def test_others_are_not(self):
        for line in (b'', b'@btd', b'@btd ack', b'btd ack files 12', b'@btd what files 12',
                     b'[ 1.0] @btd ack files 12', b'\xff\xfe'):
            self.assertIsNone(parse(line), line)


class DemandTest(unittest.TestCase):
    DAX = {'dax_passthrough': 'active', 'dax_statx': 'yes', 'dax_libpmem': 'pmem',
           'dax_nvram': 'DAX, by cache-line flush; survives process crash and power loss',
           'dax_page_cache_growth_mib': '0', 'dax_map_sync_backing': 'granted'}
    WRONG = {'dax_passthrough': 'off: why', 'dax_statx': 'no', 'dax_libpmem': 'not pmem',
             'dax_nvram': 'disk, by msync; survives process crash and power loss',
             'dax_page_cache_growth_mib': '32', 'dax_map_sync_backing': 'refused (why)'}

    def bench(self, facts):
        bench = cases.Bench('', None, None)
        bench.facts = facts
        return bench

    def test_each_fact_of_dax_is_demanded(self):
        cases.demand_dax(self.bench(self.DAX))
        for name, value in self.WRONG.items():
            with self.assertRaises(Failed, msg=name):
                cases.demand_dax(self.bench({**self.DAX, name: value}))
            with self.assertRaises(Failed, msg=name):
                cases.demand_dax(self.bench({k: v for k, v in self.DAX.items() if k != name}))


class ModuleTest(unittest.TestCase):
    def test_dependencies_are_read_from_a_module(self):
        head = b'\x7fELF...\0license=GPL\0depends='
        self.assertEqual(kernel.depends(head + b'jbd2,crc-16\0rest'), ['jbd2', 'crc_16'])
        self.assertEqual(kernel.depends(head + b'\0rest'), [])
        self.assertEqual(kernel.depends(b'none'), [])


class BootTest(unittest.TestCase):
    """A QEMU whose kernel panics so often before its first process, and then says its words."""

    def guest(self, folder, panics, words):
        fake = os.path.join(folder, 'qemu')
        with open(fake, 'w', encoding='utf-8') as f:
            f.write('#!/bin/sh\nfor word; do case $word in file:*) console=${word#file:};; esac; done\n'
                    'echo once more >>"$0.boots"\n'
                    f'if [ "$(wc -l <"$0.boots")" -le {panics} ]; then\n'
                    f'  echo "Kernel panic - not syncing" >"$console"; else echo "{words}"; fi\n')
        os.chmod(fake, 0o755)
        with mock.patch('guest.qemu', lambda: fake):
            return guest.Guest(folder, mock.Mock(image='kernel'), 'initramfs', {})

    def first_report(self, panics, words='@btd at up'):
        with tempfile.TemporaryDirectory() as folder, self.guest(folder, panics, words) as booted:
            return booted.report(time.monotonic() + 30), booted.boots

    def test_boots_again_where_the_kernel_never_got_to_the_case(self):
        for panics in range(guest.BOOTS):
            report, boots = self.first_report(panics)
            self.assertEqual((report.kind, report.name, boots), ('at', 'up', panics + 1))

    def test_does_not_boot_for_ever(self):
        self.assertEqual(self.first_report(guest.BOOTS), (None, guest.BOOTS))

    def test_only_boots_again_after_a_panic(self):
        self.assertEqual(self.first_report(0, 'no report'), (None, 1))

    def test_a_case_that_has_begun_is_not_begun_again(self):
        with tempfile.TemporaryDirectory() as folder, self.guest(folder, 0, '@btd at up') as booted:
            booted.report(time.monotonic() + 30)
            with open(booted.console, 'w', encoding='utf-8') as f:
                f.write('Kernel panic - not syncing')
            self.assertIsNone(booted.report(time.monotonic() + 30))


class CommandTest(unittest.TestCase):
    def run_lab(self, *arguments):
        return subprocess.run([sys.executable, os.path.join(HERE, 'run'), *arguments],
                              capture_output=True, text=True, timeout=30, check=False)

    def test_lists_every_case_with_a_description(self):
        done = self.run_lab('--list')
        self.assertEqual(done.returncode, 0)
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], list(cases.CASES))
        self.assertTrue(all(len(line.split()) > 3 for line in done.stdout.splitlines()))

    def test_refuses_wrong_arguments(self):
        for wrong, words in ((['nonsense'], '"nonsense"'), (['--cuts', '0'], '--cuts'),
                             (['--cuts', 'x'], '--cuts'), (['--nonsense'], '--nonsense')):
            done = self.run_lab(*wrong)
            self.assertEqual(done.returncode, 64, wrong)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.stderr.count('\n'), 1)


if __name__ == '__main__':
    unittest.main()
