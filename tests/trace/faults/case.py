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
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from tests.trace.faults import judge
from tests.trace.faults.catalog import HEALTHY, Fault, Scene, read_log, usual
from tests.trace.faults.hosts import Hosts
from tests.trace.faults.judge import Judge, Outcome
from tests.trace.faults.processes import started, wait_until
from tests.trace.faults.size import IN_VM, RANKS
from tests.trace.faults.waiting import Waiting

PROGRAM = pathlib.Path(__file__).with_name("job.py")
START_S = 30.0
END_S = 15.0
JOB_S = 60.0  # then the launcher ends it by itself, if it has not been asked for more
LIMIT_S = 6.0  # for the verdict, from the fault or the tracer's start
HEALED_S = 1.0  # after a fault has ended, a verdict may still be about it
# How long a fault lasts that the tracer has been waiting for. In the virtual machine a look takes
# more than `pace` times as long: it reads 250 files, at 3 ms each, and more while ranks spin.
LASTS_S = (1.5, 2.5) if IN_VM else (0.4, 2.5)
LATE_MS = 100.0  # the tracer's default. A fault that made nobody wait so long has not happened
SURE_MS = 200.0  # what is late no longer than this may be over before the tracer has looked twice
WAITED_SHARE = 0.4  # a rank that waits for a core so much of the time is late by that
ATTEMPTS = 3  # at a seed that the machine's other work has spoilt


@dataclass(frozen=True)
class Settings:
    """Of a whole run."""

    hosts: Hosts | None = None  # None: no class that needs them is played
    tracer: str = judge.TRACER
    pace: float = 1.0  # all times are so many times as long: for an emulated machine

    @property
    def after_ms(self) -> float:
        return LATE_MS * self.pace

    def court(self, job: str, *options: str) -> AbstractContextManager[Judge]:
        return judge.tracing(self.tracer, job, "--after-ms", f"{self.after_ms:.0f}", *options)


@dataclass
class Job:
    name: str
    directory: pathlib.Path
    launcher: subprocess.Popen[str]
    output: pathlib.Path
    pace: float

    def pids(self) -> list[int]:
        files = [self.directory / f"ready.{rank}" for rank in range(RANKS)]

        def ready() -> bool:
            if self.launcher.poll() is not None:
                raise RuntimeError(f"the job has ended: {self.output.read_text()}")
            return all(file.exists() for file in files)

        wait_until(ready, START_S * self.pace, f"all ranks of {self.name} are ready")
        return [json.loads(file.read_text())["pid"] for file in files]

    def goes_on(self) -> bool:
        """Every rank has done a first operation: the next need no connection to be made."""
        logs = (read_log(self.directory, rank) for rank in range(RANKS))
        return all(any("operation" in line for line in log) for log in logs)

    def finish(self) -> str:
        """Lets it end, and returns what was wrong, or ""."""
        (self.directory / "stop").touch()
        try:
            code = self.launcher.wait(END_S * self.pace)
        except subprocess.TimeoutExpired:
            return f"the job does not end: {self.output.read_text()}"
        return "" if code == 0 else f"the job ended with {code}: {self.output.read_text()}"


