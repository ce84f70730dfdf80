"""Serves Prometheus metrics of the ranks of this node's jobs: what their pages show when asked."""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shoal.pages import Page
from shoal.trace import cgroups
from shoal.trace.kernel import Carried, CgroupUse, Kernel
from shoal.trace.missing import need
from shoal.trace.spans import Collective, Name
from shoal.trace.verdict import Verdict

LABELS = ("job", "rank", "host")


def parse_address(text: str) -> tuple[str, int]:
    """[HOST:]PORT. Only this host sees them where none is named."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not [HOST:]PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def sequence_lag(pages: Sequence[Page]) -> Iterator[tuple[Page, int, int]]:
    """For each rank and communicator: how many collectives the furthest rank here is ahead."""
    furthest: dict[tuple[str, int, int], int] = {}
    for page in pages:
        for row in page.communicators:
            name = (page.job, *row.key)
            furthest[name] = max(furthest.get(name, 0), row.posted)
    for page in pages:
        for row in page.communicators:
            name = (page.job, *row.key)
            yield page, row.communicator, furthest[name] - row.posted


def oldest_ns(page: Page) -> int:
    """For how long it has waited for the oldest of its operations, sends and receives."""
    begins = [o.begin_ns for o in page.operations if o.in_flight and o.begin_ns > 0]
    begins += [transfer.begin_ns for transfer in page.transfers]
    return max(0, page.read_ns - min(begins)) if begins else 0


Families = dict[str, tuple[str, Callable[[Page], float]]]  # name -> description, value of a rank
COUNTERS: Families = {
    "shoal_operations_posted": ("Collectives begun", lambda p: p.posted),
    "shoal_operations_completed": ("Collectives ended", lambda p: p.completed),
    "shoal_operations_failed": ("Collectives that raised an error", lambda p: p.failed),
    "shoal_payload_bytes": (
        "Of the collectives ended: the larger of the rank's two buffers", lambda p: p.bytes
    ),
    "shoal_staged_bytes": (
        "Of buffers outside the pool, which are copied through it", lambda p: p.staged_bytes
    ),
}  # fmt: skip
GAUGES: Families = {
    "shoal_heartbeat_age_seconds": (
        "Since the rank's last heartbeat; it has ten a second",
        lambda p: max(0, p.read_ns - p.heartbeat_ns) / 1e9,
    ),
    "shoal_operation_age_seconds": (
        "Of the oldest operation the rank waits for; 0: none", lambda p: oldest_ns(p) / 1e9
    ),
}  # fmt: skip


CARRIED: dict[str, tuple[str, Callable[[Carried], float]]] = {
    "shoal_cgroup_tcp_sends": ("Sends of TCP sockets", lambda c: c.sends),
    "shoal_cgroup_tcp_sent_bytes": ("That these took", lambda c: c.sent_bytes),
    "shoal_cgroup_tcp_receives": ("Receives of TCP sockets", lambda c: c.receives),
    "shoal_cgroup_tcp_received_bytes": ("That these gave", lambda c: c.received_bytes),
}  # of a control group: its ranks and the others in it, by the label `of`
TIMES: dict[str, tuple[str, Callable[[CgroupUse], float]]] = {
    "shoal_cgroup_on_cpu_seconds": ("Of the ranks' threads", lambda g: g.on_cpu_ns / 1e9),
    "shoal_cgroup_waiting_seconds": (
        "They were ready, with no core",
        lambda g: g.waiting_ns / 1e9,
    ),
    "shoal_cgroup_off_cpu_seconds": ("They slept or were stopped", lambda g: g.off_cpu_ns / 1e9),
}


class Metrics:
    """`address`: where to serve /metrics. Asked by its server's threads, told by one other."""

    kernel: Kernel | None = None  # one that counts control groups

    def __init__(self, address: tuple[str, int]) -> None:
        client = need("prometheus_client")
        self._core: Any = need("prometheus_client.core")
        self._lock = threading.Lock()
        self._pages: Sequence[Page] = ()
        self._verdicts: Counter[tuple[str, str, str]] = Counter()
        registry = client.CollectorRegistry()
        registry.register(self)
        host, port = address
        self._server, self._thread = client.start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    def pages(self, pages: Sequence[Page]) -> None:
        with self._lock:
            self._pages = pages

    def collectives(self, collectives: Sequence[Collective]) -> None:
        """Numbers only."""

    def verdict(self, verdict: Verdict, name: Name | None) -> None:
        with self._lock:
            self._verdicts[(verdict.job, str(verdict.rank), verdict.cause)] += 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def describe(self) -> list[Any]:
        """Names that the registry checks for duplicates: there is one collector only."""
        return []

    def collect(self) -> Iterator[Any]:
        """prometheus_client calls it for every scrape."""
        with self._lock:
            pages, verdicts = self._pages, dict(self._verdicts)
        yield from self._families(pages)
        yield self._lag(pages)
        yield self._throttled(pages)
        if self.kernel is not None:
            yield from self._cgroups(self.kernel.sample().cgroups)
        found = self._core.CounterMetricFamily(
            "shoal_verdicts", "Collectives found late, by the rank that was the cause; -1: unknown",
            labels=("job", "rank", "cause"),
        )  # fmt: skip
        for labels, count in verdicts.items():
            found.add_metric(labels, count)
        yield found

    def _families(self, pages: Sequence[Page]) -> Iterator[Any]:
        makers = (
            (self._core.CounterMetricFamily, COUNTERS),
            (self._core.GaugeMetricFamily, GAUGES),
        )
        for make, families in makers:
            for name, (text, read) in families.items():
                family = make(name, text, labels=LABELS)
                for page in pages:
                    family.add_metric(_labels(page), read(page))
                yield family

    def _counter(self, name: str, text: str, *labels: str) -> Any:
        return self._core.CounterMetricFamily(name, text, labels=labels)

    def _cgroups(self, groups: Sequence[CgroupUse]) -> Iterator[Any]:
        for name, (text, read) in CARRIED.items():
            family = self._counter(name, text, "cgroup", "of")
            for group in groups:
                family.add_metric((group.path, "ranks"), read(group.ranks))
                family.add_metric((group.path, "others"), read(group.others))
            yield family
        for name, (text, read_time) in TIMES.items():
            family = self._counter(name, text, "cgroup")
            for group in groups:
                family.add_metric((group.path,), read_time(group))
            yield family

    def _throttled(self, pages: Sequence[Page]) -> Any:
        """Of every group above a rank that has a quota, of either version: the kernel's count."""
        found = {
            group.path: group.throttled_us / 1e6
            for page in pages
            for group in cgroups.read_cgroups(page.pid)
            if group.quota_us >= 0
        }
        family = self._counter(
            "shoal_cgroup_throttled_seconds", "It had used up its quota of processor time", "cgroup"
        )
        for path, seconds in found.items():
            family.add_metric((path,), seconds)
        return family

    def _lag(self, pages: Sequence[Page]) -> Any:
        lag = self._core.GaugeMetricFamily(
            "shoal_sequence_lag", "Collectives that the furthest rank here is ahead of this one",
            labels=(*LABELS, "communicator"),
        )  # fmt: skip
        for page, communicator, behind in sequence_lag(pages):
            lag.add_metric((*_labels(page), str(communicator)), behind)
        return lag


def _labels(page: Page) -> tuple[str, str, str]:
    return page.job, str(page.rank), page.host
