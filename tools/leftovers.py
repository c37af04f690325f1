#!/usr/bin/env python3
"""Prints the processes of a test suite that are still there, one per line.

A process belongs to the suite when its environment carries the suite's mark, or when its
MAIL_CONFIG names a scratch instance of our conformance tests (a master cleans the environment of
its children). Processes get a few seconds to end.
"""

import os
import sys
import time

INSTANCE = b"MAIL_CONFIG=/tmp/posthouse-instance."


def find(mark):
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as environ:
                variables = environ.read().split(b"\0")
            with open(f"/proc/{entry}/cmdline", "rb") as cmdline:
                command = cmdline.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if b"POSTHOUSE_SUITE=" + mark in variables or any(
                variable.startswith(INSTANCE) for variable in variables):
            found.append(f"{entry} {command}")
    return found


def main():
    mark = sys.argv[1].encode()
    deadline = time.monotonic() + 5
    found = find(mark)
    while found and time.monotonic() < deadline:
        time.sleep(0.1)
        found = find(mark)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
