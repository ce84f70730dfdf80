"""What `shoal trace` writes down while it watches: --record, --otlp, --prometheus."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from typing import Protocol

from shoal.pages import Page
from shoal.trace.kernel import Kernel
from shoal.trace.metrics import Metrics, parse_address
from shoal.trace.otlp import Otlp
from shoal.trace.perfetto import Perfetto
from shoal.trace.selection import Selection
from shoal.trace.spans import Collective, Name, Tracker
from shoal.trace.verdict import Verdict

LOOK_S = 0.02


class Sink(Protocol):
    def pages(self, pages: Sequence[Page]) -> None: ...
    def collectives(self, collectives: Sequence[Collective]) -> None: ...
    def verdict(self, verdict: Verdict, name: Name | None) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Looks in a thread of its own: a verdict takes the watch a while, just when most happens.
    Without sinks it does nothing."""

    def __init__(
        self, sinks: Sequence[Sink], selection: Selection, metrics: Metrics | None = None
    ) -> None:
        self._sinks = sinks
        self._metrics = metrics  # one of the sinks
        self._selection = selection
        self._tracker = Tracker()
        self._lock = threading.Lock()  # one at a time talks to the sinks
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._spans = 0  # of ranks
        self._completed: dict[tuple[str, int, int], tuple[int, int]] = {}  # at first and last look
        if sinks:
            self._thread.start()

    @property
    def wants(self) -> list[str]:
        """Options of shoal-tracer."""
        return ["--cgroups"] if self._metrics is not None else []

    def attach(self, kernel: Kernel) -> None:
        if self._metrics is not None:
            self._metrics.kernel = kernel

    def verdict(self, verdict: Verdict) -> None:
        with self._lock:
            name = self._tracker.find(verdict.job, verdict.communicator, verdict.sequence)
            for sink in self._sinks:
                sink.verdict(verdict, name)

    def close(self) -> None:
        self._ended.set()
        if self._sinks:
            self._thread.join()
        self._give(self._tracker.finish())
        for sink in self._sinks:
            sink.close()

    @property
    def summary(self) -> str:
        """What share of the operations has a span; "": nothing is recorded."""
        if not self._sinks:
            return ""
        operations = sum(last - first for first, last in self._completed.values())
        return f"recorded {self._spans} of {operations} operations of ranks, those that had to wait"

    def _run(self) -> None:
        try:
            while not self._ended.wait(LOOK_S):
                self._look()
        except OSError as error:
            print(f"shoal trace: recording has ended: {error}", file=sys.stderr)

    def _look(self) -> None:
        pages = [page for pages in self._selection.read().values() for page in pages]
        with self._lock:
            for page in pages:
                name = (page.job, page.rank, page.pid)
                first, _ = self._completed.get(name, (page.completed, 0))
                self._completed[name] = (first, page.completed)
            self._give(self._tracker.observe(pages))
            for sink in self._sinks:
                sink.pages(pages)

    def _give(self, collectives: Sequence[Collective]) -> None:
        self._spans += sum(len(one.parts) for one in collectives)
        for sink in self._sinks:
            sink.collectives(collectives)


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--record", metavar="FILE", help="write a trace that ui.perfetto.dev opens"
    )
    command.add_argument(
        "--otlp", metavar="FILE|URL",
        help="write OpenTelemetry spans (OTLP/JSON), or send them to a collector",
    )  # fmt: skip
    command.add_argument(
        "--prometheus", metavar="[HOST:]PORT", type=parse_address,
        help="serve metrics at http://HOST:PORT/metrics (default host: 127.0.0.1)",
    )  # fmt: skip


def open_recorder(options: argparse.Namespace, selection: Selection) -> Recorder:
    """Raises NotInstalled, and OSError for a file or a port."""
    sinks: list[Sink] = []
    metrics = None
    if options.prometheus is not None:
        metrics = Metrics(options.prometheus)
        host = options.prometheus[0]
        print(f"shoal trace: metrics at http://{host}:{metrics.port}/metrics", file=sys.stderr)
        sinks.append(metrics)
    if options.record is not None:
        sinks.append(Perfetto(options.record))
    if options.otlp is not None:
        sinks.append(Otlp(options.otlp))
    return Recorder(sinks, selection, metrics)
