#!/usr/bin/env python3
"""kv_test KV: runs the key-value store as its users do: commands and bad input by hand, the load of
redis-benchmark, and kill -9 in the middle of pipelined SETs, after which every acknowledged one is
there."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

KV = sys.argv.pop(1)
SKIP = "redis-benchmark is not installed (redis-tools)"


class Store:
    """A running store over a heap of `directory`."""

    def __init__(self, directory: str):
        self.process = subprocess.Popen(
            [KV, "--heap", f"{directory}/kv", "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        self.greeting = self.process.stdout.readline()
        self.port = int(self.greeting.rsplit(":", 1)[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=20)
        self.process.stdout.close()
        return code


class Client:
    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.input = self.socket.makefile("rb")

    def close(self) -> None:
        self.input.close()
        self.socket.close()

    @staticmethod
    def request(*words) -> bytes:
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)

    def reply(self):
        line = self.input.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the store is gone")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            if rest == b"-1":
                return None
            data = self.input.read(int(rest) + 2)
            if len(data) != int(rest) + 2:
                raise ConnectionError("the store is gone")
            return data[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else kind + rest

    def __call__(self, *words):
        self.socket.sendall(self.request(*words))
        return self.reply()

    def keys(self, *options):
        found, cursor = [], b"0"
        while True:
            cursor, keys = self("SCAN", cursor, *options)
            found += keys
            if cursor == b"0":
                return found


class KvTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="libbtd_kv.", dir="/dev/shm")
        self.store = Store(self.directory)
        self.client = Client(self.store.port)

    def tearDown(self):
        self.client.close()
        if self.store.process.poll() is None:
            self.store.kill()
        shutil.rmtree(self.directory)

    def restart(self, end) -> None:
        self.client.close()
        end()
        self.store = Store(self.directory)
        self.client = Client(self.store.port)

    def test_commands(self):
        c = self.client
        self.assertEqual(c("PING"), b"+PONG")
        self.assertEqual(c("ping", "a\r\nb"), b"a\r\nb")
        self.assertIsNone(c("GET", "a"))
        self.assertEqual(c("SET", "a", "1"), b"+OK")
        self.assertEqual(c("SET", "a", "22"), b"+OK")
        self.assertEqual(c("GET", "a"), b"22")
        self.assertEqual(c("SET", "", b"\0\r\n" * 1000), b"+OK")
        self.assertEqual(c("GET", ""), b"\0\r\n" * 1000)
        self.assertEqual(c("EXISTS", "a", "b", "a"), 2)
        self.assertEqual(c("DBSIZE"), 2)
        self.assertEqual(c("DEL", "a", "b", ""), 2)
        self.assertEqual(c("DBSIZE"), 0)
        self.assertEqual(c("CONFIG", "GET", "save"), [b"save", b""])
        self.assertEqual(c("CONFIG", "GET", "maxmemory"), [])
        self.assertEqual(c("COMMAND", "COUNT"), len(c("COMMAND")))

    def test_errors(self):
        c = self.client
        for words in [("NOSUCH",), ("GET",), ("SET", "a"), ("SET", "a", "b", "EX", "3"),
                      ("SCAN", "x"), ("SCAN", "0", "COUNT", "0"), ("CONFIG", "SET", "a", "b"),
                      ("SET", "k" * 70000, "v")]:
            self.assertTrue(c(*words).startswith(b"-ERR"), words)
        self.assertEqual(c("PING"), b"+PONG")
        for bad in [b"*1\r\n:3\r\n", b"*-x\r\n", b"*9999999\r\n", b"*1\r\n$99999999\r\n",
                    b"*1\r\n$1\r\nabc\r\n", b"x" * 100000, b"*" + b"1" * 40]:
            other = Client(self.store.port)
            other.socket.sendall(bad)
            self.assertTrue(other.reply().startswith(b"-ERR Protocol error"), bad[:20])
            self.assertEqual(other.input.read(), b"")
            other.close()

    def test_pieces_and_lines(self):
        c = self.client
        for byte in Client.request("SET", "k", "v") + b"GET k\r\n\r\n":
            c.socket.sendall(bytes([byte]))
        self.assertEqual([c.reply(), c.reply()], [b"+OK", b"v"])

    def test_a_client_that_does_not_read_is_not_read_from(self):
        c = self.client
        c("SET", "large", b"x" * 1000000)
        sender = threading.Thread(
            target=lambda: c.socket.sendall(Client.request("GET", "large") * 300))
        sender.start()
        time.sleep(0.3)
        with open(f"/proc/{self.store.process.pid}/status") as status:
            resident = int(re.search(r"RssAnon:\s+(\d+)", status.read())[1])
        self.assertLess(resident, 100 * 1024)  # KiB, of 300 MB asked for
        self.assertTrue(all(len(c.reply()) == 1000000 for _ in range(300)))
        sender.join()

    def test_growth_scan_and_clean_restart(self):
        c = self.client
        count = 20000
        for at in range(0, count, 1000):
            c.socket.sendall(b"".join(
                Client.request("SET", f"key:{i}", i) for i in range(at, at + 1000)))
            self.assertEqual({c.reply() for _ in range(1000)}, {b"+OK"})
        c.socket.sendall(b"".join(Client.request("DEL", f"key:{i}") for i in range(0, count, 2)))
        self.assertEqual({c.reply() for _ in range(0, count, 2)}, {1})
        self.restart(lambda: self.assertEqual(self.store.stop(), 0))
        expected = {b"key:%d" % i for i in range(1, count, 2)}
        self.assertEqual(set(self.client.keys("COUNT", 500)), expected)
        self.assertEqual(set(self.client.keys("MATCH", "key:1[0-2]?", "COUNT", 5000)),
                         {k for k in expected if re.fullmatch(b"key:1[0-2].", k)})
        self.assertEqual(self.client("DBSIZE"), count // 2)

    def test_acknowledged_sets_survive_kill(self):
        chance = random.Random(time.time())
        # What a key may hold: the value that was acknowledged last, and all sent since.
        allowed = {}
        for _ in range(8):
            killer = threading.Timer(chance.uniform(0.02, 0.3), self.store.process.kill)
            killer.start()
            try:
                while True:
                    batch = [(b"k%d" % chance.randrange(5000), b"%d" % chance.getrandbits(300))
                             for _ in range(64)]
                    for key, value in batch:
                        allowed.setdefault(key, [None]).append(value)
                    self.client.socket.sendall(
                        b"".join(Client.request("SET", *pair) for pair in batch))
                    for key, value in batch:
                        self.assertEqual(self.client.reply(), b"+OK")
                        del allowed[key][:allowed[key].index(value)]
            except OSError:
                pass
            killer.join()
            self.restart(self.store.kill)
            keys = self.client.keys("COUNT", 1000)
            self.assertEqual(self.client("DBSIZE"), len(set(keys)))
            self.assertLessEqual(set(keys), set(allowed))
            for key, values in allowed.items():
                value = self.client("GET", key)
                self.assertIn(value, values)
                allowed[key] = [value]
        self.assertGreater(sum(values != [None] for values in allowed.values()), 100)

    @unittest.skipIf(shutil.which("redis-benchmark") is None, SKIP)
    def test_redis_benchmark(self):
        for pipeline in (1, 16):
            done = subprocess.run(
                ["redis-benchmark", "-p", str(self.store.port), "-t", "set,get", "-n", "20000",
                 "-c", "20", "-P", str(pipeline), "-r", "10000", "--csv"],
                capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn("ERR", done.stdout + done.stderr)
            self.assertNotIn("WARNING", done.stdout + done.stderr)
            self.assertIn('"SET"', done.stdout)
            self.assertIn('"GET"', done.stdout)
            print(done.stdout)
        self.assertGreater(self.client("DBSIZE"), 5000)
        self.restart(self.store.kill)
        self.assertGreater(self.client("DBSIZE"), 5000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
