"""Serves Prometheus metrics of the ranks of this node's jobs: what their pages show when asked."""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shoal.pages import Page
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


class Metrics:
    """`address`: where to serve /metrics. Asked by its server's threads, told by one other."""

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
