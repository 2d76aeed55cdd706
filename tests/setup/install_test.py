#!/usr/bin/env python3
"""What `cmake --install` leaves: every file in its place, nothing else, and usable from there."""

import os
import pathlib
import re
import shlex
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
    "include/bartender.h",
    "include/bartender.hpp",
    "share/man/man1/btd.1",
    "share/man/man1/btd-cluster.1",
    "share/man/man1/btd-net.1",
    "share/man/man1/btd-heap.1",
    "share/man/man3/bartender.h.3",
    "share/man/man3/btd_malloc.3",
    "share/man/man3/btd_mutex.3",
    "share/man/man3/btd_publish.3",
    "share/man/man3/btd_root.3",
    "share/man/man3/btd_tx.3",
    "share/man/man5/bartender.5",
    "share/man/man5/bartender-cluster.5",
    "share/man/man7/bartender.7",
    "share/man/man7/libbtd.7",
    "share/man/man7/libbtd_malloc.7",
    "share/man/man8/mount.bartender.8",
    "share/doc/bartender/README.md",
    "share/doc/bartender/CHANGELOG.md",
    "share/doc/bartender/LICENSE",
    "share/doc/bartender/bartender.toml",
    "lib/systemd/system/bartender.service",
    "LIB/libbtd.a",
    "LIB/libbtd.so",
    "LIB/libbtd.so.0",
    f"LIB/libbtd.so.{VERSION}",
    "LIB/libbtd_malloc.so",
    "LIB/pkgconfig/bartender.pc",
    "LIB/cmake/bartender/bartenderConfig.cmake",
    "LIB/cmake/bartender/bartenderConfigVersion.cmake",
    "LIB/cmake/bartender/bartenderTargets.cmake",
}
SOURCE = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = SOURCE / "examples/first.c"


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
        build_type = re.search(r"^CMAKE_BUILD_TYPE:\w+=(.*)$", cache, re.M)[1] or "noconfig"
        # CMake names one of its files by the type of the build.
        cls.expected = EXPECTED | {f"LIB/cmake/bartender/bartenderTargets-{build_type.lower()}.cmake"}
        cls.sanitized = "BTD_SANITIZE:STRING=\n" not in cache
        cls.lib = next(
            (l.split("=")[1] for l in cache.splitlines() if l.startswith("CMAKE_INSTALL_LIBDIR:")), "lib"
        )

    def test_the_list_is_exact(self):
        found = {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if (path.is_file() or path.is_symlink()) and not self.leads_to_a_page(path)
        }
        # The sanitizers have a malloc of their own.
        absent = {"LIB/libbtd_malloc.so"} if self.sanitized else set()
        self.assertEqual(found, {name.replace("LIB", self.lib) for name in self.expected - absent})

    def leads_to_a_page(self, path):
        """Whether it is the page of a function that says only which page that is, and that is there."""
        if path.parent.name != "man3" or path.stat().st_size > 100:
            return False
        request, page = path.read_text().split()
        self.assertEqual(request, ".so")
        self.assertIn(f"share/man/{page}", EXPECTED)
        return True

    def test_each_call_has_a_page(self):
        header = (self.root / "include/bartender.h").read_text()
        for call in re.findall(r"BTD_API[^;]*?\b(btd_\w+)\(", header):
            if not call.startswith("btd_tx_scope_"):  # of a macro
                self.assertTrue((self.root / f"share/man/man3/{call}.3").exists(), call)

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
            "cmake_minimum_required(VERSION 3.25)\nproject(user LANGUAGES C)\n"
            f"find_package(bartender {VERSION} REQUIRED)\n"
            'message(STATUS "btd=${bartender_BTD}")\n'
            f'add_executable(user "{EXAMPLE}")\ntarget_link_libraries(user PRIVATE bartender::btd)\n'
        )
        run = subprocess.run(
            [CMAKE, "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={self.root}"],
            capture_output=True,
            text=True,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn(f"btd={self.root}/sbin/btd", run.stdout)
        if self.sanitized:
            return  # a plain program cannot use an instrumented library
        subprocess.run([CMAKE, "--build", source / "build"], check=True, stdout=subprocess.DEVNULL)
        self.run_in_a_pool(source / "build/user")

    @unittest.skipUnless(shutil.which("pkg-config"), "pkg-config is not installed")
    def test_a_program_is_built_by_what_pkg_config_says(self):
        if self.sanitized:
            self.skipTest("a plain program cannot use an instrumented library")
        # pkg-config does not quote a variable that it is given, so no blank may be in it.
        prefix = pathlib.Path(self.scratch.name) / "prefix"
        prefix.symlink_to(self.root)
        flags = subprocess.run(
            ["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "bartender"],
            env={**os.environ, "PKG_CONFIG_PATH": str(self.root / self.lib / "pkgconfig")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        program = pathlib.Path(self.scratch.name) / "by_pkg_config"
        subprocess.run(["cc", EXAMPLE, "-o", program, *shlex.split(flags)], check=True)
        self.run_in_a_pool(program, LD_LIBRARY_PATH=str(self.root / self.lib))

    def run_in_a_pool(self, program, **environment):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as pool:
            subprocess.run([program], check=True, env={**os.environ, "BTD_POOL": pool, **environment})
            self.assertTrue((pathlib.Path(pool) / "default/arena.0").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