@contextlib.contextmanager
def running(
    name: str, options: list[str], seed: int, hosts: Hosts | None, pace: float, longer_s: float = 0
) -> Iterator[Job]:
    with tempfile.TemporaryDirectory(prefix="shoal-fault-") as folder:
        directory = pathlib.Path(folder)
        where = ["-n", str(RANKS)] if hosts is None else hosts.options(RANKS // 2)
        command = [
            *([] if hosts is None else hosts.launcher()), sys.executable, "-m", "shoal.cli", "run",
            *where, "--no-bind", "--job", name, "--grace", "1",
            "--timeout", f"{JOB_S * pace + longer_s:g}",
            sys.executable, str(PROGRAM), "--seed", str(seed), "--directory", folder, *options,
        ]  # fmt: skip
        output = directory / "output"
        with (
            output.open("w") as file,
            started(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            ) as launcher,
        ):
            yield Job(name, directory, launcher, output, pace)


def late_ms(job: Job, begin: float = 0, end: float = float("inf")) -> float:
    """The longest time any rank spent in a call of which a part lies between these moments."""
    longest = 0
    for rank in range(RANKS):
        for line in read_log(job.directory, rank):
            if "operation" in line and line["end"] > begin * 1e9 and line["begin"] < end * 1e9:
                longest = max(longest, line["end"] - line["begin"])
    return longest / 1e6


@dataclass
class Facts:
    """What was seen while the job ran. Moments are of time.monotonic()."""

    begin: float = float("inf")  # of the fault
    end: float = float("inf")
    tracer_began: float = 0
    culprits: set[int] = field(default_factory=set)
    said_at: float | None = None
    verdict: dict[str, Any] = field(default_factory=dict)
    broken: str = ""
    waited: float = 0  # how much of the time the accused rank waited for cores (Waiting.share)


def play(fault: Fault, seed: int, settings: Settings) -> Outcome:
    """Again if the machine's own noise came first; the same seed is then the same fault."""
    for _ in range(ATTEMPTS):
        outcome = _play_once(fault, seed, settings)
        if outcome.result != judge.NOISE:
            break
    return outcome


def _play_once(fault: Fault, seed: int, settings: Settings) -> Outcome:
    rng = random.Random(f"{fault.name}-{seed}")
    outcome = Outcome(fault.name, seed, rng.choice(("before", "after")))
    victim = rng.randrange(RANKS)
    name = f"fault-{fault.name}-{seed}-{os.getpid()}"
    try:
        hosts, pace = settings.hosts if fault.two_hosts else None, settings.pace
        with running(name, fault.options(rng), seed, hosts, pace) as job:
            # A tracer that comes later must find the fault still there.
            seconds = rng.uniform(*LASTS_S) if outcome.attached == "before" else LIMIT_S
            scene = Scene(rng, job.directory, job.pids(), victim, seconds * pace, pace, hosts)
            wait_until(job.goes_on, START_S * pace, f"{name} goes on")
            settles_s = rng.uniform(0.3, 0.6) * pace
            with Waiting(scene.pids) as waiting:
                facts = _disturb(fault, scene, job, outcome.attached, settings, settles_s)
            if facts.said_at is not None and facts.verdict["rank"] >= 0:
                facts.waited = waiting.share(facts.verdict["rank"], facts.said_at)
            outcome.variant = scene.variant
            broken = job.finish()
            facts.broken = facts.broken or ("" if fault.may_break else broken)
            _decide(fault, job, facts, outcome, settings.after_ms)
    except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
        outcome.result, outcome.note = judge.BROKEN, str(error)
    return outcome


def _disturb(
    fault: Fault, scene: Scene, job: Job, attached: str, settings: Settings, settles_s: float
) -> Facts:
    """The job runs undisturbed for `settles_s`, watched if the tracer is there already."""
    facts = Facts()
    options = ("--once", "--seconds", f"{scene.seconds + LIMIT_S * settings.pace + 4:g}")
    with contextlib.ExitStack() as stack:
        court = said = None
        if attached == "before":
            court = stack.enter_context(settings.court(job.name, *options))
            scene.tracer = court.process.pid
            court.wait_until_it_watches(START_S * settings.pace)
            said = court.verdict(settles_s)
        else:
            time.sleep(settles_s)
        if said is None:
            with fault.inject(scene) as facts.culprits:
                facts.begin = time.monotonic()
                if court is None:
                    time.sleep(scene.random.uniform(0.1, 0.5))
                    court = stack.enter_context(settings.court(job.name, *options))
                    court.wait_until_it_watches(START_S * settings.pace)
                said = court.verdict(scene.seconds)
            facts.end = time.monotonic()
            said = said or court.verdict(HEALED_S * settings.pace)
        assert court is not None
        facts.tracer_began = court.began
        if said is not None:
            facts.said_at, facts.verdict = said
        facts.broken = court.failure()
    return facts


def _decide(fault: Fault, job: Job, facts: Facts, outcome: Outcome, after_ms: float) -> None:
    """The verdict on the verdict, when the job has ended and all calls are written down."""
    outcome.culprits, outcome.verdict = sorted(facts.culprits), facts.verdict
    outcome.result = judge.compare(fault, facts.culprits, facts.verdict)
    if facts.said_at is not None and facts.said_at < facts.begin:
        outcome.late_ms = late_ms(job, 0, facts.said_at)
        if outcome.result != judge.RIGHT:  # right: while the fault was being made
            noise = outcome.late_ms >= after_ms
            outcome.result = judge.NOISE if noise else judge.FALSE_ALARM
    else:
        outcome.late_ms = late_ms(job, facts.begin, facts.end)
        sure_ms = after_ms * (1 + SURE_MS / LATE_MS) if outcome.result == judge.MISSED else after_ms
        if outcome.late_ms < sure_ms and not fault.may_break:
            outcome.result = judge.NOT_LATE
        elif outcome.result != judge.RIGHT and _says_what_the_machine_did(fault, facts):
            outcome.result = judge.NOISE
    if facts.said_at is not None:
        outcome.seconds = max(0, facts.said_at - max(facts.begin, facts.tracer_began))
    if facts.broken:
        outcome.result, outcome.note = judge.BROKEN, facts.broken


def _says_what_the_machine_did(fault: Fault, facts: Facts) -> bool:
    if fault.starves and facts.verdict.get("rank") in facts.culprits:
        return False
    for_want_of_cores = facts.verdict.get("cause") in ("preempted", "slow_syscall")
    return for_want_of_cores and facts.waited >= WAITED_SHARE


def watch_healthy(seed: int, seconds: float, settings: Settings) -> Outcome:
    """A job without a fault. A verdict is a false alarm, unless a call did take as long as it says:
    that was the machine's other work."""
    outcome = Outcome(HEALTHY, seed, "before")
    name = f"fault-{HEALTHY}-{seed}-{os.getpid()}"
    options = usual(random.Random(f"{HEALTHY}-{seed}"))
    try:
        with running(name, options, seed, None, settings.pace, seconds) as job:
            job.pids()
            with settings.court(name, "--seconds", f"{seconds:g}") as court:
                said = list(court.verdicts(seconds + LIMIT_S * settings.pace))
                outcome.note = court.failure()
            outcome.note = job.finish() or outcome.note
            unfounded = [v for at, v in said if not _is_founded(job, at, v, settings.after_ms)]
            outcome.late_ms = late_ms(job)
    except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
        outcome.note = str(error)
    if outcome.note:
        return outcome
    outcome.result = judge.FALSE_ALARM if unfounded else judge.RIGHT
    outcome.verdict = unfounded[0] if unfounded else {}
    outcome.watched_s, outcome.verdicts, outcome.unfounded = seconds, len(said), len(unfounded)
    return outcome


def _is_founded(job: Job, at: float, verdict: dict[str, Any], after_ms: float) -> bool:
    return late_ms(job, at - verdict["since_ms"] / 1000, at) >= after_ms
