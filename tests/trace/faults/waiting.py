"""How long ranks waited for a core that other work had: a truth that the injector does not choose.

On a machine that is not quiet a rank that was made to compute may in truth be late for want of a
core. A tracer that says so then is not wrong. Nor is it if it names a rank that waits within a
system call for every core to do something (madvise that collapses pages, mlock), while a hog of
real-time priority keeps one core, which was meant for another rank, from doing it.
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections import deque
from collections.abc import Sequence

INTERVAL_S = 0.05
SPAN_S = 0.25  # that a verdict is about
MOST_SAMPLES = 2000  # more than a case lasts


def run_delay_ns(pid: int) -> int:
    """Time that the process's main thread has spent ready to run, and not running."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[1])


def waits_for_all_cores(pid: int) -> bool:
    """Its main thread, in the kernel, for work queues of other cores. Without root: False."""
    try:
        return "flush_work" in pathlib.Path(f"/proc/{pid}/stack").read_text()
    except PermissionError:
        return False


class Waiting:
    """Samples, in a thread of its own, until the block that it is used for ends."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._samples: deque[tuple[float, list[int], list[bool]]] = deque(maxlen=MOST_SAMPLES)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        with contextlib.suppress(OSError):  # a rank has ended
            while not self._end.wait(INTERVAL_S):
                delays = [run_delay_ns(pid) for pid in self._pids]
                flushes = [waits_for_all_cores(pid) for pid in self._pids]
                self._samples.append((time.monotonic(), delays, flushes))

    def share(self, rank: int, moment: float) -> float:
        """Of the time before this moment that the rank was ready and had no core, or waited in the
        kernel for all cores."""
        near = [s for s in self._samples if moment - SPAN_S <= s[0] <= moment + INTERVAL_S]
        if len(near) < 2:
            return 0.0
        (begin, first, _), (end, last, _) = near[0], near[-1]
        ready = (last[rank] - first[rank]) / 1e9 / (end - begin)
        return ready + sum(flushes[rank] for *_, flushes in near) / len(near)

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
