"""Disturbs jobs, asks `shoal trace` who it was, and counts how often it is right.

    python -m tests.trace.faults --seeds 50 --minutes 10 --results FILE --report docs/tracing.md

With --results a case that the file has is not played again: the same command, given in several
quiet hours, goes on where it stood. --report is of all that the file has.

Exits with 1 if a class that was asked for is right in less than 95 % of its seeds, a rank is named
that was not it, or a healthy job is accused.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import signal
import sys
import time
from collections.abc import Iterator

import tests.trace.faults.rdma_catalog  # noqa: F401 (its classes join the others)
from tests.trace.faults import report
from tests.trace.faults.case import Settings, play, watch_healthy
from tests.trace.faults.catalog import FAULTS, HEALTHY, Fault
from tests.trace.faults.hosts import Hosts, can_make
from tests.trace.faults.judge import BROKEN, TRACER, Outcome
from tests.trace.faults.rdma_hosts import RdmaHosts
from tests.trace.faults.results import Results

HEALTHY_S = 4.0  # of a seed of the class without a fault
MINUTES_FROM = 1000  # seeds of the watched minutes: other jobs than those of a seed's few seconds


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.trace.faults", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    names = [*FAULTS, HEALTHY]
    add("--seeds", type=int, default=2, metavar="N", help="of each class (default: %(default)s)")
    add("--first", type=int, default=0, metavar="SEED", help="begin with this one")
    add("--classes", default=",".join(names), metavar="A,B", help=f"of: {', '.join(names)}")
    add("--minutes", type=int, default=0, metavar="M", help="watch healthy jobs, a minute each")
    add("--results", type=pathlib.Path, metavar="FILE", help="add outcomes to it, skip what it has")
    add("--report", type=pathlib.Path, metavar="PAGE", help="write the tables into this page")
    add(
        "--pace", type=float, default=1, metavar="F", help="F times as slow: in an emulated machine"
    )
    add("--tracer", default=TRACER, metavar="COMMAND", help="what to ask (default: shoal trace)")
    options = parser.parse_args()
    options.names = options.classes.split(",")
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"--classes: there is no {', '.join(unknown)}; there are {', '.join(names)}")
    return options


def _show(outcome: Outcome) -> None:
    verdict = outcome.verdict
    said = f"rank {verdict['rank']} {verdict['cause']}" if verdict else "nothing"
    took = "" if outcome.seconds is None else f" after {outcome.seconds:.2f} s"
    print(
        f"{outcome.fault} {outcome.seed}: {outcome.result.upper()}: disturbed {outcome.culprits}"
        f" {outcome.variant} (tracer came {outcome.attached}), said {said}{took};"
        f" {outcome.late_ms:.0f} ms late",
        f"\n    {outcome.note}" if outcome.note else "",
        flush=True,
    )


def _play_all(
    faults: list[Fault], options: argparse.Namespace, settings: Settings, results: Results
) -> Iterator[Outcome]:
    """What `results` does not have."""
    seeds = range(options.first, options.first + options.seeds)
    for fault in faults:
        for seed in seeds:
            if results.has(fault.name, seed):
                continue
            if fault.rdma is None:
                yield play(fault, seed, settings)
                continue
            with RdmaHosts(fault.rdma) as hosts:
                yield play(fault, seed, dataclasses.replace(settings, hosts=hosts))
    watched = [(seed, HEALTHY_S) for seed in seeds if HEALTHY in options.names]
    watched += [(MINUTES_FROM + minute, 60.0) for minute in range(options.minutes)]
    for seed, seconds in watched:
        if not results.has(HEALTHY, seed):
            yield watch_healthy(seed, seconds, settings)


def main() -> int:
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # contexts are left
    chosen = [FAULTS[name] for name in options.names if name in FAULTS]
    skipped = {fault.name: why for fault in chosen if (why := fault.missing())}
    faults = [fault for fault in chosen if fault.name not in skipped]
    for name, why in skipped.items():
        print(f"{name}: skipped: {why}")
    results = Results(options.results)
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        need = any(fault.two_hosts and fault.rdma is None for fault in faults) and not can_make()
        hosts = stack.enter_context(Hosts()) if need else None
        settings = Settings(hosts, options.tracer, options.pace)
        for outcome in _play_all(faults, options, settings, results):
            results.add(outcome)
            _show(outcome)
    outcomes = results.outcomes()
    text = report.markdown(outcomes, skipped, results.described())
    print(f"\n{text}\n{len(outcomes)} cases, {time.monotonic() - begin:.0f} s")
    if options.report:
        report.write_into(options.report, text)
    names = {*options.names, *([HEALTHY] if options.minutes else [])}
    asked = [outcome for outcome in outcomes if outcome.fault in names]
    broken = any(outcome.result == BROKEN for outcome in asked)
    return 0 if not broken and all(row.passes for row in report.rows(asked)) else 1


if __name__ == "__main__":
    sys.exit(main())
