"""Start-up: from the launcher's exec until the last rank has passed its first barrier, the memory
of a rank then, and the messages by which ranks found one another. `shoal bench --startup`.

The floor beside it is what the machine needs to start as many processes of the same program that
do nothing (drivers/startup.cc). Rounds of both take turns.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median

from .conditions import conditions
from .libraries import compile_with_shoal
from .workshop import Unavailable, Workshop

_RANKS = "2,8,32,64,128"
_ROUNDS = 5
_LIMIT_SECONDS = 60.0
_NS_PER_MS = 1e6
_HEADING = (
    f"{'ranks':>5}{'barrier ms':>12}{'main ms':>9}{'init ms':>9}{'CPU ms':>8}"
    f"{'bare ms':>9}{'CPU ms':>8}"
    f"{'RSS MiB':>9}{'max':>6}{'PSS MiB':>9}{'max':>6}{'messages':>10}"
)


class StartFailed(Exception):
    """The ranks did not start; the text says why."""


@dataclass(frozen=True)
class Row:
    """Times since the launcher's exec, of the last rank; median over rounds."""

    ranks: int
    barrier_ms: float  # the first barrier has ended
    init_ms: float  # init() has returned
    main_ms: float  # main() has begun
    cpu_ms: float  # of launcher and ranks together, until they have ended
    bare_ms: float  # the floor: as many processes have begun and ended
    bare_cpu_ms: float
    rss_mib: float  # median over ranks, after the barrier
    rss_max_mib: float
    pss_mib: float
    pss_max_mib: float
    messages: int  # sent by one rank until it had joined, the most of any
    round_ms: list[float]


@dataclass(frozen=True)
class _Run:
    begin_ns: int
    cpu_ms: float
    output: str

    def since(self, at_ns: int) -> float:
        return (at_ns - self.begin_ns) / _NS_PER_MS


@dataclass(frozen=True)
class _Rank:
    main_ms: float
    init_ms: float
    barrier_ms: float
    rss_mib: float
    pss_mib: float


def main(options: argparse.Namespace) -> int:
    ranks = [int(word) for word in (options.ranks or _RANKS).split(",")]
    workshop = Workshop(options.directory, lambda text: print(f"==> {text}", flush=True))
    rows = []
    try:
        driver = str(compile_with_shoal(workshop, "startup", "startup.cc"))
        print(_HEADING)
        for number in ranks:
            rows.append(_row(driver, number, options.rounds or _ROUNDS))
            print(_line(rows[-1]), flush=True)
    except (Unavailable, StartFailed) as error:
        print(f"shoal bench: {error}", file=sys.stderr)
        return 1
    if options.json:
        found = {"conditions": conditions(), "startup": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _row(driver: str, ranks: int, rounds: int) -> Row:
    bares, runs = [], []
    for _ in range(rounds):
        bares.append(_run([driver, "bare", str(ranks)]))
        runs.append(_run([*_launch(ranks), driver, "rank"]))
    starts = [_ranks(run, ranks) for run in runs]
    barriers = [max(one.barrier_ms for one in start) for start in starts]
    return Row(
        ranks=ranks,
        barrier_ms=median(barriers),
        init_ms=median(max(one.init_ms for one in start) for start in starts),
        main_ms=median(max(one.main_ms for one in start) for start in starts),
        cpu_ms=median(run.cpu_ms for run in runs),
        bare_ms=median(run.since(int(run.output.split()[1])) for run in bares),
        bare_cpu_ms=median(run.cpu_ms for run in bares),
        rss_mib=median(one.rss_mib for one in starts[-1]),
        rss_max_mib=max(one.rss_mib for one in starts[-1]),
        pss_mib=median(one.pss_mib for one in starts[-1]),
        pss_max_mib=max(one.pss_mib for one in starts[-1]),
        messages=_messages(driver, ranks),
        round_ms=barriers,
    )


def _ranks(run: _Run, ranks: int) -> list[_Rank]:
    found = []
    for line in run.output.splitlines():
        if line.startswith("rank "):
            main, init, barrier, rss, pss = map(int, line.split()[1:])
            found.append(
                _Rank(
                    main_ms=run.since(main),
                    init_ms=run.since(init),
                    barrier_ms=run.since(barrier),
                    rss_mib=rss / 1024,
                    pss_mib=pss / 1024,
                )
            )
    if len(found) != ranks:
        raise StartFailed(f"{len(found)} of {ranks} ranks reported")
    return found


def _messages(driver: str, ranks: int) -> int:
    """From the log, in a run of its own: writing it takes time."""
    run = _run([*_launch(ranks), "--env", "SHOAL_LOG=debug", "--", driver, "rank"])
    return max(int(sent) for sent in re.findall(r"joined: (\d+) messages sent", run.output))


def _launch(ranks: int) -> list[str]:
    return [sys.executable, "-m", "shoal.cli", "run", "--no-prefix", "-n", str(ranks)]


def _run(command: list[str]) -> _Run:
    cpu = _children_ms()
    begin = time.monotonic_ns()  # CLOCK_MONOTONIC, as the ranks read it
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=_LIMIT_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise StartFailed(f"{' '.join(command)}: code {done.returncode}: {done.stdout[-400:]}")
    return _Run(begin, _children_ms() - cpu, done.stdout)


def _children_ms() -> float:
    """CPU time of all that has ended below this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * 1e3


def _line(row: Row) -> str:
    return (
        f"{row.ranks:>5}{row.barrier_ms:>12.0f}{row.main_ms:>9.0f}{row.init_ms:>9.0f}"
        f"{row.cpu_ms:>8.0f}{row.bare_ms:>9.0f}{row.bare_cpu_ms:>8.0f}"
        f"{row.rss_mib:>9.1f}{row.rss_max_mib:>6.1f}{row.pss_mib:>9.1f}{row.pss_max_mib:>6.1f}{row.messages:>10}"
    )
