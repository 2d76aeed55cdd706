#!/usr/bin/env python3
"""Counts what one CTest run did, by label, from its JUnit file.

A program that CTest sees as one test may hold many cases (googletest's or unittest's summary tells): those are
counted. A run that found no test at all is a failure: nothing passes by not running."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections import defaultdict

SHOWN_LINES = 40
SHOWN_TESTS = 10  # of a stage


def labels_of(build):
    shown = subprocess.run(
        ["ctest", "--test-dir", build, "--show-only=json-v1"], capture_output=True, check=True
    )
    labels = {}
    for test in json.loads(shown.stdout)["tests"]:
        for prop in test.get("properties", []):
            if prop["name"] == "LABELS":
                labels[test["name"]] = prop["value"][0]
    return labels


def unittest_cases(output):
    """The same of a Python unittest program."""
    ran = re.search(r"^Ran (\d+) tests? in ", output, re.M)
    if not ran:
        return None
    verdict = re.search(r"^(?:OK|FAILED)(.*)$", output, re.M)
    tally = dict(re.findall(r"(\w+)=(\d+)", verdict.group(1) if verdict else ""))
    failed = int(tally.get("failures", 0)) + int(tally.get("errors", 0))
    skipped = int(tally.get("skipped", 0))
    return int(ran.group(1)) - failed - skipped, failed, skipped


def googletest_cases(output):
    """(passed, failed, skipped) of a googletest program with more than one case, or None."""
    ran = re.search(r"\[==========\] (\d+) tests? from .* ran", output)
    if not ran or int(ran.group(1)) < 2:
        return None
    skipped = re.search(r"^\[  SKIPPED \] (\d+) test", output, re.M)
    failed = re.search(r"^\[  FAILED  \] (\d+) test", output, re.M)
    skipped = int(skipped.group(1)) if skipped else 0
    failed = int(failed.group(1)) if failed else 0
    return int(ran.group(1)) - skipped - failed, failed, skipped


def skip_reasons(output):
    """What GTEST_SKIP said, or the last line of another program's output."""
    said = re.findall(r": Skipped\n(.+)", output)
    if said:
        return sorted(set(said))
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1:] or ["it gave no reason"]


def count(case, output):
    """(passed, failed, skipped) of one CTest test."""
    status = case.get("status")
    inner = googletest_cases(output) or unittest_cases(output)
    if status == "run":
        return inner or (1, 0, 0)
    if status == "fail":
        return inner if inner and inner[1] else (inner[0], 1, inner[2]) if inner else (0, 1, 0)
    return (0, 0, 1)  # notrun, disabled


def show(name, output):
    """What a failed test printed last: whoever reads only the run's output sees why."""
    print(f"    {name} failed; it printed last:")
    print("\n".join("    | " + line for line in output.splitlines()[-SHOWN_LINES:]))


def main():
    stage, build, junit, results, failures, skips = sys.argv[1:]
    variant = stage.partition(", ")[2]
    counts = defaultdict(lambda: [0, 0, 0])
    failed, skipped = [], []
    try:
        cases = xml.parse(junit).getroot().findall("testcase")
    except (OSError, xml.ParseError):
        cases = []
    labels = labels_of(build) if cases else {}
    for case in cases:
        name = case.get("name")
        output = case.findtext("system-out") or ""
        suite = labels.get(name, "unlabelled") + (f" ({variant})" if variant else "")
        tally = count(case, output)
        counts[suite] = [a + b for a, b in zip(counts[suite], tally)]
        if tally[1]:
            if len(failed) < SHOWN_TESTS:
                show(name, output)
            inner = re.findall(r"^\[  FAILED  \] (\S+)(?: \(\d+ ms\)|, where.*)?$", output, re.M)
            failed += [f"{suite}: {n}" for n in sorted(set(inner) - {"1"}) or [name]]
        if tally[2]:
            skipped += [f"{suite}: {name}: {reason}" for reason in skip_reasons(output)]
        # Parts of a test that passed; it says so in a line.
        left_out = re.findall(r"^\s*left out: (.+)$", output, re.M)
        skipped += [f"{suite}: {name}: left out: {reason}" for reason in left_out]
    if not cases:
        counts[stage] = [0, 1, 0]
        failed.append(f"{stage}: no test was found")
    with open(results, "a") as out:
        for suite in sorted(counts):
            out.write("\t".join([suite, *map(str, counts[suite])]) + "\n")
    for path, lines in ((failures, failed), (skips, skipped)):
        with open(path, "a") as out:
            out.writelines(line + "\n" for line in lines)


if __name__ == "__main__":
    main()
