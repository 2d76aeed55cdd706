#!/usr/bin/env python3
"""btd from outside, without a mount: help, exact messages, exit codes, output in a pipe."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

BTD = sys.argv[1]
COMMANDS = ("format", "mount", "umount", "status", "df", "ls", "check", "heap", "net", "cluster", "version")


class BlackBox(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = scratch.name
        # The machine's own configuration must not matter.
        self.config = os.path.join(self.dir, "empty.toml")
        pathlib.Path(self.config).touch()

    def btd(self, *args, config=True, program=BTD):
        options = ["--config", self.config] if config else []
        return subprocess.run(
            [program, *options, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def refused(self, code, message, *args, **options):
        run = self.btd(*args, **options)
        self.assertEqual((run.returncode, run.stderr, run.stdout), (code, message + "\n", ""))

    def test_help_shows_every_command_and_hides_the_worker(self):
        run = self.btd("--help", config=False)
        self.assertEqual(run.returncode, 0)
        for command in COMMANDS:
            self.assertRegex(run.stdout, rf"(?m)^  {command} +\S")
        self.assertNotIn("worker", run.stdout)
        self.assertIn("A first tour, as root:", run.stdout)

    def test_help_of_every_command_teaches(self):
        for command in COMMANDS:
            run = self.btd(command, "--help", config=False)
            self.assertEqual(run.returncode, 0)
            if command != "version":
                self.assertIn("Examples:\n  btd ", run.stdout, command)

    def test_every_option_in_the_help_is_in_the_man_page(self):
        for command in COMMANDS:
            name = f"btd-{command}.1" if command in ("heap", "net", "cluster") else "btd.1"
            page = (pathlib.Path(__file__).parents[2] / "man" / name).read_text()
            shown = self.btd(command, "--help", config=False).stdout
            for option in set(re.findall(r"--([a-z]+)", shown)):
                self.assertIn(f"Fl Fl {option}", page, f"btd {command} --{option}")

    def test_net_measures_with_a_key_and_refuses_another(self):
        keys = [os.path.join(self.dir, name) for name in ("key", "other")]
        for path in keys:
            with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                file.write(os.urandom(32))
        server = subprocess.Popen(
            [BTD, "--config", self.config, "net", "bench", "server", "127.0.0.1:0", "--key", keys[0]],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        address = server.stdout.readline().split()[-1]
        run = self.btd("net", "ping", address, "--key", keys[0], "--count", "3", "--json")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        self.assertEqual(json.loads(run.stdout)["count"], 3)
        run = self.btd("net", "bench", "client", address, "--key", keys[0], "--size", "4K", "--verb", "read", "--json")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        (row,) = json.loads(run.stdout)
        self.assertGreater(row["operations"], 0)
        self.assertEqual(row["size"], 4096)
        run = self.btd("net", "ping", address, "--key", keys[1])
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("same cluster key", run.stderr)
        os.chmod(keys[0], 0o644)
        run = self.btd("net", "ping", address, "--key", keys[0])
        self.assertEqual(run.returncode, 77)
        self.assertIn("chmod 600", run.stderr)
        self.refused(64, "btd: --verb fly is none of read, write, cas, send",
                     "net", "bench", "client", address, "--verb", "fly")

    def test_no_colours_in_a_pipe(self):
        for args in (["--help"], ["frob"], ["version"]):
            run = self.btd(*args, config=False)
            self.assertNotIn("\x1b", run.stdout + run.stderr)

    def test_usage_errors(self):
        self.refused(64, "btd: A subcommand is required; `btd --help` shows what it takes")
        self.refused(
            64,
            "btd: 'frob' is no command; `btd --help` shows what it takes",
            "frob",
        )
        self.refused(
            64, "btd: POOL is required; `btd format --help` shows what it takes", "format"
        )
        self.refused(
            64,
            "btd: The following argument was not expected: --frob; "
            "`btd df --help` shows what it takes",
            "df",
            "--frob",
        )
        self.refused(16, "btd: POOL is required; `btd check --help` shows what it takes", "check")
        self.refused(
            64,
            "btd: The following argument was not expected: n2; "
            "`btd cluster move --help` shows what it takes",
            "cluster", "move", "/mnt/bartender/file", "n2",
        )
        self.refused(
            64,
            "btd: N: Value 0 not in range 1 to 9; `btd cluster dev --help` shows what it takes",
            "cluster", "dev", "0",
        )
        self.refused(
            64, "btd: 'frob' is no command; `btd cluster --help` shows what it takes",
            "cluster", "frob",
        )

    def test_format_refuses_what_it_cannot_mean(self):
        pool = os.path.join(self.dir, "pool")
        self.refused(
            64,
            "btd: '1.5G' is no size; write a whole number of bytes, or one with K, M, G or T, such "
            "as 512M",
            "format", pool, "--size", "1.5G",
        )
        self.refused(
            64,
            "btd: --emulate takes none, ram or disk, not 'nvdimm'",
            "format", pool, "--emulate", "nvdimm",
        )
        self.assertFalse(os.path.exists(pool))

    def test_mount_refuses_before_it_does_anything(self):
        self.refused(
            64,
            "btd: name the pool and the directory: btd mount POOL DIR (or set both in [mount] of "
            f"{self.config})",
            "mount",
        )
        self.refused(
            64, "btd: option threads takes 0 to 256, not 999", "mount", "/p", "/m", "-o", "threads=999"
        )
        self.refused(
            66,
            f"btd: {self.dir}/none is not there; make it with `mkdir -p {self.dir}/none`",
            "mount", "/p", f"{self.dir}/none",
        )
        self.refused(
            66, f"btd: {self.config} is not a directory; mount at one", "mount", "/p", self.config
        )

    def test_what_is_not_a_mount_is_said_so(self):
        for command in (["status"], ["df"], ["ls"], ["umount"]):
            self.refused(
                66,
                f"btd: {self.dir} is not on a bartender mount; `findmnt -t fuse.bartender` lists "
                "those there are",
                *command, self.dir,
            )
        self.refused(66, "btd: /no/such: No such file or directory", "ls", "/no/such")

    def test_a_wrong_configuration_is_named_with_its_line(self):
        pathlib.Path(self.config).write_text("[mount]\nthreads = 1\nthread = 2\n")
        run = self.btd("mount", "/p", self.dir)
        self.assertEqual(run.returncode, 78)
        self.assertTrue(
            run.stderr.startswith(f"btd: {self.config}:3: unknown key 'thread' in [mount]; known are ")
        )

    def test_a_missing_configuration_is_named(self):
        self.refused(
            66, "btd: /no/c.toml: No such file or directory",
            "--config", "/no/c.toml", "mount", "/p", "/m", config=False,
        )

    def test_version(self):
        plain = self.btd("version").stdout.splitlines()
        facts = json.loads(self.btd("version", "--json").stdout)
        self.assertEqual(plain[0], f"btd {facts['btd']}")
        self.assertEqual(plain[1], f"libfuse {facts['libfuse']}")
        self.assertGreaterEqual([int(n) for n in facts["libfuse"].split(".")], [3, 18, 3])
        self.assertEqual(facts["kernel"], os.uname().release)

    def test_check_of_no_pool_is_an_operational_error(self):
        run = self.btd("check", os.path.join(self.dir, "none"))
        self.assertEqual(run.returncode, 8)
        self.assertTrue(run.stderr.startswith("btd: "))
        self.assertEqual(run.stdout, "")


class MountHelper(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = scratch.name
        self.helper = os.path.join(self.dir, "mount.bartender")
        os.symlink(os.path.abspath(BTD), self.helper)

    def helper_run(self, *args):
        return subprocess.run([self.helper, *args], capture_output=True, text=True)

    def test_takes_the_flags_of_mount_in_any_order(self):
        for args in (
            ["/p", "/m", "-f", "-n", "-v", "-o", "rw,noatime,nofail,_netdev"],
            ["-fnv", "/p", "/m", "-o", "rw"],
            ["/p", "/m", "-vf", "-t", "bartender", "-o", "ro,x-systemd.automount"],
        ):
            run = self.helper_run(*args)
            self.assertEqual((run.returncode, run.stderr), (0, ""), args)
            self.assertEqual(run.stdout, "mount.bartender: /p on /m\n")

    def test_sloppy_passes_over_unknown_options(self):
        self.assertEqual(self.helper_run("/p", "/m", "-f", "-s", "-o", "frob").returncode, 0)
        run = self.helper_run("/p", "/m", "-f", "-o", "frob")
        self.assertEqual(run.returncode, 1)
        self.assertTrue(run.stderr.startswith("mount.bartender: 'frob' is no option of a mount;"))

    def test_wrong_arguments(self):
        for args in ([], ["/p"], ["/p", "/m", "/x"]):
            run = self.helper_run(*args)
            self.assertEqual(run.returncode, 1)
            self.assertEqual(
                run.stderr,
                "mount.bartender: name the pool and the directory: mount -t bartender POOL DIR\n",
            )
        run = self.helper_run("/p", "/m", "-q")
        self.assertEqual(
            (run.returncode, run.stderr),
            (1, "mount.bartender: -q is no flag that mount(8) passes\n"),
        )

    def test_a_failed_mount_is_32(self):
        run = self.helper_run("/p", os.path.join(self.dir, "none"))
        self.assertEqual(run.returncode, 32)
        self.assertIn("is not there; make it with `mkdir -p", run.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
