#!/usr/bin/env python3
"""bootstrap's front: usage, wrong arguments, the lock. It is run in a copy, so nothing is built."""

import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]
# What a bootstrap that runs these tests exported must not reach the copies.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("BTD_")}


class Bootstrap(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = pathlib.Path(scratch.name)
        shutil.copy(ROOT / "bootstrap", self.dir)
        shutil.copytree(ROOT / ".ci", self.dir / ".ci")

    def run_it(self, *args, **environment):
        return subprocess.run(
            [self.dir / "bootstrap", *args],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**ENVIRONMENT, **environment},
        )

    def test_help_names_every_command(self):
        run = self.run_it("help")
        self.assertEqual(run.returncode, 0)
        for command in ("run", "stop", "test", "bench", "soak", "deps", "clean"):
            self.assertRegex(run.stdout, rf"(?m)^  {command} ")

    def test_unknown_command(self):
        run = self.run_it("frobnicate")
        self.assertEqual(run.returncode, 64)
        self.assertIn("'frobnicate' is no command of bootstrap", run.stderr)

    def test_run_refuses_what_it_does_not_know(self):
        run = self.run_it("run", "--frob", "1")
        self.assertEqual(run.returncode, 64)
        self.assertIn("'--frob' is no option of run", run.stderr)
        run = self.run_it("run", "--size")
        self.assertEqual(run.returncode, 64)
        self.assertIn("--size needs a value", run.stderr)

    def test_two_at_once_do_not_collide(self):
        with open(self.dir / "bootstrap") as script:
            fcntl.flock(script, fcntl.LOCK_EX)
            run = self.run_it("clean")
        self.assertEqual(run.returncode, 75)
        self.assertIn("another bootstrap runs in this checkout", run.stderr)
        self.assertEqual(self.run_it("clean").returncode, 0)

    def test_the_package_list_is_plain(self):
        run = self.run_it("deps", "--list")
        self.assertEqual(run.returncode, 0)
        self.assertIn("libpmem-dev\n", run.stdout)
        for line in run.stdout.splitlines():
            self.assertRegex(line, r"^[a-z0-9+.-]+$")

    def test_a_system_without_apt_is_told_what_to_do(self):
        run = subprocess.run(
            ["bash", "-c", 'source "$0/common.sh"; source "$0/packages.sh"; '
             'command() { return 1; }; check_system', self.dir / ".ci/lib"],
            capture_output=True, text=True,
        )
        self.assertEqual(run.returncode, 69)
        self.assertIn("./bootstrap deps --list", run.stderr)

    def test_clean_leaves_a_prefix_elsewhere_alone(self):
        (self.dir / "elsewhere").mkdir()
        self.run_it("clean", "--all", BTD_DEPS=str(self.dir / "elsewhere"))
        self.assertTrue((self.dir / "elsewhere").exists())

    def test_clean_removes_the_build_and_with_all_the_libfuse(self):
        (self.dir / "build/logs").mkdir(parents=True)
        (self.dir / ".deps").mkdir()
        self.run_it("clean")
        self.assertFalse((self.dir / "build").exists())
        self.assertTrue((self.dir / ".deps").exists())
        self.run_it("clean", "--all")
        self.assertFalse((self.dir / ".deps").exists())


if __name__ == "__main__":
    unittest.main()
