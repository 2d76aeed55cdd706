#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Unmodified programs with libbtd_malloc.so: they do what they do without it, and it served them.
    programs_test.py LIBRARY SOURCE_DIR [unittest's arguments]"""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

LIBRARY, SOURCES = sys.argv[1:3]
TOLD = re.compile(r'libbtd_malloc: process (\d+): (\d+) bytes in use of (\d+) reserved in (\S+); '
                  r'(\d+) blocks came from the C library; (\d+) forks')

THREADS_AND_CHILDREN = r'''
import json, multiprocessing, os, sqlite3, subprocess, sys, threading
table = {str(i): list(range(i % 50)) for i in range(5000)}
text = json.dumps(table)
wrong = []
def work():
    for _ in range(10):
        if json.loads(text) != table: wrong.append(1)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
base = sqlite3.connect(':memory:')
base.execute('create table t(a integer primary key, b text)')
base.executemany('insert into t values(?, ?)', ((i, text[i:i + 100]) for i in range(20000)))
assert base.execute('select count(*), max(a) from t').fetchone() == (20000, 19999)
with multiprocessing.get_context('fork').Pool(2) as pool:
    assert pool.map(len, [table] * 8) == [5000] * 8
assert subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True).stdout == b'42\n'
child = os.fork()
if child == 0:
    table.clear()
    more = [bytes(1000) for _ in range(20000)]
    os._exit(0 if all(len(each) == 1000 for each in more) else 1)
assert os.waitpid(child, 0)[1] == 0
for thread in threads: thread.join()
assert not wrong and len(table) == 5000
print('done')
'''


def preloaded(**more):
    # Files without a name in there leave nothing behind.
    return {**os.environ, 'LD_PRELOAD': LIBRARY, 'BTD_MALLOC_STATS': '1', 'BTD_POOL': '/dev/shm', **more}


def needs(*programs):
    missing = [each for each in programs if shutil.which(each) is None]
    return unittest.skipIf(missing, f'{", ".join(missing)}: not installed; run ./bootstrap deps')


def strip(stderr):
    return '\n'.join(line for line in stderr.splitlines() if not TOLD.fullmatch(line))


class Programs(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = scratch.name

    def run_served(self, *command, **more):
        """Runs it, and sees that every process that says so took its memory from a heap."""
        done = subprocess.run(command, env=preloaded(**more.pop('env', {})), text=True, timeout=300,
                              capture_output=True, check=False, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        told = TOLD.findall(done.stderr)
        self.assertTrue(told, f'no process was served: {done.stderr}')
        return done, told

    def test_python_with_threads_children_json_and_sqlite(self):
        done, told = self.run_served(sys.executable, '-c', THREADS_AND_CHILDREN)
        self.assertEqual((done.stdout, strip(done.stderr)), ('done\n', ''))
        self.assertGreater(max(int(reserved) for _, _, reserved, *_ in told), 8 << 20)

    @needs('g++')
    def test_the_compiler_makes_the_same_object(self):
        objects = []
        for env in (dict(os.environ), preloaded()):
            to = os.path.join(self.scratch, 'made.o')
            done = subprocess.run(['g++', '-std=c++23', '-O2', '-c', f'-I{SOURCES}', '-o', to,
                                   f'{SOURCES}/alloc/segment_table.cc'],
                                  env=env, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(to, 'rb') as made:
                objects.append(made.read())
        self.assertEqual(objects[0], objects[1])
        # The driver, the compiler proper and the assembler.
        self.assertGreaterEqual(len(TOLD.findall(done.stderr)), 3, done.stderr)

    @needs('sqlite3')
    def test_sqlite_holds_a_database_in_memory(self):
        sql = ('create table t(a integer primary key, b text, c real);'
               'with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) '
               "insert into t select i, printf('%050d', i * 7919 % 100003), i * 0.5 from n;"
               'create index tb on t(b); delete from t where a % 3 = 0;'
               'select count(*), sum(c), count(distinct b) from t; pragma integrity_check;')
        done, told = self.run_served('sqlite3', ':memory:', sql)
        self.assertEqual(done.stdout, '66667|1666683333.5|66667\nok\n')
        self.assertGreater(int(told[0][2]), 8 << 20)
        self.assertEqual(told[0][4], '0')

    @needs('redis-server', 'redis-benchmark', 'redis-cli')
    def test_redis_saves_in_a_child_while_it_is_written_to(self):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        with open(os.path.join(self.scratch, 'log'), 'w+', encoding='utf-8') as log:
            server = subprocess.Popen(['redis-server', '--port', port, '--bind', '127.0.0.1', '--dir',
                                       self.scratch, '--save', ''], env=preloaded(), stdout=log, stderr=log)
            try:
                self.use_redis(port)
                self.ask(port, 'shutdown', 'nosave')
                self.assertEqual(server.wait(30), 0)
            finally:
                server.kill()
                server.wait()
            log.seek(0)
            text = log.read()
        told = TOLD.findall(text)
        self.assertTrue(told, text)
        self.assertGreater(int(told[-1][1]), 10 << 20)
        self.assertEqual(told[-1][4:], ('0', '1'))

    @staticmethod
    def ask(port, *words):
        return subprocess.run(['redis-cli', '-p', port, *words], text=True, capture_output=True, timeout=60,
                              check=False).stdout.strip()

    def use_redis(self, port):
        until = time.monotonic() + 30
        while self.ask(port, 'ping') != 'PONG':
            self.assertLess(time.monotonic(), until, 'redis-server does not answer')
            time.sleep(0.05)
        load = ['redis-benchmark', '-p', port, '-q', '-P', '16', '-d', '200', '-r', '50000']
        subprocess.run([*load, '-n', '100000', '-t', 'set,lpush'], check=True, timeout=120,
                       stdout=subprocess.DEVNULL)
        self.ask(port, 'set', 'before', 'the fork')
        keys = int(self.ask(port, 'dbsize'))
        self.assertIn('started', self.ask(port, 'bgsave'))
        subprocess.run([*load, '-n', '100000', '-t', 'set,get'], check=True, timeout=120,
                       stdout=subprocess.DEVNULL)
        while 'rdb_bgsave_in_progress:1' in self.ask(port, 'info', 'persistence'):
            self.assertLess(time.monotonic(), until + 60, 'the save does not end')
            time.sleep(0.05)
        self.assertIn('rdb_last_bgsave_status:ok', self.ask(port, 'info', 'persistence'))
        # What the child saved is a snapshot that can be read.
        check = subprocess.run(['redis-check-rdb', os.path.join(self.scratch, 'dump.rdb')], text=True,
                               capture_output=True, timeout=60, check=False)
        self.assertEqual(check.returncode, 0, check.stdout)
        self.assertIn(f'{keys} keys read', check.stdout)

    @needs('stress-ng')
    def test_stress_ng_verifies_its_memory(self):
        done, _ = self.run_served('stress-ng', '--malloc', '2', '-t', '5', '--verify', '--metrics-brief',
                                  '--temp-path', self.scratch)
        self.assertIn('successful run completed', done.stdout + done.stderr)

    def test_where_no_heap_can_be_made_the_program_runs(self):
        done = subprocess.run([sys.executable, '-c', 'print(sum(range(1000)))'],
                              env=preloaded(BTD_POOL=os.path.join(self.scratch, 'none')), text=True,
                              capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, '499500\n'))
        self.assertRegex(done.stderr, r'\Alibbtd_malloc: no heap can be made \(.*none.*\) '
                                      r"The C library's allocator serves instead\.\n\Z")

    def test_a_limit_on_address_space_leaves_the_program_running(self):
        done = subprocess.run(['sh', '-c', f'ulimit -v 4000000; exec {sys.executable} -c "print(1)"'],
                              env=preloaded(), text=True, capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, '1\n'))
        self.assertIn('ulimit -v', done.stderr)

    def test_a_limit_on_file_size_leaves_the_program_running(self):
        script = 'x = [bytes(1000) for _ in range(50000)]; print(len(x))'
        done = subprocess.run(['sh', '-c', f'ulimit -f 8192; exec {sys.executable} -c "{script}"'],
                              env=preloaded(), text=True, capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, '50000\n'), done.stderr)
        self.assertIn('ulimit -f', done.stderr)

    @unittest.skipIf(os.geteuid() != 0, 'a small file system needs root')
    def test_a_full_file_system_is_a_memory_error(self):
        script = ('x = []\n'
                  'try:\n'
                  '    while True: x.append(bytearray(100000))\n'
                  'except MemoryError: n = len(x); x.clear(); print(n)\n'
                  'x = [bytearray(100000) for _ in range(n // 2)]; print("again")')
        small = os.path.join(self.scratch, 'small')
        os.mkdir(small)
        done = subprocess.run(['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=32m tmpfs "$0" && '
                               'LD_PRELOAD="$1" exec "$2" -c "$3"', small, LIBRARY, sys.executable, script],
                              env=dict(os.environ, BTD_POOL=small), text=True, capture_output=True,
                              check=False)
        if 'unshare failed' in done.stderr or 'permission denied' in done.stderr:
            self.skipTest(f'nothing can be mounted here: {done.stderr.strip()}')
        self.assertEqual(done.returncode, 0, done.stderr)
        blocks, again = done.stdout.split()
        self.assertTrue(150 < int(blocks) < 330, blocks)
        self.assertEqual(again, 'again')

    def test_files_have_no_name_and_a_kept_heap_has_one(self):
        env = {'BTD_POOL': self.scratch}
        look = 'import os, sys; print(sorted(os.listdir(sys.argv[1])))'
        done, told = self.run_served(sys.executable, '-c', look, self.scratch, env=env)
        self.assertEqual((done.stdout, told[0][3]), ('[]\n', self.scratch))
        for _ in range(2):  # made, then found
            kept = dict(env, BTD_MALLOC_KEEP='mine', BTD_MALLOC_DURABLE='1')
            done, told = self.run_served(sys.executable, '-c', look, self.scratch, env=kept)
            self.assertEqual((done.stdout, told[0][3]), ("['mine']\n", self.scratch + '/mine'))
        self.assertIn('arena.0', os.listdir(os.path.join(self.scratch, 'mine')))
        fork = ('import os\nx = [bytes(100) for _ in range(9999)]\n'
                'if os.fork() == 0:\n    x += [bytes(99) for _ in range(99999)]\n    os._exit(0)\n'
                'print(os.wait()[1], len(x)); os.system("true")')
        done, told = self.run_served(sys.executable, '-c', fork, env=kept)
        self.assertEqual(done.stdout, '0 9999\n')


if __name__ == '__main__':
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
