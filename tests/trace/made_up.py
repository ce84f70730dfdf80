"""Made-up evidence: a job of ranks as their pages, /proc and the kernel would show them."""

from __future__ import annotations

import dataclasses

from shoal.pages import Operation, Page, Progress, Transfer
from shoal.trace import links
from shoal.trace.cgroups import Cgroup
from shoal.trace.evidence import Evidence, Moment
from shoal.trace.kernel import KernelLink, KernelThread, Preemptor, Sample, Signal
from shoal.trace.links import Link
from shoal.trace.processes import Process, Thread

MS = 1_000_000
NOW = 10_000 * MS
WINDOW = 100 * MS
SLEEP, FUTEX, FLOCK = 230, 202, 73  # clock_nanosleep, futex, flock on x86-64


def operation(sequence: int, awaited: int, **changes: object) -> Operation:
    base = Operation(sequence, 0, "running", "all_reduce", "float32", 1000, NOW - 500 * MS, 3,
                     awaited)  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def transfer(kind: str, peer: int, tag: int = 7) -> Transfer:
    return Transfer(kind, 0, peer, tag, 4096, NOW - 500 * MS)


def row(posted: int, rank: int, ranks: int = 4, communicator: int = 0, first: int = 0) -> Progress:
    return Progress(communicator, first, ranks, rank, posted, posted - 1)


def page(rank: int, posted: int, waits: Operation | Transfer | None, ranks: int = 4,
         **changes: object) -> Page:  # fmt: skip
    pid = 100 + rank
    base = Page(
        job="job", rank=rank, ranks=ranks, local_rank=rank, node_ranks=ranks, host="here", pid=pid,
        read_ns=NOW, heartbeat_ns=NOW - 50 * MS, driver=pid, caller=pid,
        drivers=0 if waits is None else 1, posted=posted, completed=posted - 1, failed=0, staged=0,
        staged_bytes=0, operations=(waits,) if isinstance(waits, Operation) else (),
        transfers=(waits,) if isinstance(waits, Transfer) else (),
        communicators=(row(posted, rank, ranks),),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def thread(tid: int, **changes: object) -> Thread:
    base = Thread(tid, "python", "S", 0, 0, 0, 0, 0, 0, 0, FUTEX, (0,) * 6, "futex_wait_queue")
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def process(pid: int, *cgroups: Cgroup, **changes: object) -> Process:
    return Process(pid, {pid: thread(pid, **changes)}, cgroups)


def link(local: str, remote: str, **changes: object) -> Link:
    base = Link(local, remote, 0, 0, 0, 0, 0, 0, 5, 30, 0, 1000, 1000)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def kernel_thread(tid: int, **changes: object) -> KernelThread:
    base = KernelThread(tid, tid, "S", NOW - 400 * MS, 0, (), ("do_nanosleep",), "", 0, {})
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def preemptor(comm: str, ms: int, tid: int = 999) -> Preemptor:
    return Preemptor(tid, tid, comm, ms * MS)


class World:
    """A job that stands still, one rank at a time made different; evidence() is what is seen."""

    def __init__(self, *pages: Page) -> None:
        self.pages = {one.rank: one for one in pages}
        self.before = {one.pid: process(one.pid) for one in pages}
        self.after = {one.pid: process(one.pid) for one in pages}
        self.links_before: dict[int, tuple[Link, ...]] = {}
        self.links_after: dict[int, tuple[Link, ...]] = {}
        self.links_history: tuple[links.Sample, ...] = ()
        self.kernel_links: dict[tuple[str, str], KernelLink] = {}
        self.kernel_before: list[KernelThread] = []
        self.kernel_after: list[KernelThread] = []
        self.cores_before: dict[int, tuple[str, int, int]] = {}
        self.cores_after: dict[int, tuple[str, int, int]] = {}
        self.signals: tuple[Signal, ...] = ()
        self.missing: tuple[str, ...] = ()
        self.earlier_pages: dict[int, Page] | None = None

    def evidence(self) -> Evidence:
        return Evidence(
            Moment(NOW - WINDOW, self.earlier_pages or self.pages, self.before,
                   dict(self.links_before), self._sample(NOW - WINDOW, self.kernel_before),
                   self.cores_before),
            Moment(NOW, self.pages, self.after, dict(self.links_after),
                   self._sample(NOW, self.kernel_after), self.cores_after),
            self.signals, self.missing, lambda pid, tid: (f"load (train.py:{tid})", ""),
            links_history=self.links_history,
        )  # fmt: skip

    def _sample(self, t_ns: int, threads: list[KernelThread]) -> Sample:
        return Sample(t_ns, {one.tid: one for one in threads}, self.kernel_links)


def waiting_world(late_rank: int = 2, **changes: object) -> World:
    """Ranks 0, 1, 3 wait in #5; rank `late_rank` has posted #4 and is in its own code."""
    pages = [page(r, 5, operation(5, late_rank)) for r in range(4) if r != late_rank]
    pages.insert(late_rank, page(late_rank, 4, None))
    world = World(*pages)
    pid = 100 + late_rank
    world.after[pid] = process(pid, **changes)
    return world
