"""Plays one seed of one class: a job, a fault, a tracer; and the truth afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.trace.faults import judge
from tests.trace.faults.catalog import HEALTHY, RANKS, Fault, Scene, read_log, usual
from tests.trace.faults.hosts import Hosts
from tests.trace.faults.judge import Judge, Outcome
from tests.trace.faults.processes import started, wait_until

PROGRAM = pathlib.Path(__file__).with_name("job.py")
START_S = 30.0
END_S = 15.0
JOB_S = 60.0  # then the launcher ends it by itself, if it has not been asked for more
LIMIT_S = 6.0  # for the verdict, from the fault or the tracer's start
LATE_MS = 50.0  # what the tracer calls late. A fault that made nobody wait so long has not happened
ATTEMPTS = 3  # at a seed that the machine's other work has spoilt


@dataclass
class Job:
    name: str
    directory: pathlib.Path
    launcher: subprocess.Popen[str]
    output: pathlib.Path

    def pids(self) -> list[int]:
        files = [self.directory / f"ready.{rank}" for rank in range(RANKS)]

        def ready() -> bool:
            if self.launcher.poll() is not None:
                raise RuntimeError(f"the job has ended: {self.output.read_text()}")
            return all(file.exists() for file in files)

        wait_until(ready, START_S, f"all ranks of {self.name} are ready")
        return [json.loads(file.read_text())["pid"] for file in files]

    def finish(self) -> str:
        """Lets it end, and returns what was wrong, or ""."""
        (self.directory / "stop").touch()
        try:
            code = self.launcher.wait(END_S)
        except subprocess.TimeoutExpired:
            return f"the job does not end: {self.output.read_text()}"
        return "" if code == 0 else f"the job ended with {code}: {self.output.read_text()}"


@contextlib.contextmanager
def running(
    name: str, options: list[str], seed: int, hosts: Hosts | None, seconds: float = JOB_S
) -> Iterator[Job]:
    with tempfile.TemporaryDirectory(prefix="shoal-fault-") as folder:
        directory = pathlib.Path(folder)
        where = ["-n", str(RANKS)] if hosts is None else hosts.options(RANKS // 2)
        command = [
            *([] if hosts is None else hosts.launcher()), sys.executable, "-m", "shoal.cli", "run",
            *where, "--no-bind", "--job", name, "--timeout", f"{seconds:g}", "--grace", "1",
            sys.executable, str(PROGRAM), "--seed", str(seed), "--directory", folder, *options,
        ]  # fmt: skip
        output = directory / "output"
        with output.open("w") as file:
            with started(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            ) as launcher:
                yield Job(name, directory, launcher, output)


def late_ms(job: Job, begin: float = 0, end: float = float("inf")) -> float:
    """The longest time any rank spent in a call of which a part lies between these moments."""
    longest = 0
    for rank in range(RANKS):
        for line in read_log(job.directory, rank):
            if "operation" in line and line["end"] > begin * 1e9 and line["begin"] < end * 1e9:
                longest = max(longest, line["end"] - line["begin"])
    return longest / 1e6


def play(fault: Fault, seed: int, hosts: Hosts | None, tracer: str) -> Outcome:
    """Again if the machine's own noise came first; the same seed is then the same fault."""
    for _ in range(ATTEMPTS):
        outcome = _play_once(fault, seed, hosts, tracer)
        if outcome.result != judge.NOISE:
            break
    return outcome


