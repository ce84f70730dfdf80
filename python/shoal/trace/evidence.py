"""What is known of a job at two moments, some tens of milliseconds apart: all that a verdict is
made of. Plain data: a test makes it up, `shoal trace` collects it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from shoal.pages import Page
from shoal.trace import links, processes, rdma
from shoal.trace.cgroups import Cgroup
from shoal.trace.kernel import Kernel, KernelThread, Sample, Signal
from shoal.trace.links import Link
from shoal.trace.processes import Process, Thread
from shoal.trace.python_line import python_line


@dataclass(frozen=True)
class Moment:
    t_ns: int
    pages: dict[int, Page]  # by world rank, of one job
    processes: dict[int, Process] = field(default_factory=dict)  # by pid
    links: dict[int, tuple[Link, ...] | None] = field(default_factory=dict)  # by pid
    kernel: Sample = field(default_factory=Sample)
    cores: dict[int, tuple[str, int, int]] = field(
        default_factory=dict
    )  # processes.read_core_users
    rdma: rdma.Rdma = field(default_factory=rdma.Rdma)


def _unknown_line(pid: int, tid: int) -> tuple[str, str]:
    return "", "the Python line: not asked for"


@dataclass(frozen=True)
class Evidence:
    before: Moment
    after: Moment
    signals: tuple[Signal, ...] = ()
    missing: tuple[str, ...] = ()  # what could not be had of the kernel, and how to get it
    python_line: Callable[[int, int], tuple[str, str]] = _unknown_line
    rdma_history: tuple[rdma.Sample, ...] = ()  # the ports as they were, the earliest first
    links_history: tuple[links.Sample, ...] = ()  # and the connections

    @property
    def first(self) -> Evidence:
        """What the first moment shows by itself."""
        return replace(self, after=self.before)

    @property
    def window_ns(self) -> int:
        return max(1, self.after.t_ns - self.before.t_ns)

    @property
    def kernel_window_ns(self) -> int:
        """Between the two samples of eBPF; 0: there was none, or no new one."""
        return max(0, self.after.kernel.t_ns - self.before.kernel.t_ns)

    def page(self, rank: int) -> Page | None:
        return self.after.pages.get(rank)

    def threads(self, pid: int, tid: int) -> tuple[Thread, Thread] | None:
        """A thread at both moments."""
        before = self.before.processes.get(pid, Process(pid)).threads.get(tid)
        after = self.after.processes.get(pid, Process(pid)).threads.get(tid)
        return None if before is None or after is None else (before, after)

    def cgroups(self, pid: int) -> list[tuple[Cgroup, Cgroup]]:
        earlier = self.before.processes.get(pid, Process(pid)).cgroups
        before = {(group.controller, group.path): group for group in earlier}
        after = self.after.processes.get(pid, Process(pid)).cgroups
        return [(before.get((group.controller, group.path), group), group) for group in after]

    def kernel_thread(self, tid: int) -> tuple[KernelThread, KernelThread] | None:
        before, after = self.before.kernel.threads.get(tid), self.after.kernel.threads.get(tid)
        return None if before is None or after is None else (before, after)

    def links(self, pid: int) -> list[tuple[Link, Link]]:
        before = {one.name: one for one in self.before.links.get(pid) or ()}
        after = self.after.links.get(pid) or ()
        return [(before.get(one.name, one), one) for one in after]

    def link_at(self, pid: int, link: Link, t_ns: int) -> tuple[int, Link]:
        """The same connection as it was at the last look before `t_ns`, or as early as there was
        one; and when that was."""
        present = links.Sample(self.before.t_ns, self.before.links)
        looks = [
            (sample.t_ns, one)
            for sample in (*self.links_history, present)
            for one in sample.links.get(pid) or ()
            if one.name == link.name and sample.t_ns <= self.before.t_ns
        ]
        early = [look for look in looks if look[0] <= t_ns]
        return (early or looks[:1] or [(self.after.t_ns, link)])[-1]


def observe(pages: Iterable[Page], kernel: Kernel | None, cores: bool = False) -> Moment:
    """All that can be seen now of the ranks of one job that have a page here."""
    by_rank = {page.rank: page for page in pages}
    spans_nodes = any(page.ranks > page.node_ranks for page in by_rank.values())
    pids = [page.pid for page in by_rank.values()]
    return Moment(
        t_ns=time.monotonic_ns(),
        pages=by_rank,
        processes={pid: processes.read_process(pid) for pid in pids},
        links={pid: links.read_links(pid) for pid in pids} if spans_nodes else {},
        kernel=kernel.sample() if kernel is not None else Sample(),
        cores=processes.read_core_users() if cores else {},
        rdma=rdma.observe(pids) if spans_nodes else rdma.Rdma(),
    )


def collect(
    before: Moment,
    after: Moment,
    kernel: Kernel | None,
    rdma_history: tuple[rdma.Sample, ...] = (),
    links_history: tuple[links.Sample, ...] = (),
) -> Evidence:
    return Evidence(
        before=before,
        after=after,
        signals=tuple(kernel.signals()) if kernel is not None else (),
        missing=tuple(kernel.missing) if kernel is not None else (),
        python_line=python_line,
        rdma_history=rdma_history,
        links_history=links_history,
    )
