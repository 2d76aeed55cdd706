#!/usr/bin/env python3
"""btd heap: each command on a fresh heap, a damaged one, one whose program was killed, a copy of a
live one. The content is that of heap_maker.c, and the numbers are exact."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

BTD, MAKER = sys.argv[1:3]
SEGMENT = 64 * 1024
# Leaks as heap_maker makes them; a block of 100 bytes takes one of 112, one of 200 one of 224, and
# 100 KiB two segments.
UNREACHED = {"blocks": 103, "bytes": 100 * 112 + 3 * 2 * SEGMENT}
# What the thread that died had claimed beyond that counts too: the rest of a word of each class.
READY = {"blocks": 63 * 6, "bytes": 63 * (32 + 64 + 1024 + 112 + 224 + 32)}
LOST = {"blocks": 6, "bytes": 5 * 48 + 224}
HELD = {"blocks": 1, "bytes": 224}


class Heap(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.addCleanup(scratch.cleanup)
        self.dir = scratch.name
        self.heap = os.path.join(self.dir, "h")

    def btd(self, *args, **more):
        environment = {**os.environ, "BTD_POOL": self.dir, **more}
        return subprocess.run(
            [BTD, "heap", *args], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env=environment, timeout=60,
        )

    def good(self, *args, code=0, **more):
        run = self.btd(*args, **more)
        self.assertEqual((run.returncode, run.stderr), (code, ""), run.stdout)
        self.assertNotIn("\x1b", run.stdout)
        return run.stdout

    def data(self, *args, **more):
        return json.loads(self.good(*args, "--json", **more))

    def refused(self, code, pattern, *args):
        run = self.btd(*args)
        self.assertEqual((run.returncode, run.stdout), (code, ""), run.stderr)
        self.assertRegex(run.stderr, pattern)

    def assertUnreached(self, blocks, size, more_blocks=0, more_bytes=0):
        self.assertTrue(0 <= blocks - UNREACHED["blocks"] - more_blocks <= READY["blocks"], blocks)
        self.assertTrue(0 <= size - UNREACHED["bytes"] - more_bytes <= READY["bytes"], size)

    def make(self, what="clean"):
        subprocess.run([MAKER, self.dir, what], check=True)

    @contextlib.contextmanager
    def running(self, what, **more):
        process = subprocess.Popen(
            [MAKER, self.dir, what], stdout=subprocess.PIPE, env={**os.environ, **more}
        )
        try:
            self.assertEqual(process.stdout.readline(), b"ready\n")
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def kill(self, what="leaks", **more):
        with self.running(what, **more):
            pass

    def snapshot(self):
        """Everything there is in the heap's directory, to see that nothing changes."""
        return {p.name: p.read_bytes() for p in pathlib.Path(self.heap).iterdir()}

    def flip(self, name, at, bits=0xFF):
        with open(os.path.join(self.heap, name), "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ bits]))

    def header_of_segment(self, kind_in_use=True):
        """Where the first header of a segment in use lies in arena.0."""
        facts = self.data("stat", self.heap)
        table = 4096 + 4096 + facts["journal"]["lanes"] * facts["journal"]["lane_bytes"]
        with open(os.path.join(self.heap, "arena.0"), "rb") as file:
            file.seek(table)
            headers = file.read(facts["segments"] * 64)
        used = [i for i in range(facts["segments"]) if headers[i * 64 : i * 64 + 8] != bytes(8)]
        return table + used[0] * 64


class Fresh(Heap):
    def test_ls(self):
        self.make()
        row = self.data("ls", self.dir)[0]
        self.assertEqual((row["name"], row["state"], row["arenas"]), ("h", "clean", 1))
        self.assertEqual(row["size"], 16 << 20)
        self.assertTrue(0 < row["used"] < row["space"] <= row["size"])
        # The default is where programs with single_node have their heaps.
        self.assertEqual(self.data("ls"), [row])
        text = self.good("ls").splitlines()
        self.assertRegex(text[0], r"^NAME +SIZE +SPACE +USED +ARENAS +WINDOW +STATE$")
        self.assertRegex(text[1], r"^h +16.0 MiB .* 1 +0x[0-9a-f]+ +clean$")

    def test_ls_of_an_empty_directory_and_of_none(self):
        self.assertEqual(self.data("ls"), [])
        self.refused(66, "No such file", "ls", "/no/such")

    def test_stat(self):
        self.make()
        facts = self.data("stat", "h")
        self.assertEqual((facts["state"], facts["pid"]), ("clean", None))
        self.assertEqual((facts["roots"], facts["types"]), (3, 1))
        self.assertEqual(facts["journal"]["to_replay"], 0)
        r = {row["bytes"]: row for row in facts["classes"] if row["contract"] == "R"}
        self.assertEqual({size: row["used"] for size, row in r.items()}, {32: 1, 64: 10, 1024: 1})
        in_use = facts["segments"] - facts["free_segments"]
        self.assertEqual(facts["in_segments"], in_use * SEGMENT)
        self.assertEqual(facts["free_inside_segments"], facts["in_segments"] - facts["used"])
        text = self.good("stat", "h")
        self.assertIn("3 roots, 1 types", text)
        self.assertRegex(text, r"(?m)^R +64 B +1 +10 +1020 +1% +640 B$")

    def test_map(self):
        self.make("grow")
        facts = self.data("stat", "h")
        self.assertEqual(facts["large"], {"recoverable": 6, "transactional": 0, "bytes": 24 << 20})
        text = self.good("stat", "h", "--map").split("\n\n")[-1]
        picture = "".join(re.findall(r"(?m)^ *\d+ (\S+)$", text))
        self.assertEqual(picture.count("R"), 24 << 20 >> 16)
        self.assertIn("A character is a segment of 64 KiB", text)

    def test_svg(self):
        self.make("grow")
        path = os.path.join(self.dir, "heap.svg")
        self.good("stat", "h", "--svg", path)
        root = xml.etree.ElementTree.parse(path).getroot()
        space = "{http://www.w3.org/2000/svg}"
        self.assertEqual(root.tag, space + "svg")
        self.assertEqual(root.find(space + "title").text, "Segments of heap h")
        texts = [text.text for text in root.iter(space + "text")]
        for word in ("large", "free", "damaged", "to 64 B"):
            self.assertIn(word, texts)
        self.assertGreater(len(list(root.iter(space + "rect"))), 10)
        self.refused(74, "cannot be written", "stat", "h", "--svg", "/no/such/file")

    def test_check_and_leaks_find_nothing_and_change_nothing(self):
        self.make()
        before = self.snapshot()
        report = self.data("check", "h")
        self.assertEqual((report["notes"], report["uncorrected"]), (0, 0))
        self.assertEqual((report["roots"], report["types"]), (3, 1))
        self.assertEqual((report["recoverable_blocks"], report["recoverable_bytes"]), (12, 1696))
        self.assertEqual((report["transactional_blocks"], report["transactional_bytes"]), (1, 48))
        self.assertTrue(self.good("check", "h").endswith("h: clean\n"))
        self.assertIn("no leaks", self.good("leaks", "h"))
        self.good("check", "h", "--repair")
        self.good("dump", "h")
        self.assertEqual(self.snapshot(), before)

    def test_dump(self):
        self.make()
        out = self.data("dump", "h", "--root", "list", "--bytes", "16")
        self.assertEqual((out["roots"], out["reached"]), (1, 10))
        first = out["objects"][0]
        self.assertEqual((first["bytes"], first["contract"], first["type"]), (64, "R", 0))
        self.assertEqual(bytes.fromhex(first["data"])[8:14], b"node 9")
        # Each points to the one after it.
        pointers = [
            int.from_bytes(bytes.fromhex(row["data"])[:8], "little") for row in out["objects"]
        ]
        addresses = [int(row["address"], 16) for row in out["objects"]]
        self.assertEqual(pointers, addresses[1:] + [0])
        everything = self.data("dump", "h")
        self.assertEqual((everything["roots"], everything["reached"]), (3, 13))
        self.assertEqual([o["contract"] for o in everything["objects"]].count("T"), 1)
        self.assertEqual([o["type"] for o in everything["objects"]].count(7), 1)
        text = self.good("dump", "h", "--max", "2")
        self.assertIn("root list\n", text)
        self.assertIn("node 9..|", text)
        self.assertTrue(text.endswith("13 objects reached from 3 roots, 2 shown; --max shows more\n"))
        self.refused(66, "has no root none", "dump", "h", "--root", "none")

    def test_gc_of_a_clean_heap_keeps_what_is_reachable(self):
        self.make()
        self.assertIn("0 B to reclaim", self.good("gc", "h"))
        self.assertEqual(self.data("check", "h")["recoverable_blocks"], 12)

    def test_wrong_arguments(self):
        self.refused(64, "btd heap --help", "frob")
        self.refused(64, "HEAP is required", "stat")
        self.refused(16, "HEAP is required", "check")
        for command in ("stat", "leaks", "dump", "gc"):
            self.refused(66, "No such file|none", command, "none")
        self.refused(8, "No such file", "check", "none")


class Killed(Heap):
    def test_leaks_are_all_found(self):
        self.kill()
        before = self.snapshot()
        report = self.data("leaks", "h")
        self.assertFalse(report["exact"])
        self.assertUnreached(report["unreached"]["blocks"], report["unreached"]["bytes"])
        self.assertEqual(report["lost"], LOST)
        self.assertEqual(report["held"], HELD)
        classes = {(row["kind"], row["class"]): row["blocks"] for row in report["classes"]}
        exact = {("unreached", "R large"): 3, ("lost", "T 48 B"): 5, ("lost", "T 224 B"): 1,
                 ("held", "R 224 B"): 1}
        self.assertEqual({key: classes[key] for key in exact}, exact)
        self.assertTrue(100 <= classes["unreached", "R 112 B"] <= 163, classes)
        self.assertFalse(report["recorded"])
        self.assertEqual(report["sites"], [])
        text = self.good("leaks", "h")
        self.assertIn("set BTD_TRACK=1", text)
        self.assertRegex(text, r"(?m)^unreached: \d+ KiB in \d+ blocks$")
        self.assertIn("a program died", text)
        self.assertEqual(self.snapshot(), before)

    def test_leaks_by_call_site(self):
        self.kill(BTD_TRACK="1")
        report = self.data("leaks", "h")
        self.assertTrue(report["recorded"])
        self.assertUnreached(report["unreached"]["blocks"], report["unreached"]["bytes"])
        sizes = {(row["blocks"], row["bytes"]): row for row in report["sites"]}
        small, large = sizes[100, 11200], sizes[3, 3 * 2 * SEGMENT]
        self.assertEqual(small["module"], os.path.realpath(MAKER))
        if shutil.which("addr2line"):
            self.assertTrue(small["where"].startswith("leak_small at "), small)
            self.assertIn("heap_maker.c:", small["where"])
            self.assertTrue(large["where"].startswith("leak_large at "), large)
        self.assertEqual(sum(row["blocks"] for row in report["sites"] if row["module"]), 110)
        self.assertIn("CALLED FROM", self.good("leaks", "h"))
        # Who opens the heap without recording takes away what would be wrong from then on.
        self.make()
        self.assertFalse(self.data("leaks", "h")["recorded"])

    def test_a_full_table_of_call_sites_forgets_and_says_so(self):
        self.kill("many", BTD_TRACK="1024")
        report = self.data("leaks", "h")
        self.assertUnreached(report["unreached"]["blocks"], report["unreached"]["bytes"],
                             5000, 5000 * 16)
        self.assertGreaterEqual(report["forgotten"], 5000 - 1024)
        known = sum(row["blocks"] for row in report["sites"] if row["module"])
        self.assertTrue(0 < known <= 1024, known)
        self.assertIn("entries were forgotten", self.good("leaks", "h"))
        self.assertEqual(os.path.getsize(os.path.join(self.heap, "track")),
                         4096 + 256 * 512 + 1024 * 16)

    def test_check_then_repair(self):
        self.kill()
        before = self.snapshot()
        report = self.data("check", "h")
        self.assertEqual((report["uncorrected"], report["repaired"]), (0, 0))
        self.assertUnreached(report["unreached_blocks"], report["unreached_bytes"])
        self.assertEqual(report["lost_blocks"], LOST["blocks"] + HELD["blocks"])
        sentences = " ".join(finding["sentence"] for finding in report["findings"])
        self.assertIn("The heap was not closed", sentences)
        self.assertIn("The journal has", sentences)
        self.assertEqual(self.snapshot(), before)
        self.assertEqual(self.data("ls")[0]["state"], "not closed")
        repaired = self.data("check", "h", "--repair", code=1)
        self.assertGreaterEqual(repaired["repaired"], 3)
        self.assertEqual((repaired["uncorrected"], repaired["unreached_blocks"]), (0, 0))
        self.assertEqual(repaired["recoverable_blocks"], 12 + HELD["blocks"])
        self.assertEqual(self.data("ls")[0]["state"], "clean")
        # What is of P stays, and is no reason to repair again.
        self.assertEqual(self.data("check", "h", "--repair")["lost_blocks"], 7)

    def test_gc(self):
        self.kill()
        self.assertRegex(self.good("gc", "h"), r"\b(39[5-9]|4\d\d) KiB reclaimed")
        report = self.data("leaks", "h")
        self.assertEqual(report["unreached"], {"blocks": 0, "bytes": 0})
        self.assertEqual((report["lost"], report["held"]), (LOST, HELD))
        self.assertEqual(self.data("dump", "h")["reached"], 13)

    def test_stat_counts_what_was_left(self):
        self.kill()
        facts = self.data("stat", "h")
        self.assertEqual(facts["state"], "not closed")
        r = {row["bytes"]: row["used"] for row in facts["classes"] if row["contract"] == "R"}
        self.assertTrue(100 <= r[112] <= 163 and 10 <= r[64] <= 73, r)
        self.assertGreater(facts["journal"]["to_replay"], 0)


class InUse(Heap):
    def test_what_can_be_shown_is_and_the_rest_names_the_process(self):
        with self.running("leaks") as process:
            row = self.data("ls")[0]
            self.assertEqual((row["state"], row["pid"]), ("open", process.pid))
            self.assertIn(f"open by process {process.pid}", self.good("ls"))
            facts = self.data("stat", "h")
            self.assertEqual((facts["state"], facts["pid"]), ("open", process.pid))
            self.assertEqual((facts["roots"], facts["journal"]["to_replay"]), (None, None))
            r = {row["bytes"]: row["used"] for row in facts["classes"] if row["contract"] == "R"}
            self.assertTrue(100 <= r[112] <= 163, r)
            self.good("stat", "h", "--map", "--svg", os.path.join(self.dir, "x.svg"))
            message = f"^btd: Heap h is open in process {process.pid}; end that"
            for command in ("leaks", "dump", "gc"):
                self.refused(75, message, command, "h")
            self.refused(8, message, "check", "h")
            self.refused(8, message, "check", "h", "--repair")

    def test_while_a_tool_looks_no_program_opens_the_heap(self):
        self.make()
        with open(os.path.join(self.heap, "lock"), "rb") as lock:
            fcntl.lockf(lock, fcntl.LOCK_SH)
            run = subprocess.run([MAKER, self.dir, "clean"], capture_output=True, text=True)
            self.assertEqual(run.returncode, 1)
            self.assertIn("Heap h is open in another process; end that", run.stderr)
            # Several tools may.
            self.good("stat", "h")
            self.good("check", "h")

    def copy(self):
        copy = os.path.join(self.dir, "copy")
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-r", "--sparse=always", self.heap, copy], check=True)
        return copy

    def test_a_copy_of_a_live_heap_is_sound(self):
        with self.running("leaks"):
            copy = self.copy()
            report = self.data("check", copy)
            self.assertEqual(report["uncorrected"], 0)
            self.assertTrue(116 <= report["recoverable_blocks"] <= 116 + READY["blocks"])
            leaks = self.data("leaks", copy)["unreached"]
            self.assertUnreached(leaks["blocks"], leaks["bytes"])
            self.assertEqual(self.data("check", copy, "--repair", code=1)["unreached_blocks"], 0)

    def test_a_copy_of_one_that_was_stopped_in_the_middle_is_sound(self):
        with self.running("churn") as process:
            for _ in range(5):
                os.kill(process.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED)
                copy = self.copy()
                os.kill(process.pid, signal.SIGCONT)
                self.assertEqual(self.data("check", copy)["uncorrected"], 0)


class Damaged(Heap):
    def problems(self, pattern):
        report = self.data("check", "h", code=4)
        self.assertGreater(report["uncorrected"], 0)
        sentences = " ".join(f["sentence"] for f in report["findings"])
        self.assertRegex(sentences, pattern)
        before = self.snapshot()
        # Repair does not guess.
        self.good("check", "h", "--repair", code=4)
        self.assertEqual(self.snapshot(), before)
        return report

    def test_identity(self):
        self.make()
        self.flip("arena.0", 40)
        self.problems("header of arena.0 is damaged")
        self.assertEqual(self.data("ls")[0]["state"], "damaged")
        self.refused(65, "header of arena.0 is damaged", "stat", "h")

    def test_a_second_arena(self):
        self.make("grow")
        self.flip("arena.1", 40)
        self.problems("Arena 1 has a damaged header")

    def test_state(self):
        self.make()
        self.flip("arena.0", 128, 1)
        self.problems("state is damaged")
        self.assertEqual(self.data("ls")[0]["state"], "damaged")

    def test_segment_words_are_all_named(self):
        self.make()
        at = self.header_of_segment()
        self.flip("arena.0", at + 3, 4)
        self.flip("arena.0", at + 64 + 3, 4)
        report = self.problems("The header of segment 0 of arena 0 is damaged")
        self.assertEqual(report["uncorrected"], 2)
        self.assertEqual(self.data("ls")[0]["state"], "damaged")
        self.refused(65, "is damaged", "leaks", "h")
        self.refused(65, "is damaged", "gc", "h")

    def test_bits_of_slots_that_do_not_exist(self):
        self.make("grow")
        facts = self.data("stat", "h")
        large = [r for r in facts["classes"]]
        self.assertTrue(large)
        # The bitmap of a large extent has one bit.
        table = 4096 + 4096 + facts["journal"]["lanes"] * facts["journal"]["lane_bytes"]
        with open(os.path.join(self.heap, "arena.0"), "rb") as file:
            file.seek(table)
            headers = file.read(facts["segments"] * 64)
        spans = [int.from_bytes(headers[i : i + 8], "little") >> 8 & 0xFFFFFFFF
                 for i in range(0, len(headers), 64)]
        self.flip("arena.0", table + spans.index(64) * 64 + 32, 2)
        self.problems("its bitmap has slots that do not exist")

    def test_journal(self):
        self.make()
        self.flip("arena.0", 4096 + 8)
        self.problems("(?i)journal")

    def test_a_truncated_arena(self):
        self.make("grow")
        os.truncate(os.path.join(self.heap, "arena.1"), 1 << 20)
        self.problems("Arena 1 has 1048576 bytes instead of \\d+; it was truncated")
        os.truncate(os.path.join(self.heap, "arena.0"), 100)
        self.problems("Arena 0 has 100 bytes instead of 4096 or more; it was truncated")

    def test_a_missing_arena(self):
        self.make("grow")
        os.unlink(os.path.join(self.heap, "arena.1"))
        self.problems("put the missing files back")

    def test_another_version_is_no_damage(self):
        self.make()
        self.flip("arena.0", 8, 0x40)
        self.refused(8, "has format version 68 but this library reads version", "check", "h")
        self.refused(64, "has format version 68", "leaks", "h")
        self.assertEqual(self.data("ls")[0]["state"], "of another version")

    def test_random_flips_never_crash_a_command(self):
        self.make("grow")
        kept = self.snapshot()
        size = 4096 + 4096 + 8 * 256 * 1024 + 16384
        for i in range(60):
            at = [i * 2 % 1100, 4096 + i % 72, size - 16384 + i * 211][i % 3]
            self.flip("arena.0", at, 1 << i % 8)
            for command in ("check", "leaks", "stat", "dump", "ls"):
                run = self.btd(command, *([] if command == "ls" else ["h"]))
                self.assertIn(run.returncode, (0, 4, 8, 64, 65, 74), (at, command, run.stderr))
                self.assertNotIn("defect", run.stderr)
            pathlib.Path(self.heap, "arena.0").write_bytes(kept["arena.0"])


class Pages(unittest.TestCase):
    def test_every_option_in_the_help_is_in_the_man_page(self):
        page = (pathlib.Path(__file__).parents[2] / "man/btd-heap.1").read_text()
        for command in ("ls", "stat", "check", "leaks", "gc", "dump"):
            run = subprocess.run([BTD, "heap", command, "--help"], capture_output=True, text=True)
            self.assertIn("Examples:\n  ", run.stdout)
            self.assertIn(f".Cm {command}", page)
            for option in set(re.findall(r"(?m)^ +.*?--([a-z]+)", run.stdout)):
                self.assertIn(f"Fl Fl {option}", page, f"btd heap {command} --{option}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