def _play_once(fault: Fault, seed: int, hosts: Hosts | None, tracer: str) -> Outcome:
    rng = random.Random(f"{fault.name}-{seed}")
    outcome = Outcome(
        fault.name, seed, rng.choice(("before", "after")), rng.randrange(RANKS), [], judge.BROKEN
    )
    name = f"fault-{fault.name}-{seed}-{os.getpid()}"
    try:
        with running(name, fault.options(rng), seed, hosts if fault.two_hosts else None) as job:
            # A tracer that comes later must find the fault still there.
            seconds = rng.uniform(0.4, 2.5) if outcome.attached == "before" else LIMIT_S
            scene = Scene(rng, job.directory, job.pids(), outcome.victim, seconds, hosts)
            time.sleep(rng.uniform(0.3, 0.6))
            _disturb(fault, scene, job, outcome, tracer)
            _close(job, outcome)
    except (OSError, RuntimeError, TimeoutError) as error:
        outcome.result, outcome.note = judge.BROKEN, str(error)
    return outcome


def _close(job: Job, outcome: Outcome) -> None:
    """The job must end in order, with right results, whatever was done to it."""
    outcome.note = job.finish() or outcome.note
    if outcome.note:
        outcome.result = judge.BROKEN


def _disturb(fault: Fault, scene: Scene, job: Job, outcome: Outcome, tracer: str) -> None:
    options = ("--once", "--seconds", f"{scene.seconds + LIMIT_S + 4:g}")
    with contextlib.ExitStack() as stack:
        court = None
        if outcome.attached == "before":
            court = stack.enter_context(judge.tracing(tracer, job.name, *options))
            early = court.verdict(judge.WATCHES_S)
            if early is not None:
                _blame_noise(job, outcome, early[1])
                return
        with fault.inject(scene) as culprits:
            begin = time.monotonic()
            if court is None:
                time.sleep(scene.random.uniform(0.1, 0.5))
                court = stack.enter_context(judge.tracing(tracer, job.name, *options))
            said = court.verdict(scene.seconds)
        end = time.monotonic()
        said = said or court.verdict(LIMIT_S)
        _decide(fault, court, outcome, culprits, said, max(begin, court.began))
    outcome.late_ms = late_ms(job, begin, end)
    if outcome.result != judge.BROKEN and outcome.late_ms < LATE_MS:
        outcome.result = judge.NOT_LATE


def _blame_noise(job: Job, outcome: Outcome, verdict: dict[str, object]) -> None:
    """A verdict without a fault is a false alarm, unless a collective did take that long."""
    time.sleep(LATE_MS / 1000)  # the ranks write a call down when it has ended
    outcome.verdict, outcome.late_ms = verdict, late_ms(job)
    outcome.result = judge.FALSE_ALARM if outcome.late_ms < LATE_MS else judge.NOISE


def _decide(
    fault: Fault,
    court: Judge,
    outcome: Outcome,
    culprits: set[int],
    said: tuple[float, dict[str, object]] | None,
    begin: float,
) -> None:
    outcome.culprits = sorted(culprits)
    if court.has_failed:
        outcome.note = f"the tracer ended with {court.process.returncode}: {court.words}"
        return
    outcome.result = judge.compare(fault, culprits, said[1] if said else None)
    if said is not None:
        outcome.verdict, outcome.seconds = said[1], said[0] - begin


def watch_healthy(seed: int, seconds: float, hosts: Hosts | None, tracer: str) -> Outcome:
    """A job without a fault: every verdict is a false alarm, unless the machine made it late."""
    rng = random.Random(f"{HEALTHY}-{seed}")
    outcome = Outcome(HEALTHY, seed, "before", -1, [], judge.RIGHT)
    name = f"fault-{HEALTHY}-{seed}-{os.getpid()}"
    try:
        with running(name, usual(rng), seed, hosts, seconds + JOB_S) as job:
            job.pids()
            with judge.tracing(tracer, name, "--seconds", f"{seconds:g}") as court:
                said = court.verdict(seconds + LIMIT_S)
                if said is not None:
                    _blame_noise(job, outcome, said[1])
                elif court.process.wait(LIMIT_S) not in (0, 1):
                    outcome.note = f"the tracer ended with an error: {court.words}"
            _close(job, outcome)
    except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
        outcome.result, outcome.note = judge.BROKEN, str(error)
    return outcome
