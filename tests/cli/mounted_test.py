#!/usr/bin/env python3
"""btd on a real mount: format, mount, status, df, ls, check, umount, mount(8) and mount.bartender.

One pool in RAM serves all cases; it goes with the test, whatever happens."""

import json
import os
import pathlib
import pty
import shutil
import subprocess
import sys
import tempfile
import unittest

BTD = os.path.abspath(sys.argv[1])


def btd(*args, **options):
    return subprocess.run(
        [BTD, *map(str, args)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=90,
        **options,
    )


def is_mounted(directory):
    return subprocess.run(["mountpoint", "-q", directory]).returncode == 0


class Mounted(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="btd cli "))
        cls.addClassCleanup(cls.clean_up)
        cls.pool, cls.dir = cls.base / "pool", cls.base / "mnt"
        cls.dir.mkdir()
        cls.format_run = btd("format", cls.pool, "--emulate", "ram", "--size", "96M")
        cls.mount_run = btd("mount", cls.pool, cls.dir)
        if cls.mount_run.returncode != 0:
            raise AssertionError(cls.format_run.stderr + cls.mount_run.stderr)

    @classmethod
    def clean_up(cls):
        for directory in (cls.dir, cls.pool):
            if is_mounted(directory):
                subprocess.run(["umount", "-l", directory])
        shutil.rmtree(cls.base, ignore_errors=True)

    def refused(self, code, message, *args):
        run = btd(*args)
        self.assertEqual((run.returncode, run.stderr), (code, message + "\n"))

    def test_format_says_what_it_made(self):
        self.assertEqual(self.format_run.returncode, 0, self.format_run.stderr)
        first, second = self.format_run.stdout.splitlines()
        self.assertRegex(first, r"^Formatted .*/pool: 96\.0 MiB of NVRAM \(.*RAM.*\), which survives ")
        self.assertEqual(second, f"Mount it with: btd mount {self.pool} DIR")

    def test_mount_says_nothing_where_all_is_well(self):
        self.assertEqual((self.mount_run.stdout, self.mount_run.stderr), ("", ""))

    def test_status_is_the_daemons(self):
        self.assertIn(str(self.pool), btd("status", self.dir).stdout)
        facts = json.loads(btd("status", self.dir, "--json").stdout)
        self.assertEqual(facts["pool"]["path"], str(self.pool))
        self.assertEqual(facts["mountpoint"], str(self.dir))

    def test_df_agrees_with_df(self):
        row = json.loads(btd("df", self.dir, "--json").stdout)
        for directory in (self.dir, self.pool):
            theirs = subprocess.run(
                ["df", "-B1", "--output=size,used,avail,pcent", directory],
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()[1].split()
            ours = [row["size"], row["used"], row["available"], f"{row['used_percent']}%"]
            self.assertEqual(theirs, list(map(str, ours)))
        self.assertEqual(row["size"], 96 << 20)
        header, line = btd("df", self.dir).stdout.splitlines()
        self.assertEqual(
            header.split(), ["POOL", "SIZE", "USED", "AVAILABLE", "USE%", "MOUNTED", "ON"]
        )
        self.assertIn("96.0 MiB", line)

    def test_ls_shows_what_the_attributes_say(self):
        folder = self.dir / "ls"
        (folder / "deep").mkdir(parents=True)
        (folder / "plain").write_bytes(b"x" * 10000)
        (folder / "deep" / "inner").write_bytes(b"")
        (folder / "link").symlink_to("plain")
        os.mkfifo(folder / "pipe")
        rows = json.loads(btd("ls", "--json", folder).stdout)
        self.assertEqual([row["path"] for row in rows], [str(folder / "plain")])
        row = rows[0]
        for key in ("id", "home", "mode", "backing"):
            value = os.getxattr(folder / "plain", f"user.btd.{key}").decode()
            self.assertEqual(row[key], value)
        self.assertEqual((row["size"], row["extents"]), (10000, 1))
        self.assertEqual(row["allocated"], os.stat(self.pool / row["backing"]).st_blocks * 512)
        deep = json.loads(btd("ls", "--json", "-R", folder).stdout)
        self.assertEqual([row["path"] for row in deep][1:], [str(folder / "deep" / "inner")])
        self.assertEqual(deep[1]["extents"], 0)
        table = btd("ls", folder / "plain").stdout.splitlines()
        self.assertEqual(
            table[0].split(), ["ID", "HOME", "MODE", "SIZE", "ALLOCATED", "EXTENTS", "PATH"]
        )
        self.assertIn("9.77 KiB", table[1])
        self.refused(
            64, f"btd: {folder}/pipe is no allocation: only regular files are", "ls", folder / "pipe"
        )
        self.refused(66, f"btd: {folder}/none: No such file or directory", "ls", folder / "none")

    def test_ls_counts_the_pieces_of_a_sparse_file(self):
        file = self.dir / "pieces"
        file.touch()
        os.setxattr(file, "user.btd.sparse", b"1")
        with open(file, "r+b") as f:
            for i in range(3):
                f.seek(i << 20)
                f.write(b"x")
        row = json.loads(btd("ls", "--json", file).stdout)[0]
        self.assertEqual(row["extents"], 3)
        self.assertLess(row["allocated"], row["size"])

    def test_ls_survives_names_that_are_no_text(self):
        folder = self.dir / "bytes"
        folder.mkdir()
        with open(os.fsencode(folder) + b"/\xff\xfe", "wb"):
            pass
        rows = json.loads(btd("ls", "--json", folder).stdout)
        self.assertEqual(len(rows), 1)

    def test_a_terminal_gets_colours_unless_told_not_to(self):
        def on_a_terminal(**environment):
            ours, theirs = pty.openpty()
            subprocess.run(
                [BTD, "umount", "/"], stderr=theirs, stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "TERM": "xterm", **environment},
            )
            os.close(theirs)
            text = os.read(ours, 4096).decode()
            os.close(ours)
            return text

        self.assertTrue(on_a_terminal().startswith("\x1b[31mbtd:\x1b[0m / is not on a bartender"))
        self.assertTrue(on_a_terminal(NO_COLOR="1").startswith("btd: / is not on a bartender"))

    def test_a_pool_in_use_is_not_checked(self):
        run = btd("check", self.pool)
        self.assertEqual(run.returncode, 8)
        self.assertIn("in use", run.stderr)

    def test_umount_of_a_mount_in_use_says_what_to_do(self):
        with open(self.dir / "held", "w"):
            self.refused(
                75,
                f"btd: {self.dir} is in use; `fuser -vm {self.dir}` shows by whom, close that and "
                "try again",
                "umount", self.dir,
            )
        self.assertTrue(is_mounted(self.dir))


