#!/usr/bin/env python3
"""How a CTest run is counted: by label, with the cases inside, and never as passed unless it ran."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).parents[2] / ".ci/lib/count_results.py"
SHOWN = (
    '{"tests": [{"name": "a.one", "properties": [{"name": "LABELS", "value": ["alpha"]}]},'
    ' {"name": "b.all", "properties": [{"name": "LABELS", "value": ["beta"]}]}]}'
)


def case(name, status, output=""):
    return f'<testcase name="{name}" status="{status}"><system-out>{output}</system-out></testcase>'


class Counting(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = pathlib.Path(scratch.name)
        ctest = self.dir / "ctest"
        ctest.write_text(f"#!/bin/sh\ncat <<'END'\n{SHOWN}\nEND\n")
        ctest.chmod(0o755)

    def count(self, *cases, stage="unit suites"):
        if cases:
            (self.dir / "junit").write_text(f"<testsuite>{''.join(cases)}</testsuite>")
        files = [self.dir / name for name in ("results", "failures", "skips")]
        for path in files:
            path.write_text("")
        env = dict(os.environ, PATH=f"{self.dir}:{os.environ['PATH']}")
        self.printed = subprocess.run(
            [sys.executable, SCRIPT, stage, self.dir, self.dir / "junit", *files],
            env=env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return [path.read_text() for path in files]

    def test_by_label(self):
        results, failures, skips = self.count(
            case("a.one", "run"), case("a.two", "run"), case("b.all", "fail")
        )
        self.assertEqual(results, "alpha\t1\t0\t0\nbeta\t0\t1\t0\nunlabelled\t1\t0\t0\n")
        self.assertEqual(failures, "beta: b.all\n")
        self.assertEqual(skips, "")

    def test_cases_inside_a_program_are_counted(self):
        output = (
            "[  FAILED  ] Deep.Tree (3 ms)\n/x/y.cc:4: Skipped\nneeds a disk\n"
            "[==========] 10 tests from 2 test suites ran. (9 ms total)\n"
            "[  PASSED  ] 8 tests.\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Big.File\n"
            "[  FAILED  ] 1 test, listed below:\n[  FAILED  ] Deep.Tree\n"
        )
        results, failures, skips = self.count(case("b.all", "fail", output))
        self.assertEqual(results, "beta\t8\t1\t1\n")
        self.assertEqual(failures, "beta: Deep.Tree\n")
        self.assertEqual(skips, "beta: b.all: needs a disk\n")

    def test_cases_of_unittest_are_counted(self):
        output = "Ran 7 tests in 0.1s\n\nFAILED (failures=1, errors=1, skipped=2)\n"
        self.assertEqual(self.count(case("b.all", "fail", output))[0], "beta\t3\t2\t2\n")

    def test_a_program_that_died_after_its_cases_failed(self):
        output = "[==========] 3 tests from 1 test suite ran. (1 ms total)\n[  PASSED  ] 3 tests.\nleak\n"
        self.assertEqual(self.count(case("b.all", "fail", output))[0], "beta\t3\t1\t0\n")

    def test_what_a_failed_test_printed_is_shown(self):
        self.count(case("a.one", "run", "fine\n"), case("b.all", "fail", "x\n" * 90 + "why\n"))
        self.assertIn("b.all failed", self.printed)
        self.assertIn("| why\n", self.printed)
        self.assertNotIn("fine", self.printed)
        self.assertLess(self.printed.count("\n"), 50)

    def test_a_skip_is_no_pass_and_has_its_reason(self):
        results, _, skips = self.count(case("a.one", "notrun", "no /dev/fuse here\n"))
        self.assertEqual(results, "alpha\t0\t0\t1\n")
        self.assertEqual(skips, "alpha: a.one: no /dev/fuse here\n")

    def test_a_run_without_tests_is_a_failure(self):
        results, failures, _ = self.count()
        self.assertEqual(results, "unit suites\t0\t1\t0\n")
        self.assertEqual(failures, "unit suites: no test was found\n")

    def test_the_variant_is_part_of_the_suite(self):
        self.assertEqual(
            self.count(case("a.one", "run"), stage="unit suites, asan-ubsan")[0],
            "alpha (asan-ubsan)\t1\t0\t0\n",
        )


if __name__ == "__main__":
    unittest.main()
