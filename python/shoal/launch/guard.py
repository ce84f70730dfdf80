"""Kills the ranks when their launcher dies, however it dies. Run by host.py as a script.

Reads "+PID" and "-PID" from standard input. Its end means that the launcher is gone: every process
group still listed is killed, grandchildren included, which PR_SET_PDEATHSIG would not reach.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin:  # ends with the launcher
        if line[0] == "+":
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
