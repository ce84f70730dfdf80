"""Rounds: for one cell, every contender takes its turn, again and again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low

from .cells import Cell
from .session import LibraryFailed, Running, Session, TooSlow

MAX_BLOCK = 1000
MAX_ITERATIONS = 400  # of one turn
SLOWEST_US = 1e6  # an iteration that takes longer is a collapse ...
COLLAPSE_RATIO = 50.0  # ... and so is one so many times slower than the fastest, unless ...
COLLAPSE_US = 5000.0  # ... it is short all the same
REGIME_RATIO = 1.5  # rounds whose calibration is further from the median are not counted ...
TRIES = 2  # ... and made up for, up to so many times as many rounds

_LONG_SECONDS = 0.05  # an iteration this long warms up with one, others with two
_PROBE_BLOCK = 16
_PROBE_ITERATIONS = 3
_LOOKS, _LOOK_SECONDS = 3, 0.0005
_ANSWER_SECONDS = 10.0  # beyond what a turn is expected to take
_CALIBRATION = (200, 1, 5)  # hops in a block, warm-up, repetitions


@dataclass(frozen=True)
class Effort:
    """How long to look at each cell."""

    rounds: int
    fewest_rounds: int  # of a cell that has taken cell_seconds
    cell_seconds: float
    turn_seconds: float  # of one contender in one round
    fewest: int  # iterations of a turn, however long they take
    block_us: float = 20.0  # a block of short calls lasts this long, for the fastest contender
    rotates: bool = False  # each round begins with another contender


QUICK = Effort(rounds=5, fewest_rounds=3, cell_seconds=4, turn_seconds=0.012, fewest=2)
FULL = Effort(rounds=5, fewest_rounds=3, cell_seconds=20, turn_seconds=0.040, fewest=2)


@dataclass(frozen=True, eq=False)  # each is its own key
class Contender:
    """A library with one kind of memory. Names are what rows and reports show."""

    running: Running
    buffer: str

    @property
    def name(self) -> str:
        return f"{self.running.name}/{self.buffer}"


@dataclass
class Result:
    """One cell. Times are microseconds of one call on the slowest rank."""

    cell: Cell
    block: int = 1
    calibration_ns: list[float] = field(default_factory=list)  # one way, before each round
    unsteady: set[int] = field(default_factory=set)  # rounds within which it changed
    busy_rounds: int = 0  # something else ran on the machine
    times_us: dict[str, list[list[float]]] = field(default_factory=dict)  # by contender and round
    collapsed: dict[str, str] = field(default_factory=dict)  # contender: what was seen
    failed: dict[str, str] = field(default_factory=dict)

    def rounds_counted(self) -> list[int]:
        """Those in which the two cores were placed as in most rounds of this cell, from the first
        turn to the last; where there is no such round, all that began so."""
        rounds = range(len(self.calibration_ns))
        steady = [number for number in rounds if number not in self.unsteady] or list(rounds)
        # One of them: never is no round counted.
        middle = median_low([self.calibration_ns[number] for number in steady])
        return [number for number in steady if _is_alike(self.calibration_ns[number], middle)]


@dataclass(frozen=True)
class _Probe:
    call_us: float
    wall_seconds: float  # of one iteration with filling and meeting


def measure(session: Session, cell: Cell, contenders: list[Contender], effort: Effort) -> Result:
    result = Result(cell)
    probes = _probe_all(cell, contenders, result)
    _set_aside_collapsed(probes, result)
    if not probes:
        return result
    fastest = min(probe.call_us for probe in probes.values())
    if cell.is_short:
        result.block = max(1, min(MAX_BLOCK, math.ceil(effort.block_us / fastest)))
    begin = time.monotonic()
    for number in range(TRIES * effort.rounds):
        enough = len(result.rounds_counted()) >= effort.rounds if number else False
        late = number >= effort.fewest_rounds and time.monotonic() - begin > effort.cell_seconds
        if enough or late:
            break
        first = calibrate(session)
        result.calibration_ns.append(first)
        result.busy_rounds += others_run()
        for contender in _turns(list(probes), number if effort.rotates else 0):
            if contender.name in result.failed:
                continue
            _take_turn(cell, contender, probes[contender], effort, result)
            if not _is_alike(calibrate(session), first):
                result.unsteady.add(number)
    for name in result.failed:
        result.times_us.pop(name, None)
    return result


def _turns(contenders: list[Contender], number: int) -> list[Contender]:
    """A B C, B C A, C A B."""
    first = number % len(contenders)
    return contenders[first:] + contenders[:first]


def calibrate(session: Session) -> float:
    """Nanoseconds that a cache line takes from one core to the other now; the best of a few."""
    block, warm_up, repetitions = _CALIBRATION
    direct = session.running["direct"]
    direct.prepare("ping_pong", 0, "private")
    times = direct.time(block, warm_up, repetitions, False, _ANSWER_SECONDS)
    return min(times) / block


def _is_alike(ns: float, other: float) -> bool:
    return other / REGIME_RATIO <= ns <= other * REGIME_RATIO


def others_run() -> bool:
    """Now that all ranks sleep: is anything else than this process running, again and again?"""
    for _ in range(_LOOKS):
        running, _, _ = Path("/proc/loadavg").read_text().split()[3].partition("/")
        if int(running) <= 1:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _probe_all(cell: Cell, contenders: list[Contender], result: Result) -> dict[Contender, _Probe]:
    """A first look: is the result right, and how long does it take?"""
    probes = {}
    for contender in contenders:
        try:
            probes[contender] = _probe(cell, contender)
        except TooSlow as late:
            result.collapsed[contender.name] = str(late)
        except LibraryFailed as failure:
            result.failed[contender.name] = str(failure)
    return probes


def _probe(cell: Cell, contender: Contender) -> _Probe:
    running = contender.running
    running.prepare(cell.op, cell.bytes, contender.buffer)
    running.time(1, 0, 1, True, _ANSWER_SECONDS)  # a first call may connect ranks, too
    start = time.monotonic()
    (once,) = running.time(1, 0, 1, False, _ANSWER_SECONDS)
    wall = time.monotonic() - start
    if wall > _LONG_SECONDS:
        return _Probe(once / 1000, wall)
    block = _PROBE_BLOCK if cell.is_short else 1
    start = time.monotonic()
    times = running.time(block, 1, _PROBE_ITERATIONS, False, _ANSWER_SECONDS)
    wall = (time.monotonic() - start) / (1 + _PROBE_ITERATIONS)
    return _Probe(min(times) / block / 1000, wall)


def _set_aside_collapsed(probes: dict[Contender, _Probe], result: Result) -> None:
    """Peers that would take all the time, and that nobody would compare with."""
    fastest = min((probe.call_us for probe in probes.values()), default=0)
    bound = min(SLOWEST_US, max(COLLAPSE_US, COLLAPSE_RATIO * fastest))
    for contender, probe in list(probes.items()):
        if contender.running.library.is_peer and probe.call_us > bound:
            result.collapsed[contender.name] = f"{probe.call_us:.0f} us"
            del probes[contender]


def _take_turn(
    cell: Cell, contender: Contender, probe: _Probe, effort: Effort, result: Result
) -> None:
    extra = (result.block - (_PROBE_BLOCK if cell.is_short else 1)) * probe.call_us / 1e6
    wall = max(probe.wall_seconds + extra, result.block * probe.call_us / 1e6)
    warm_up = 1 if wall > _LONG_SECONDS else 2
    iterations = max(effort.fewest, min(MAX_ITERATIONS, int(effort.turn_seconds / wall)))
    seconds = 10 * wall * (warm_up + iterations) + _ANSWER_SECONDS
    try:
        contender.running.prepare(cell.op, cell.bytes, contender.buffer)
        times = contender.running.time(result.block, warm_up, iterations, False, seconds)
    except LibraryFailed as failure:
        result.failed[contender.name] = str(failure)
        return
    rounds = result.times_us.setdefault(contender.name, [])
    rounds.append([ns / result.block / 1000 for ns in times])
