"""`running_job`: a job of three ranks that computes all the while, rank 1 later than the others."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from shoal import pages

RANKS = 3
LIMIT_S = 60
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# Rank 0 decides when it is over. All ranks hold every sum against what it must be.
PROGRAM = f"""\
import os, pathlib, sys, time
import numpy as np
import shoal

comm = shoal.init()
x, goes_on = comm.empty(16384, "float32"), comm.empty(1, "int32")
wrong, loops, end = 0, 0, time.monotonic() + {LIMIT_S}
while True:
    loops += 1
    if comm.rank == 1:
        time.sleep(0.1)
    x[:] = (comm.rank + 1) * loops
    comm.all_reduce(x)
    wrong += not np.all(x == loops * sum(range(1, comm.size + 1)))
    goes_on[0] = not pathlib.Path(sys.argv[1]).exists() and time.monotonic() < end
    comm.broadcast(goes_on)
    if not goes_on[0]:
        break
print("wrong", wrong, "loops", loops)
"""


@dataclass
class RunningJob:
    job: str
    pids: list[int]
    end: Callable[[], str]  # ends it; what its ranks have printed


def _ranks(launcher: subprocess.Popen[str], name: str) -> list[pages.Page]:
    """Of our job, once all of them have begun."""
    until = time.monotonic() + 30
    while time.monotonic() < until and launcher.poll() is None:
        found = [page for page in pages.read_all() if page.job.startswith(name)]
        if len(found) == RANKS and all(page.completed > 5 for page in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"the job has not begun: {launcher.communicate(timeout=10)}")


@pytest.fixture
def running_job(tmp_path: pathlib.Path) -> Iterator[RunningJob]:
    name = f"traced{os.getpid()}"
    program, stop = tmp_path / f"{name}.py", tmp_path / "stop"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "shoal.cli", "run", "-n", str(RANKS), "--timeout",
               str(LIMIT_S), sys.executable, str(program), str(stop)]  # fmt: skip
    launcher = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TRACEPARENT": TRACEPARENT},
    )  # fmt: skip

    def end() -> str:
        stop.touch()
        out, _ = launcher.communicate(timeout=LIMIT_S)
        assert launcher.returncode == 0, out
        return out

    try:
        found = _ranks(launcher, name)
        yield RunningJob(found[0].job, [page.pid for page in found], end)
        if launcher.returncode is None:
            end()
    finally:
        if launcher.poll() is None:
            launcher.terminate()
            launcher.communicate(timeout=20)


def loops_of(out: str) -> set[tuple[int, int]]:
    """(wrong sums, loops) of each rank."""
    return {(int(a), int(b)) for a, b in re.findall(r"wrong (\d+) loops (\d+)", out)}


def shoal(*arguments: str, limit_s: float = 40) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shoal.cli", *arguments],
        capture_output=True, text=True, timeout=limit_s, check=False,
    )  # fmt: skip
