"""Asks the tracer, and compares what it says with what was done."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from tests.trace.faults.catalog import Fault
from tests.trace.faults.processes import started

TRACER = f"{sys.executable} -m shoal.cli trace"
WATCHES = "shoal trace: watching"  # what it says when it begins

RIGHT, OTHER_CAUSE, UNKNOWN, WRONG_RANK = "right", "other cause", "unknown", "wrong rank"
MISSED, FALSE_ALARM, BROKEN = "missed", "false alarm", "broken"
# Neither right nor wrong: the fault made nobody wait; the machine's other work made ranks wait.
NOT_LATE, NOISE = "not late", "noise"


@dataclass
class Outcome:
    """One seed of one class."""

    fault: str
    seed: int
    attached: str  # "before" or "after" the fault began
    culprits: list[int] = field(default_factory=list)  # one of them has to be named
    result: str = BROKEN  # of the words above
    verdict: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None  # from the fault (or the tracer's start, if later) to the verdict
    late_ms: float = 0  # the longest call of a collective during the fault
    variant: str = ""  # what the seed has chosen
    note: str = ""  # why it is broken
    watched_s: float = 0  # of a healthy job: how long
    verdicts: int = 0  # on it
    unfounded: int = 0  # of these, without a call that was late

    @property
    def cause(self) -> str:
        """The column of the confusion matrix."""
        return str(self.verdict.get("cause", "none"))


class Judge:
    """A running tracer. Verdicts come as (time.monotonic(), verdict)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stderr is not None
        self.process = process
        self.began = time.monotonic()
        self._lines: queue.Queue[tuple[float, str] | None] = queue.Queue()
        self._words: list[str] = []
        self._watches = threading.Event()
        for reader, pipe in ((self._read, process.stdout), (self._listen, process.stderr)):
            threading.Thread(target=reader, args=(pipe,), daemon=True).start()

    def _read(self, pipe: IO[str]) -> None:
        with contextlib.suppress(ValueError):  # closed by the end of the block
            for line in pipe:
                self._lines.put((time.monotonic(), line))
        self._lines.put(None)

    def _listen(self, pipe: IO[str]) -> None:
        with contextlib.suppress(ValueError):
            for line in pipe:
                self._words.append(line)
                if line.startswith(WATCHES):
                    self._watches.set()

    def wait_until_it_watches(self, seconds: float) -> None:
        if not self._watches.wait(seconds):
            raise TimeoutError(f"the tracer does not watch within {seconds:g} s: {self._words}")

    def verdict(self, seconds: float) -> tuple[float, dict[str, Any]] | None:
        """The next that names a cause; None if none comes by then, or the tracer has ended."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                self._lines.put(None)  # for the next who asks
                return None
            verdict = json.loads(line[1])
            if verdict["cause"] != "none" and not verdict.get("provisional"):
                return line[0], verdict

    def verdicts(self, seconds: float) -> Iterator[tuple[float, dict[str, Any]]]:
        """All of them, until the tracer ends by itself or the time is over."""
        end = time.monotonic() + seconds
        while (said := self.verdict(max(0, end - time.monotonic()))) is not None:
            yield said

    def failure(self) -> str:
        """Why it has ended, if not in order."""
        code = self.process.poll()
        if code in (None, 0, 1):
            return ""
        return f"the tracer ended with {code}: {''.join(self._words[-20:])}"


@contextlib.contextmanager
def tracing(command: str, job: str, *options: str) -> Iterator[Judge]:
    words = [*command.split(), "--job", job, "--json", *options]
    with started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield Judge(process)


def compare(fault: Fault, culprits: set[int], verdict: dict[str, Any]) -> str:
    if not verdict:
        return MISSED
    rank, cause = verdict["rank"], verdict["cause"]
    if rank == -1 or (rank in culprits and cause == "unknown"):
        return UNKNOWN
    if rank not in culprits:
        return WRONG_RANK
    return RIGHT if cause in fault.causes else OTHER_CAUSE