class LifeCycle(unittest.TestCase):
    """Cases that unmount: a mount of their own each."""

    def setUp(self):
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="btd-cli-"))
        self.addCleanup(self.clean_up)
        self.pool, self.dir = self.base / "pool", self.base / "mnt"
        self.dir.mkdir()
        run = btd("format", self.pool, "-e", "ram", "-s", "64M")
        self.assertEqual(run.returncode, 0, run.stderr)

    def clean_up(self):
        for directory in (self.dir, self.pool):
            if is_mounted(directory):
                subprocess.run(["umount", "-l", directory])
        shutil.rmtree(self.base, ignore_errors=True)

    def must(self, *args):
        run = btd(*args)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def test_check_of_a_clean_pool(self):
        self.must("mount", self.pool, self.dir)
        (self.dir / "a").mkdir()
        (self.dir / "a" / "b").write_text("text")
        (self.dir / "c").symlink_to("a")
        self.must("umount", self.dir)
        report = json.loads(self.must("check", self.pool, "--json"))
        self.assertEqual((report["files"], report["directories"], report["symlinks"]), (1, 2, 1))
        self.assertEqual((report["uncorrected"], report["findings"]), (0, []))
        text = self.must("check", self.pool)
        self.assertTrue(text.endswith(f"{self.pool}: clean\n"), text)

    def test_check_shows_progress_on_a_terminal_only(self):
        ours, theirs = pty.openpty()
        subprocess.run([BTD, "check", str(self.pool)], stderr=theirs, stdout=subprocess.DEVNULL)
        os.close(theirs)
        text = os.read(ours, 65536).decode()
        os.close(ours)
        self.assertIn("\rChecking: ", text)
        self.assertTrue(text.endswith("\r\x1b[K"), repr(text))
        self.assertEqual(btd("check", self.pool).stderr, "")

    def test_check_notes_a_foreign_file_and_leaves_it_alone(self):
        stray = self.pool / "data" / "02" / "nobody-knows-me"
        stray.parent.mkdir(exist_ok=True)
        stray.write_text("x")
        run = btd("check", self.pool, "--repair")
        self.assertEqual(run.returncode, 0, run.stdout)
        self.assertIn("note: ", run.stdout)
        self.assertTrue(stray.exists())

    def test_check_finds_damage_and_repairs_it(self):
        with open(self.pool / "superblock", "r+b") as superblock:
            superblock.seek(24)
            superblock.write(b"damage")
        run = btd("check", self.pool)
        self.assertEqual(run.returncode, 4, run.stdout + run.stderr)
        self.assertIn("problem: ", run.stdout)
        self.assertIn("`btd check --repair` mends what can be mended", run.stdout)
        report = json.loads(btd("check", self.pool, "--json").stdout)
        self.assertEqual((report["repaired"], report["uncorrected"]), (0, 1))
        run = btd("check", self.pool, "--repair")
        self.assertEqual(run.returncode, 1, run.stdout + run.stderr)
        self.assertIn("repaired: ", run.stdout)
        self.must("check", self.pool)
        self.must("mount", self.pool, self.dir)
        self.must("umount", self.dir)

    def test_mount_and_umount_by_the_systems_own_commands(self):
        # mount(8) looks for its helper in /sbin only, so a private one is bound over a copy of it.
        script = (
            'set -e; mkdir -p "$1/sbin" "$1/up" "$1/work"\n'
            'mount -t tmpfs none "$1/up"; mkdir "$1/up/u" "$1/up/w"\n'
            'mount -t overlay none -o "lowerdir=$(realpath /sbin),upperdir=$1/up/u,workdir=$1/up/w" "$(realpath /sbin)"\n'
            'ln -sf "$2" "$(realpath /sbin)/mount.bartender"\n'
            'trap \'umount -l "$1/mnt" 2>/dev/null || true\' EXIT\n'
            'mount -t bartender "$1/pool" "$1/mnt" -o noatime,nofail\n'
            'findmnt -no FSTYPE,SOURCE,OPTIONS "$1/mnt"\n'
            'echo text > "$1/mnt/file"; umount "$1/mnt"\n'
        )
        run = subprocess.run(
            ["unshare", "--mount", "bash", "-c", script, "_", str(self.base), BTD],
            capture_output=True, text=True, timeout=60,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertRegex(run.stdout, rf"fuse\.bartender +{self.pool} +rw,.*noatime")

    def test_the_configuration_names_pool_directory_and_options(self):
        config = self.base / "c.toml"
        config.write_text(
            f'[mount]\npool = "{self.pool}"\ndirectory = "{self.dir}"\nread_only = true\n'
        )
        self.must("--config", config, "mount")
        with self.assertRaises(OSError):
            (self.dir / "file").touch()
        self.must("umount", self.dir)

    def test_umount_with_pool_gives_the_memory_back(self):
        self.must("mount", self.pool, self.dir)
        self.assertTrue(is_mounted(self.pool))
        self.must("umount", self.dir, "--pool")
        self.assertFalse(is_mounted(self.pool))
        self.assertFalse(is_mounted(self.dir))

    def test_umount_returns_when_the_pool_is_closed(self):
        for _ in range(3):
            self.must("mount", self.pool, self.dir)
            (self.dir / "file").write_text("text")
            self.must("umount", self.dir)
            self.must("check", self.pool)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
