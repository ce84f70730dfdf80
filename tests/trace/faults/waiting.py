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
SPAN_S = 0.25  # that a verdict is about ...
LAST_S = 1.0  # ... and when that was at most, before it was said: the tracer may lack a core, too
MOST_SAMPLES = 2000  # more than a case lasts


Sample = tuple[float, list[int], list[bool]]  # when; of each rank the two functions below


def run_delay_ns(pid: int) -> int:
    """Time that the process's main thread has spent ready to run, and not running."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[1])


def waits_for_all_cores(pid: int) -> bool:
    """Its main thread, in the kernel, for work queues of other cores. Without root: False."""
    try:
        return "flush_work" in pathlib.Path(f"/proc/{pid}/stack").read_text()
    except PermissionError:
        return False


def _share(span: list[Sample], rank: int) -> float:
    (begin, first, _), (end, last, _) = span[0], span[-1]
    ready = (last[rank] - first[rank]) / 1e9 / (end - begin)
    return ready + sum(flushes[rank] for *_, flushes in span) / len(span)


class Waiting:
    """Samples, in a thread of its own, until the block that it is used for ends."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        with contextlib.suppress(OSError):  # a rank has ended
            while not self._end.wait(INTERVAL_S):
                delays = [run_delay_ns(pid) for pid in self._pids]
                flushes = [waits_for_all_cores(pid) for pid in self._pids]
                self._samples.append((time.monotonic(), delays, flushes))

    def share(self, rank: int, moment: float) -> float:
        """Of a span shortly before this moment that the rank was ready and had no core, or waited
        in the kernel for all cores; of the worst such span."""
        near = [s for s in self._samples if moment - LAST_S <= s[0] <= moment + INTERVAL_S]
        spans = ([s for s in near if 0 <= s[0] - first[0] <= SPAN_S] for first in near)
        whole = (s for s in spans if s[-1][0] - s[0][0] > SPAN_S - 2 * INTERVAL_S)
        return max((_share(span, rank) for span in whole), default=0.0)

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
