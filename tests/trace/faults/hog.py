"""Spins on one core: `python hog.py --core 1 --count 8 --seconds 5 [--realtime]`.

Each of the `count` processes is a session of its own: with autogroup scheduling all processes of a
session together get the share of one. Prints "spinning" when they are there, and ends with them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import time

PR_SET_PDEATHSIG = 1


def spin(options: argparse.Namespace, parent: int) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    end = time.monotonic() + options.seconds
    os.sched_setaffinity(0, {options.core})
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while time.monotonic() < end:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args()
    parent = os.getpid()
    children = []
    for _ in range(options.count):
        child = os.fork()
        if child == 0:
            spin(options, parent)
            os._exit(0)
        children.append(child)
    print("spinning", flush=True)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
