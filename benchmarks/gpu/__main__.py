"""`make bench-gpu`: all_reduce of CUDA memory beside gloo and NCCL, over its floor.

The floor is bytes over bandwidth: ranks that share a GPU share its memory, so an all_reduce of n
bytes on p ranks reads and writes 2 n p bytes there, as fast as the device copies. Where each rank
has a GPU, the floor is that of the slowest of them and of what joins them: not known here.

A peer that is refused or hangs costs its own rows only: the job goes on, or is started again,
without it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from benchmarks.gpu import report
from benchmarks.gpu.peers import NAMES

SIZES = (8, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20)
TRY_SIZES = (8, 64 << 10)
MINUTES = 4.5
# What a job takes before it measures: the interpreter, torch, the device's contexts, connections.
START_S = 15
# A job that does not end by itself is ended so long after its time.
GRACE_S = 60


class Job:
    """One number of ranks; what is lost with a peer that hangs is measured again without it."""

    def __init__(self, ranks: int, names: list[str], options: argparse.Namespace) -> None:
        self.ranks, self.names, self.options = ranks, list(names), options
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.failed = False

    def run(self, seconds: float) -> None:
        sizes = list(self.options.bytes)
        end = time.monotonic() + seconds
        for _ in range(1 + len(NAMES)):  # each time one peer fewer
            culprit = self._try(sizes, max(5.0, end - time.monotonic() - START_S))
            if culprit is None:
                return
            if culprit not in self.names:
                self.failed = True
                return
            self.names.remove(culprit)
            measured = {row["bytes"] for row in self.rows}
            sizes = [size for size in sizes if size not in measured]

    def _try(self, sizes: list[int], seconds: float) -> str | None:
        """Returns whose turn it was when the job failed, or None."""
        command = [
            sys.executable, "-m", "shoal.cli", "run", "-n", str(self.ranks), "--no-prefix",
            "--timeout", str(int(seconds + START_S + GRACE_S)),
            sys.executable, "-m", "benchmarks.gpu.rank", "--seconds", str(seconds),
            "--bytes", *map(str, sizes), "--rounds", str(self.options.rounds),
            "--calls", str(self.options.calls), "--peers", *self.names,
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        doing, ended = "shoal", f"the job ended with {done.returncode}"
        for line in done.stdout.splitlines():
            words = json.loads(line) if line.startswith("{") else {}
            if "system" in words:
                self.rows.append(words)
            elif "without" in words:
                self._note(f"{self.ranks} ranks, without {words['without']}: {words['because']}")
            elif "hung" in words:
                ended = f"not over after {words['after_s']:.0f} s"
            elif "doing" in words:
                doing = words["doing"]
            else:
                self.facts |= words
        if done.returncode == 0:
            return None
        self._note(f"{self.ranks} ranks, {doing}: {ended}")
        return doing

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            print(text, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--try", action="store_true", dest="trial", help="two sizes, few calls: does it run?")
    add("--ranks", type=int, nargs="+", default=[1, 2, 4])
    add("--bytes", type=int, nargs="+", default=list(SIZES))
    add("--minutes", type=float, default=MINUTES, help=f"for all of it ({MINUTES:.0f})")
    add("--peers", nargs="*", choices=NAMES, default=list(NAMES))
    add("--json", type=pathlib.Path, metavar="FILE", help="the rows, one a line")
    add("--report", type=pathlib.Path, metavar="FILE", help="docs/performance-gpu.md")
    options = parser.parse_args()
    options.rounds, options.calls = 5, 200
    if options.trial:
        options.bytes, options.rounds, options.calls = list(TRY_SIZES), 2, 5
        options.minutes = min(options.minutes, 1)
    return options


def main() -> None:
    options = arguments()
    jobs = [Job(ranks, options.peers, options) for ranks in options.ranks]
    end = time.monotonic() + 60 * options.minutes
    for index, job in enumerate(jobs):
        job.run((end - time.monotonic()) / (len(jobs) - index))
    rows = [row for job in jobs for row in job.rows]
    notes = [note for job in jobs for note in job.notes]
    text = report.text(rows, jobs[-1].facts, notes)
    print(text)
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if options.report:
        options.report.write_text(report.document(text))
    sys.exit(any(job.failed for job in jobs))


if __name__ == "__main__":
    main()
