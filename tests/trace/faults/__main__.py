"""Disturbs jobs, asks `shoal trace` who it was, and counts how often it is right.

    python -m tests.trace.faults --seeds 50 --minutes 10 --report docs/tracing.md --json out.json

Exits with 1 if a class is right in less than 95 % of its seeds, a rank is named that was not it, or
a healthy job is accused.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
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

HEALTHY_S = 4.0  # of a seed of the class without a fault


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.trace.faults", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    names = [*FAULTS, HEALTHY]
    add("--seeds", type=int, default=2, metavar="N", help="of each class (default: %(default)s)")
    add("--first", type=int, default=0, metavar="SEED", help="begin with this one")
    add("--classes", default=",".join(names), metavar="A,B", help=f"of: {', '.join(names)}")
    add("--minutes", type=float, default=0, metavar="M", help="watch a healthy job so long")
    add("--report", type=pathlib.Path, metavar="PAGE", help="write the tables into this page")
    add("--json", type=pathlib.Path, metavar="FILE", help="write every outcome there")
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
    faults: list[Fault], options: argparse.Namespace, settings: Settings
) -> Iterator[Outcome]:
    seeds = range(options.first, options.first + options.seeds)
    for fault in faults:
        for seed in seeds:
            if fault.rdma is None:
                yield play(fault, seed, settings)
                continue
            with RdmaHosts(fault.rdma) as hosts:
                yield play(fault, seed, dataclasses.replace(settings, hosts=hosts))
    if HEALTHY in options.names:
        for seed in seeds:
            yield watch_healthy(seed, HEALTHY_S, settings)
    if options.minutes:
        yield watch_healthy(seeds.stop, options.minutes * 60, settings)


def main() -> int:
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # contexts are left
    chosen = [FAULTS[name] for name in options.names if name in FAULTS]
    skipped = {fault.name: why for fault in chosen if (why := fault.missing())}
    faults = [fault for fault in chosen if fault.name not in skipped]
    for name, why in skipped.items():
        print(f"{name}: skipped: {why}")
    outcomes = []
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        need = any(fault.two_hosts and fault.rdma is None for fault in faults) and not can_make()
        hosts = stack.enter_context(Hosts()) if need else None
        for outcome in _play_all(faults, options, Settings(hosts, options.tracer, options.pace)):
            outcomes.append(outcome)
            _show(outcome)
    said = f"{options.seeds} seeds a class"
    if options.minutes:
        said += f", and a healthy job watched for {options.minutes:g} minutes"
    text = report.markdown(outcomes, skipped, said)
    print(f"\n{text}\n{len(outcomes)} cases in {time.monotonic() - begin:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(o) for o in outcomes], indent=1))
    if options.report:
        report.write_into(options.report, text)
    broken = any(outcome.result == BROKEN for outcome in outcomes)
    return 0 if not broken and all(row.passes for row in report.rows(outcomes)) else 1


if __name__ == "__main__":
    sys.exit(main())
