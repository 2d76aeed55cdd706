#!/usr/bin/env python3
"""SUITE [APT-DIRECTORY [TYPE]]: prints a stanza (deb-src by default) for one suite of the archive that
this machine's apt sources name for its own release: same URI, same keyring, another suite. Reads
.sources (deb822) and .list files."""

import pathlib
import re
import shlex
import sys

APT = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "/etc/apt")
TYPE = sys.argv[3] if len(sys.argv) > 3 else "deb-src"


def release_names():
    """The names under which sources may call the installed release."""
    text = pathlib.Path("/etc/os-release").read_text()
    names = {"stable", "testing", "unstable", "sid"}
    names.update(re.findall(r'^VERSION_CODENAME="?([^"\n]+)', text, re.M))
    return names


def deb822_entries(path):
    """(fields) of each enabled stanza; a field's continuation lines stay with it."""
    for block in re.split(r"\n\s*\n", path.read_text()):
        fields, last = {}, None
        for line in block.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t" and last:
                fields[last] += "\n" + line
            elif ":" in line:
                last, value = line.split(":", 1)
                last = last.strip().lower()
                fields[last] = value.strip()
        if fields.get("enabled", "yes").lower() not in ("no", "false", "0"):
            yield fields


def list_entries(path):
    """The same fields from the one-line format: deb [options] URI suite component..."""
    for line in path.read_text().splitlines():
        match = re.match(r"\s*(deb|deb-src)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if not match:
            continue
        kind, options, uri, suite, components = match.groups()
        fields = {"types": kind, "uris": uri, "suites": suite, "components": components.split("#")[0]}
        for option in shlex.split(options or ""):
            key, _, value = option.partition("=")
            fields[key.lower()] = value.replace(",", " ")
        yield fields


def entries():
    files = [APT / "sources.list"] + sorted((APT / "sources.list.d").glob("*"))
    for path in files:
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            yield from deb822_entries(path)
        elif path.suffix == ".list":
            yield from list_entries(path)


def is_main_archive(fields, releases):
    uris = fields.get("uris", "")
    return (
        uris
        and not uris.startswith("cdrom:")
        and "main" in fields.get("components", "").split()
        and releases & set(fields.get("suites", "").split())
        and not re.search(r"security", uris)
    )


def main():
    releases = release_names()
    found = next((e for e in entries() if is_main_archive(e, releases)), None)
    if found is None:
        sys.exit("No entry under /etc/apt names the main archive of this release.")
    print(f"Types: {TYPE}\nURIs: {found['uris']}\nSuites: {sys.argv[1]}\nComponents: main")
    for key in ("Signed-By", "Trusted"):
        if key.lower() in found:
            print(f"{key}: {found[key.lower()]}")


if __name__ == "__main__":
    main()
