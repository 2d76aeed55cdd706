#!/usr/bin/env python3
"""The archive that bootstrap derives from a machine's apt sources, in each form these come in."""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).parents[2] / ".ci/lib/apt_archive.py"
RELEASE = re.search(
    r'^VERSION_CODENAME="?([^"\n]+)', pathlib.Path("/etc/os-release").read_text(), re.M
).group(1)


class ArchiveStanza(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.apt = pathlib.Path(self.scratch.name)
        (self.apt / "sources.list.d").mkdir()

    def tearDown(self):
        self.scratch.cleanup()

    def write(self, name, text):
        (self.apt / name).write_text(text.replace("RELEASE", RELEASE))

    def derive(self):
        return subprocess.run(
            [sys.executable, SCRIPT, "sid", self.apt], capture_output=True, text=True
        )

    def expect(self, stanza):
        run = self.derive()
        self.assertEqual(run.stderr, "")
        self.assertEqual(run.stdout, stanza)

    def test_deb822_keeps_uri_and_keyring(self):
        self.write(
            "sources.list.d/debian.sources",
            "Types: deb\n# a comment\nURIs: http://mirror.invalid/debian\n"
            "Suites: RELEASE RELEASE-updates\nComponents: main contrib\n"
            "Signed-By: /usr/share/keyrings/k.gpg\n\n"
            "Types: deb\nURIs: http://mirror.invalid/debian-security\n"
            "Suites: RELEASE-security\nComponents: main\n",
        )
        self.expect(
            "Types: deb-src\nURIs: http://mirror.invalid/debian\nSuites: sid\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/k.gpg\n"
        )

    def test_deb822_inline_key_stays_whole(self):
        key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ\n -----END PGP PUBLIC KEY BLOCK-----"
        self.write(
            "sources.list.d/a.sources",
            f"Types: deb\nURIs: http://m.invalid/debian\nSuites: RELEASE\nComponents: main\nSigned-By:{key}\n",
        )
        self.assertIn(f"Signed-By: {key}\n", self.derive().stdout)

    def test_disabled_security_and_other_archives_are_passed_over(self):
        self.write(
            "sources.list.d/a.sources",
            "Types: deb\nURIs: http://off.invalid/debian\nSuites: RELEASE\nComponents: main\nEnabled: no\n\n"
            "Types: deb\nURIs: http://other.invalid/apt\nSuites: nodistro\nComponents: main\n\n"
            "Types: deb\nURIs: http://security.invalid/debian\nSuites: RELEASE\nComponents: main\n\n"
            "Types: deb\nURIs: http://right.invalid/debian\nSuites: RELEASE\nComponents: main\n",
        )
        self.expect(
            "Types: deb-src\nURIs: http://right.invalid/debian\nSuites: sid\nComponents: main\n"
        )

    def test_one_line_format_with_options(self):
        self.write(
            "sources.list",
            "deb cdrom:[disc]/ RELEASE main\n"
            "# deb http://comment.invalid/debian RELEASE main\n"
            "deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://m.invalid/debian/ RELEASE main # note\n",
        )
        self.expect(
            "Types: deb-src\nURIs: http://m.invalid/debian/\nSuites: sid\nComponents: main\n"
            "Signed-By: /k.gpg\nTrusted: yes\n"
        )

    def test_a_snapshot_path_is_taken_as_it_is(self):
        self.write(
            "sources.list.d/snap.list",
            "deb http://m.invalid/archive/debian/20250520T000000Z RELEASE main\n",
        )
        self.assertIn("URIs: http://m.invalid/archive/debian/20250520T000000Z\n", self.derive().stdout)

    def test_files_that_apt_would_not_read_are_not_read(self):
        self.write("sources.list.d/debian.sources.disabled",
                   "Types: deb\nURIs: http://m.invalid/debian\nSuites: RELEASE\nComponents: main\n")
        run = self.derive()
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("No entry under /etc/apt names the main archive", run.stderr)


if __name__ == "__main__":
    unittest.main()
