#!/usr/bin/env python3
"""What `cmake --install` leaves: every file in its place, nothing else, and usable from there."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD, CMAKE, VERSION = sys.argv[1:4]

# Below the prefix; LIB is where the system keeps its libraries.
EXPECTED = {
    "sbin/btd",
    "sbin/mount.bartender",
    "share/man/man1/btd.1",
    "share/man/man5/bartender.5",
    "share/man/man7/bartender.7",
    "share/man/man8/mount.bartender.8",
    "share/doc/bartender/README.md",
    "share/doc/bartender/CHANGELOG.md",
    "share/doc/bartender/LICENSE",
    "share/doc/bartender/bartender.toml",
    "lib/systemd/system/bartender.service",
    "LIB/pkgconfig/bartender.pc",
    "LIB/cmake/bartender/bartenderConfig.cmake",
    "LIB/cmake/bartender/bartenderConfigVersion.cmake",
}


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.stage = pathlib.Path(cls.scratch.name) / "stage"
        cls.prefix = "/opt/bartender prefix"  # a blank in it must not matter
        subprocess.run(
            [CMAKE, "--install", BUILD, "--prefix", cls.prefix],
            env={**os.environ, "DESTDIR": str(cls.stage)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        cls.root = cls.stage / cls.prefix.lstrip("/")
        cache = (pathlib.Path(BUILD) / "CMakeCache.txt").read_text()
        cls.lib = next(
            (l.split("=")[1] for l in cache.splitlines() if l.startswith("CMAKE_INSTALL_LIBDIR:")), "lib"
        )

    def test_the_list_is_exact(self):
        found = {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.is_file() or path.is_symlink()
        }
        self.assertEqual(found, {name.replace("LIB", self.lib) for name in EXPECTED})

    def test_nothing_outside_the_prefix(self):
        outside = [
            path
            for path in self.stage.rglob("*")
            if path.is_file() and not path.is_relative_to(self.root)
        ]
        self.assertEqual(outside, [])

    def test_the_program_runs_from_there(self):
        run = subprocess.run([self.root / "sbin/btd", "--version"], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout), (0, f"btd {VERSION}\n"))

    def test_the_helper_is_the_program_by_another_name(self):
        helper = self.root / "sbin/mount.bartender"
        self.assertEqual(os.readlink(helper), "btd")
        run = subprocess.run([helper], capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertIn("mount -t bartender POOL DIR", run.stderr)

    def test_no_private_library_is_needed(self):
        linked = subprocess.run(
            ["ldd", self.root / "sbin/btd"], capture_output=True, text=True, check=True
        ).stdout
        self.assertNotIn("not found", linked)
        self.assertNotIn(".deps", linked)

    def test_no_path_of_the_build_is_in_what_was_installed(self):
        for path in self.root.rglob("*"):
            if path.is_file() and path.suffix in (".pc", ".cmake", ".service", ".toml"):
                self.assertNotIn(BUILD, path.read_text(), path)

    @unittest.skipUnless(shutil.which("pkg-config"), "pkg-config is not installed")
    def test_pkg_config_finds_it(self):
        env = {**os.environ, "PKG_CONFIG_PATH": str(self.root / self.lib / "pkgconfig")}
        run = subprocess.run(
            ["pkg-config", "--modversion", "bartender"], env=env, capture_output=True, text=True
        )
        self.assertEqual(run.stdout, f"{VERSION}\n")

    def test_cmake_finds_it(self):
        source = pathlib.Path(self.scratch.name) / "user"
        source.mkdir()
        (source / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.25)\nproject(user NONE)\n"
            f"find_package(bartender {VERSION} REQUIRED)\n"
            "get_target_property(where bartender::btd IMPORTED_LOCATION)\n"
            'message(STATUS "btd=${where}")\n'
        )
        run = subprocess.run(
            [CMAKE, "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={self.root}"],
            capture_output=True,
            text=True,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn(f"btd={self.root}/sbin/btd", run.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
