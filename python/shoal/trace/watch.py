"""Watches the jobs of this node and calls for a verdict when a collective is late."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator

from shoal.pages import Node, Page
from shoal.trace.evidence import Evidence, Moment, collect, observe
from shoal.trace.kernel import Kernel
from shoal.trace.late import Late, find_late
from shoal.trace.verdict import Verdict, is_moving, judge

LOOK_S = 1.0  # between searches for new jobs
WINDOW_S = 0.1  # between the two moments of a verdict
PROVISIONAL_S = 0.5  # after which a provisional verdict is made again
# Measured over the window, so that they hold for an operation that ended within it as well.
LASTING = frozenset({"throttled", "preempted", "stopped", "frozen"})


class Selection:
    """Which jobs: all, one by its id, or that of one process. One thread."""

    def __init__(self, job: str | None, pid: int | None) -> None:
        self._pid = pid
        self._node = Node(job)
        self._looked = time.monotonic()

    def read(self) -> dict[str, list[Page]]:
        """The pages of each job."""
        if time.monotonic() - self._looked > LOOK_S:
            self._node.look()
            self._looked = time.monotonic()
        jobs: dict[str, list[Page]] = {}
        for page in self._node.read():
            jobs.setdefault(page.job, []).append(page)
        if self._pid is None:
            return jobs
        return {job: pages for job, pages in jobs.items() if any(p.pid == self._pid for p in pages)}


class Watch:
    """One thread. `kernel`: None to go without eBPF."""

    def __init__(self, selection: Selection, kernel: Kernel | None, after_ms: int) -> None:
        self._selection = selection
        self._kernel = kernel
        self._after_ns = after_ms * 1_000_000
        self._interval_s = min(0.1, max(0.01, after_ms / 4000))
        self._judged: dict[tuple[str, int, int, int, str], float] = {}  # when to judge again
        self._root: tuple[str, int, str] | None = None  # job, rank, cause of the stall under way
        self.seen = 0  # operations that were late

    def verdicts(self, until: float) -> Iterator[Verdict]:
        """As they come, until time.monotonic() is `until`."""
        while (begin := time.monotonic()) < until:
            jobs = self._selection.read()
            if self._kernel is not None:
                self._kernel.watch(page.pid for pages in jobs.values() for page in pages)
            calm = True
            for job, pages in jobs.items():
                for late in self._new(find_late(pages, self._after_ns)):
                    calm = False
                    verdict = self._judge(job, pages, late)
                    if verdict is not None:
                        yield verdict
            if calm and not any(find_late(pages, self._after_ns) for pages in jobs.values()):
                self._root = None
            time.sleep(max(0.0, begin + self._interval_s - time.monotonic()))

    def _new(self, late: list[Late]) -> list[Late]:
        now = time.monotonic()
        return [one for one in late if now >= self._judged.get(one.name, 0.0)]

    def _observe(self, job: str, pages: list[Page] | None) -> Moment | None:
        if self._kernel is not None:
            self._kernel.next_sample()
        fresh = self._selection.read().get(job)
        if not fresh and not pages:
            return None
        return observe(fresh or pages or [], self._kernel, cores=True)

    def _evidence(self, job: str, pages: list[Page], late: Late) -> tuple[Evidence, bool] | None:
        """And whether the operation is in flight still."""
        before = self._observe(job, pages)
        if before is None or not _is_in(before, late, self._after_ns):
            return None  # over meanwhile
        time.sleep(WINDOW_S)
        after = self._observe(job, pages)
        if after is None:
            return None
        lasts = _is_in(after, late, self._after_ns)
        if not lasts:
            after = dataclasses.replace(after, pages=before.pages)
        return collect(before, after, self._kernel), lasts

    def _judge(self, job: str, pages: list[Page], late: Late) -> Verdict | None:
        self.seen += late.name not in self._judged
        found = self._evidence(job, pages, late)
        if found is None:
            return None
        evidence, lasts = found
        if is_moving(evidence, late):
            return None
        verdict = judge(evidence, late)
        if not lasts and verdict.cause not in LASTING:
            return None
        never = float("inf")
        again = verdict.provisional and late.name not in self._judged
        self._judged[late.name] = time.monotonic() + PROVISIONAL_S if again else never
        root = (job, verdict.rank, verdict.cause)
        if root == self._root and verdict.cause != "unknown":
            return None  # of the same stall
        self._root = root
        return verdict


def _is_in(moment: Moment, late: Late, after_ns: int) -> bool:
    return any(one.name == late.name for one in find_late(moment.pages.values(), after_ns))


def own_cpu_s() -> float:
    """Of this process and of those of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
