"""The classes of faults: each disturbs a running job, and says what the tracer should find.

A fault is injected from outside where that is possible, and else the victim does it to itself at
the next step (job.py, DISTURBANCES). The seed decides victim, moment, strength and variant. A
context yields the ranks of which one has to be named.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.trace.faults import groups, hosts
from tests.trace.faults.job import HEAL
from tests.trace.faults.processes import bound, family, started, wait_until
from tests.trace.faults.size import RANKS

HOG = pathlib.Path(__file__).with_name("hog.py")
HEALTHY = "healthy"  # the class without a fault
MIB = 1 << 20
SEEN_S = 15.0  # until the victim obeys: it may be starved of its core


@dataclass
class Scene:
    """A running job, about to be disturbed."""

    random: random.Random
    directory: pathlib.Path
    pids: list[int]  # by rank
    victim: int
    seconds: float  # how long the fault is to last
    pace: float  # what is drawn by a class itself is so many times as long
    hosts: hosts.Hosts | None
    tracer: int | None = None  # its pid, if it is there before the fault
    variant: str = ""  # what the seed has chosen, for people

    @property
    def pid(self) -> int:
        return self.pids[self.victim]

    @property
    def others(self) -> list[int]:
        return [pid for rank, pid in enumerate(self.pids) if rank != self.victim]

    def has_obeyed(self) -> bool:
        return any("disturbance" in line for line in read_log(self.directory, self.victim))


def read_log(directory: pathlib.Path, rank: int) -> list[dict[str, Any]]:
    """What the rank has written down until now; its last line may be half there."""
    text = (directory / f"log.{rank}").read_text()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


Inject = Callable[[Scene], AbstractContextManager[set[int]]]
Options = Callable[[random.Random], list[str]]


def usual(rng: random.Random) -> list[str]:
    """Options of job.py."""
    words = ["--compute-ms", f"{rng.uniform(1, 4):.1f}", "--memory",
             rng.choice(("pool", "ordinary"))]  # fmt: skip
    return words + (["--split"] if rng.random() < 0.3 else [])


def busy(rng: random.Random) -> list[str]:
    """Needs the processor enough to miss it."""
    return ["--compute-ms", f"{rng.uniform(6, 10):.1f}", *usual(rng)[2:]]


def overlapping(rng: random.Random) -> list[str]:
    return ["--overlap", "--compute-ms", "3", "--memory", rng.choice(("pool", "ordinary"))]


@dataclass(frozen=True)
class Fault:
    name: str
    what: str  # the first line of its documentation
    causes: frozenset[str]  # right ones
    inject: Inject
    two_hosts: bool = False
    options: Options = usual
    missing: Callable[[], str] = lambda: ""  # why it cannot be done here
    rdma: Mapping[str, str] | None = None  # the hosts have RDMA devices, and the ranks this, too
    may_break: bool = False  # the job may end with an error
    starves: bool = False  # the victim is ready and gets no core: by the fault, not by the machine


FAULTS: dict[str, Fault] = {}


def fault(
    *causes: str, **settings: Any
) -> Callable[[Callable[[Scene], Iterator[set[int]]]], Callable[[Scene], Iterator[set[int]]]]:
    """Registers a generator function, under its name, as a class."""

    def register(
        inject: Callable[[Scene], Iterator[set[int]]],
    ) -> Callable[[Scene], Iterator[set[int]]]:
        what = (inject.__doc__ or "").split("\n")[0].rstrip(".")
        FAULTS[inject.__name__] = Fault(
            inject.__name__, what, frozenset(causes), contextlib.contextmanager(inject), **settings
        )
        return inject

    return register


# ---- from outside, to a process


@fault("stopped")
def stopped(scene: Scene) -> Iterator[set[int]]:
    """SIGSTOP."""
    os.kill(scene.pid, signal.SIGSTOP)
    try:
        yield {scene.victim}
    finally:
        os.kill(scene.pid, signal.SIGCONT)


def _cannot_freeze() -> str:
    return "" if groups.can_freeze() else "no writable cgroup can be frozen"


@fault("frozen", missing=_cannot_freeze)
def frozen(scene: Scene) -> Iterator[set[int]]:
    """cgroup.freeze of the victim's own cgroup."""
    with groups.frozen(scene.pid):
        yield {scene.victim}


def _cannot_throttle() -> str:
    return "" if groups.can_throttle() else "no writable cgroup limits processor time"


@fault("throttled", options=busy, starves=True, missing=_cannot_throttle)
def throttled(scene: Scene) -> Iterator[set[int]]:
    """1 to 4 ms of processor time in 100 ms, by the victim's own cgroup."""
    quota_us = scene.random.choice((1000, 2000, 4000))
    scene.variant = f"{quota_us} us"
    with groups.throttled(scene.pid, quota_us):
        yield {scene.victim}


def _lacks_cores() -> str:
    return "" if len(os.sched_getaffinity(0)) > 1 else "needs two cores"


def _hogged(scene: Scene, *how: str) -> Iterator[set[int]]:
    """The victim shares its core with hogs; the other ranks, and the tracer, are kept away."""
    cores = os.sched_getaffinity(0)
    core = scene.random.choice(sorted(cores))
    command = [sys.executable, str(HOG), "--core", str(core), "--seconds",
               str(scene.seconds + 5), *how]  # fmt: skip
    scene.variant = f"core {core} {' '.join(how)}"
    watchers = [] if scene.tracer is None else family(scene.tracer)
    with (
        bound([scene.pid], {core}),
        bound([*scene.others, *watchers, os.getpid()], cores - {core}),  # one that comes inherits
        started(command, stdout=subprocess.PIPE) as hog,
    ):
        assert hog.stdout is not None and hog.stdout.readline() == "spinning\n"
        yield {scene.victim}


