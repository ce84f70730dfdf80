"""Processes that the injector starts: each in a session of its own, which ends with its block."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

END_S = 10.0  # a killed process that is not gone by then is a bug worth an exception


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **pipes: Any
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=environment, text=True, start_new_session=True, **pipes
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def threads(pid: int) -> list[int]:
    return [int(task.name) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()]


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *map(int, children.read_text().split())] if children.exists() else [pid]


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


@contextlib.contextmanager
def bound(pids: Sequence[int], cores: set[int]) -> Iterator[None]:
    """All threads of these processes on these cores, and back where they were."""
    before = {}
    for pid in pids:
        for thread in threads(pid):
            with contextlib.suppress(ProcessLookupError):
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, cores)
    try:
        yield
    finally:
        for thread, mask in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, mask)
