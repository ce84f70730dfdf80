"""`shoal trace`: who makes the collectives of a running job late, and why."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time

from shoal.trace import record
from shoal.trace.kernel import Kernel
from shoal.trace.missing import NotInstalled
from shoal.trace.record import Recorder, open_recorder
from shoal.trace.selection import Selection
from shoal.trace.verdict import Verdict
from shoal.trace.watch import Watch, own_cpu_s

ONCE_S = 10.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument("--job", help="the id of a job (shoal ps shows it); default: all jobs here")
    which.add_argument("--pid", type=int, help="the job that this process is a rank of")
    command.add_argument("--once", action="store_true", help="end after the first verdict")
    command.add_argument("--json", action="store_true", help="one JSON object a line")
    command.add_argument(
        "--after-ms", type=int, default=100, metavar="N",
        help="late is what somebody has waited for so long (default: 100)",
    )  # fmt: skip
    command.add_argument(
        "--seconds", type=float, metavar="S",
        help=f"how long to watch (default: until interrupted; with --once {ONCE_S:.0f})",
    )  # fmt: skip
    command.add_argument(
        "--no-kernel", action="store_true", help="progress pages and /proc only: no privilege"
    )
    record.add_arguments(command)


def print_verdict(verdict: Verdict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(verdict)), flush=True)
        return
    what = f"{verdict.collective} #{verdict.sequence} of communicator {verdict.communicator}"
    who = f"rank {verdict.rank} ({verdict.host}, pid {verdict.pid})" if verdict.rank >= 0 else "?"
    sure = ", provisional" if verdict.provisional else ""
    print(f"{who}: {verdict.cause}{sure}; {what} has been late for {verdict.since_ms} ms")
    for line in verdict.evidence:
        print(f"    {line}")
    for line in verdict.missing:
        print(f"    missing: {line}")
    sys.stdout.flush()


def _explain_nothing(options: argparse.Namespace, selection: Selection) -> str:
    if selection.read():
        return "no collective was late"
    which = f"job {options.job}" if options.job else "such job"
    return f"no {which if options.job or options.pid else 'shoal job'} on this node (of this user)"


def main(options: argparse.Namespace) -> int:
    selection = Selection(options.job, options.pid)
    try:
        recorder = open_recorder(options, selection)
    except (NotInstalled, OSError) as error:
        print(f"shoal trace: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is recorded is finished
    try:
        return _watch(options, selection, recorder)
    finally:
        recorder.close()
        if recorder.summary and not options.json:
            print(f"shoal trace: {recorder.summary}", file=sys.stderr)


def _watch(options: argparse.Namespace, selection: Selection, recorder: Recorder) -> int:
    seconds = options.seconds or (ONCE_S if options.once else float("inf"))
    pids = [page.pid for pages in selection.read().values() for page in pages]
    kernel = None if options.no_kernel else Kernel(pids, recorder.wants)
    if kernel is not None:
        recorder.attach(kernel)
    if kernel is not None and not options.json:
        for line in kernel.missing:
            print(f"shoal trace: missing: {line}", file=sys.stderr)
    watch = Watch(selection, kernel, options.after_ms)
    print(f"shoal trace: watching {len(pids)} ranks", file=sys.stderr, flush=True)
    begin, spent = time.monotonic(), own_cpu_s(kernel)
    verdicts = 0
    try:
        for verdict in watch.verdicts(begin + seconds):
            verdicts += 1
            print_verdict(verdict, options.json)
            recorder.verdict(verdict)
            if options.once and not verdict.provisional:
                return 0
    except KeyboardInterrupt:
        pass
    finally:
        if kernel is not None:
            kernel.close()
    took, spent = time.monotonic() - begin, own_cpu_s(kernel) - spent
    if verdicts == 0:
        text = _explain_nothing(options, selection)
        print(json.dumps({"cause": "none", "why": text}) if options.json else text)
    if not options.json:
        print(f"shoal trace: {took:.0f} s, {watch.seen} operations late; "
              f"{100 * spent / took:.2f} % of a core", file=sys.stderr)  # fmt: skip
    return 0 if verdicts else 1