@fault("preempted", options=busy, starves=True, missing=_lacks_cores)
def crowded(scene: Scene) -> Iterator[set[int]]:
    """16 to 24 other processes spin on the victim's core."""
    yield from _hogged(scene, "--count", str(scene.random.randint(16, 24)))


def _lacks_realtime() -> str:
    return _lacks_cores() or ("" if os.geteuid() == 0 else "real-time priority needs root")


@fault("preempted", options=busy, starves=True, missing=_lacks_realtime)
def outranked(scene: Scene) -> Iterator[set[int]]:
    """A process of real-time priority spins on the victim's core."""
    yield from _hogged(scene, "--realtime")


# ---- by the victim itself


def ask(scene: Scene, do: str, may_repeat: bool = True, **parameters: Any) -> Iterator[set[int]]:
    """Once for long, or a little in every step."""
    repeat = may_repeat and scene.random.random() < 0.5
    seconds = scene.pace * scene.random.uniform(0.25, 0.6) if repeat else scene.seconds
    command = {"do": do, "seconds": seconds, "repeat": repeat, **parameters}
    scene.variant = f"{seconds:.2f} s {'in each step' if repeat else 'once'}"
    file = scene.directory / f"command.{scene.victim}"
    written = file.with_suffix(".writing")
    written.write_text(json.dumps(command))
    written.rename(file)
    wait_until(scene.has_obeyed, SEEN_S * scene.pace, f"rank {scene.victim} reads its command")
    try:
        yield {scene.victim}
    finally:
        file.unlink(missing_ok=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(scene.pid, HEAL)  # it does not go on until its time is over


@fault("sleeping")
def late_sleep(scene: Scene) -> Iterator[set[int]]:
    """Sleeps before it calls the collective."""
    yield from ask(scene, "sleep")


@fault("computing")
def late_python(scene: Scene) -> Iterator[set[int]]:
    """Long pure Python before it calls the collective."""
    yield from ask(scene, "python")


@fault("slow_syscall", "blocked")
def file_lock(scene: Scene) -> Iterator[set[int]]:
    """flock() of a file that another process holds."""
    path = scene.directory / "checkpoint"
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield from ask(scene, "flock", may_repeat=False, path=str(path))


@fault("blocked")
def thread_lock(scene: Scene) -> Iterator[set[int]]:
    """Waits for a lock that another thread of its process holds."""
    yield from ask(scene, "lock")


@fault("memory_registration")
def registration_storm(scene: Scene) -> Iterator[set[int]]:
    """mlock() and munlock() of 64 to 256 MiB again and again."""
    yield from ask(scene, "mlock", bytes=scene.random.choice((64, 128, 256)) * MIB)


@fault("page_faults")
def page_fault_storm(scene: Scene) -> Iterator[set[int]]:
    """Touches memory that is always new."""
    yield from ask(scene, "pages", bytes=scene.random.choice((64, 128)) * MIB)


@fault("slow_receiver", two_hosts=True, options=overlapping, missing=hosts.can_make)
def slow_receiver(scene: Scene) -> Iterator[set[int]]:
    """Computes in a collective that it has begun, while data wait in its socket."""
    yield from ask(scene, "overlap", place="within")


# ---- the link between two hosts


def _cannot_drop() -> str:
    return hosts.can_make() or ("" if hosts.clang() else "needs clang 14 or newer")


def _lossy(scene: Scene, percent: int) -> Iterator[set[int]]:
    """On one connection, or on the whole link; what host b sends, or what it receives."""
    assert scene.hosts is not None
    direction = scene.random.choice(("egress", "ingress"))
    peer = (scene.victim + RANKS // 2) % RANKS
    at_b, at_a = max(scene.victim, peer), min(scene.victim, peer)
    port = None
    if scene.random.random() < 0.5:
        port = hosts.connection(scene.hosts, scene.pids[at_a], scene.pids[at_b])
    scene.variant = f"{percent} % {direction} {'all' if port is None else f'port {port}'}"
    with scene.hosts.dropping(percent, direction, port or 0):
        yield set(range(RANKS)) if port is None else {at_a, at_b}


@fault("packet_loss", missing=_cannot_drop, two_hosts=True)
def packet_loss(scene: Scene) -> Iterator[set[int]]:
    """20 to 50 % of the packets of a connection or link are lost."""
    yield from _lossy(scene, scene.random.randint(20, 50))


@fault("packet_loss", missing=_cannot_drop, two_hosts=True)
def black_hole(scene: Scene) -> Iterator[set[int]]:
    """All packets of a connection or link are lost, without a word."""
    yield from _lossy(scene, 100)


@fault("link_down", missing=hosts.can_make, two_hosts=True)
def link_down(scene: Scene) -> Iterator[set[int]]:
    """The network interface of one host is set down."""
    assert scene.hosts is not None
    with scene.hosts.down():
        yield set(range(RANKS))


def _lacks_netem() -> str:
    return hosts.can_make() or ("" if hosts.has_netem() else "this kernel has no netem: tests/vm")


@fault("packet_loss", missing=_lacks_netem, two_hosts=True)
def netem_loss(scene: Scene) -> Iterator[set[int]]:
    """netem loses 20 to 50 % of what one host sends."""
    assert scene.hosts is not None
    with scene.hosts.netem("loss", f"{scene.random.randint(20, 50)}%"):
        yield set(range(RANKS))


@fault("congestion", missing=_lacks_netem, two_hosts=True)
def netem_delay(scene: Scene) -> Iterator[set[int]]:
    """netem delays what one host sends by 80 to 150 ms."""
    assert scene.hosts is not None
    with scene.hosts.netem("delay", f"{scene.pace * scene.random.uniform(80, 150):.0f}ms"):
        yield set(range(RANKS))
