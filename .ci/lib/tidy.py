#!/usr/bin/env python3
"""Runs clang-tidy over the project's sources, those that changed since it last found them clean.

Usage: tidy.py ROOT BUILD JOBS [COMMITS]; with COMMITS only sources that these last commits changed, or that
are changed now: they or their headers of the same name, the MOST that changed last.

A source is clean under a key: the hash of its command line, of .clang-tidy, and of the contents of
every project file that its compilation read (as ninja recorded it)."""

import concurrent.futures
import hashlib
import json
import pathlib
import re
import subprocess
import sys

ROOT, BUILD, JOBS = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
COMMITS = sys.argv[4] if len(sys.argv) > 4 else None
CACHE = ROOT / "build" / "tidy-cache.json"
TIDY = "clang-tidy-19"
MOST = 40  # ten minutes of a processor
# What is installed, and what a program links. Tests are judged by what they find.
PARTS = ("alloc", "fs", "net", "libbtd")


def project_headers():
    """Object file -> the project's files that went into it."""
    listing = subprocess.run(
        ["ninja", "-C", str(BUILD), "-t", "deps"], capture_output=True, text=True, check=True
    ).stdout
    inputs, current = {}, None
    for line in listing.splitlines():
        if line and not line[0].isspace() and ": #deps" in line:
            current = inputs.setdefault(line.split(": #deps")[0], [])
        elif line.strip() and current is not None:
            path = (BUILD / line.strip()).resolve()
            if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".deps"):
                current.append(path)
    return inputs


def changed_lately():
    """Paths without their suffix, each with how late it changed, the last with 0; None: all. Where the history
    does not go back so far, it is all of it."""
    if COMMITS is None:
        return None
    git = ["git", "-C", str(ROOT)]
    log = subprocess.run(
        [*git, "log", "-n", COMMITS, "--name-only", "--format="], capture_output=True, text=True
    )
    if log.returncode != 0:
        return None  # no history
    now = subprocess.run(
        [*git, "status", "--porcelain", "--no-renames", "-uall"], capture_output=True, text=True, check=True
    )
    names = [line[3:] for line in now.stdout.splitlines()] + log.stdout.splitlines()
    paths = [ROOT / pathlib.Path(name).with_suffix("") for name in names if name]
    return {path: order for order, path in reversed(list(enumerate(paths)))}


def key_of(entry, inputs):
    digest = hashlib.sha256((ROOT / ".clang-tidy").read_bytes())
    digest.update(entry["command"].encode())
    made = re.search(r" -o (\S+)", entry["command"]).group(1)
    for path in sorted({pathlib.Path(entry["file"]), *inputs.get(made, [])}):
        digest.update(str(path).encode())
        digest.update(path.read_bytes() if path.exists() else b"gone")
    return digest.hexdigest()


def check(entry):
    run = subprocess.run(
        [TIDY, "--quiet", "--extra-arg=-Wno-error", "-p", str(BUILD), entry["file"]],
        capture_output=True,
        text=True,
    )
    return entry["file"], run.returncode, run.stdout.strip()


def main():
    clean = set(json.loads(CACHE.read_text())) if CACHE.exists() else set()
    inputs = project_headers()
    entries, keys = {}, {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if any(path.is_relative_to(ROOT / part) for part in PARTS):
            entries.setdefault(entry["file"], entry)
    for name, entry in entries.items():
        keys[name] = key_of(entry, inputs)
    lately = changed_lately()
    wanted = list(entries.values())
    if lately is not None:
        order_of = lambda entry: lately.get(pathlib.Path(entry["file"]).with_suffix(""), len(lately))
        changed = sorted((entry for entry in wanted if order_of(entry) < len(lately)), key=order_of)
        wanted = changed[:MOST]
        if len(changed) > MOST:
            print(f"{len(changed) - MOST} more that changed lately are not looked at; ./bootstrap lint looks at all")
    todo = [entry for entry in wanted if keys[entry["file"]] not in clean]
    print(f"{len(wanted)} sources, {len(wanted) - len(todo)} known to be clean", flush=True)
    bad = set()
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for name, status, output in pool.map(check, todo):
            print(f"{'clean' if status == 0 else 'NOT CLEAN'}: {name}", flush=True)
            if status != 0:
                bad.add(name)
                print(output, flush=True)
    seen = clean | {keys[entry["file"]] for entry in todo}
    CACHE.write_text(json.dumps(sorted(seen & {key for name, key in keys.items() if name not in bad})))
    if bad:
        print(f"clang-tidy found fault with {len(bad)} sources:")
        print("\n".join(sorted(bad)))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
