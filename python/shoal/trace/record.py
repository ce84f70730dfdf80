"""What `shoal trace` writes down while it watches: --record, --otlp, --prometheus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from shoal.pages import Page
from shoal.trace.metrics import Metrics, parse_address
from shoal.trace.otlp import Otlp
from shoal.trace.perfetto import Perfetto
from shoal.trace.spans import Collective, Name, Tracker
from shoal.trace.verdict import Verdict


class Sink(Protocol):
    def pages(self, pages: Sequence[Page]) -> None: ...
    def collectives(self, collectives: Sequence[Collective]) -> None: ...
    def verdict(self, verdict: Verdict, name: Name | None) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Told of every look at the pages and of every verdict. One thread."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._tracker = Tracker()
        self.spans = 0  # of ranks

    @property
    def is_on(self) -> bool:
        return bool(self._sinks)

    def observe(self, pages: Sequence[Page]) -> None:
        if not self._sinks:
            return
        self._give(self._tracker.observe(pages))
        for sink in self._sinks:
            sink.pages(pages)

    def verdict(self, verdict: Verdict) -> None:
        name = self._tracker.find(verdict.job, verdict.communicator, verdict.sequence)
        for sink in self._sinks:
            sink.verdict(verdict, name)

    def close(self) -> None:
        self._give(self._tracker.finish())
        for sink in self._sinks:
            sink.close()

    def _give(self, collectives: Sequence[Collective]) -> None:
        self.spans += sum(len(one.parts) for one in collectives)
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


def open_recorder(options: argparse.Namespace) -> Recorder:
    """Raises NotInstalled, and OSError for a file or a port."""
    sinks: list[Sink] = []
    if options.prometheus is not None:
        metrics = Metrics(options.prometheus)
        host = options.prometheus[0]
        print(f"shoal trace: metrics at http://{host}:{metrics.port}/metrics", file=sys.stderr)
        sinks.append(metrics)
    if options.record is not None:
        sinks.append(Perfetto(options.record))
    if options.otlp is not None:
        sinks.append(Otlp(options.otlp))
    return Recorder(sinks)
