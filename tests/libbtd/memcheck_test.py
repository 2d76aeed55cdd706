#!/usr/bin/env python3
"""What Memcheck says of programs that use a heap.

plain PROGRAM: a correct one, with the library as it is built for users.
told PROGRAM: memcheck_program, with a library that was built with BTD_VALGRIND."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77


def memcheck(*command, **environment):
    """The report, and the exit code of the program; 99 where there is an error to report."""
    command = ["valgrind", "--error-exitcode=99", *command]
    ran = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    return re.sub(r"^==\d+== ?", "", ran.stderr, flags=re.M), ran.returncode


class Told(unittest.TestCase):
    program = ""

    def setUp(self):
        self.pool = tempfile.mkdtemp(prefix="libbtd_memcheck.", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.pool)

    def report(self, case, code=99, **environment):
        said, ended = memcheck("--leak-check=full", self.program, case, BTD_POOL=self.pool, **environment)
        self.assertEqual(ended, code, said)
        return said

    def one_error(self, case, *expected):
        said = self.report(case)
        for each in expected:
            self.assertRegex(said, re.compile(each, re.S))
        self.assertRegex(said, r"ERROR SUMMARY: 1 errors from 1 contexts")

    def test_clean_use_is_clean_in_a_new_heap_an_old_one_and_one_to_recover(self):
        self.report("clean", 0)
        self.report("clean", 0)
        self.report("killed", -6)
        self.report("clean", 0)
        self.report("clean", 0, BTD_GUARD="1", BTD_TRACK="1")

    def test_blocks_of_another_process_are_not_out_of_bounds(self):
        self.report("shared", 0)
        self.report("shared", 0, BTD_GUARD="1")

    def test_use_after_free(self):
        self.one_error(
            "use_after_free",
            r"Invalid read of size 1\n.*look",
            r"is 10 bytes inside a block of size 100 free'd\n.*free_here",
            r"Block was alloc'd at\n.*allocate_here",
        )

    def test_use_after_free_of_the_other_contracts(self):
        self.one_error("published_after_free", r"10 bytes inside a block of size 100 free'd")
        self.one_error("tx_after_free", r"20 bytes inside a block of size 100 free'd")

    def test_use_after_free_is_seen_longer_with_the_guard(self):
        said = self.report("use_after_free", BTD_GUARD="1")
        self.assertRegex(said, r"is 10 bytes inside a block of size 100 free'd")

    def test_overflow_by_one_byte(self):
        self.one_error(
            "overflow",
            r"Invalid write of size 1\n.*main",
            r"is 0 bytes after a block of size 100 client-defined\n.*allocate_here",
        )

    def test_uninitialised(self):
        for case in ["uninitialised", "copied_uninitialised", "long_copied_uninitialised"]:
            self.one_error(case, r"Conditional jump or move depends on uninitialised")

    def test_a_source_that_is_too_short(self):
        self.one_error("bad_source", r"Unaddressable byte\(s\) found")

    def test_the_heaps_own_memory(self):
        self.one_error("metadata", r"Invalid write of size 8")


def plain(program):
    with tempfile.TemporaryDirectory(prefix="libbtd_memcheck.", dir="/dev/shm") as pool:
        # The search for leaks would read all that the files may grow to.
        said, code = memcheck("--leak-check=no", program, BTD_POOL=pool)
        if code != 0 or "ERROR SUMMARY: 0 errors" not in said:
            print(said)
            return 1
        return 0 if os.path.exists(pool + "/default/arena.0") else 1


def main():
    if shutil.which("valgrind") is None:
        print("valgrind is not installed; ./bootstrap deps installs it")
        return SKIPPED
    how, program = sys.argv[1:]
    if how == "plain":
        return plain(program)
    Told.program = program
    return not unittest.main(argv=[sys.argv[0]], exit=False).result.wasSuccessful()


sys.exit(main())
