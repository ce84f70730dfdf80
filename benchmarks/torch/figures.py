"""What was measured, as figures: medians, how many times faster than gloo, means, targets; JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean, median, quantiles

from ..cells import size_text
from ..measure import Result
from ..rows import Note
from .cells import (
    ALONE,
    FLOOR,
    GLOO,
    LARGE_BYTES,
    ORDINARY,
    OURS,
    POOL,
    SMALL_BYTES,
    TRAININGS,
)

_OVER_FLOOR_US = 1.5  # targets
_SMALL_TIMES, _LARGE_TIMES, _ORDINARY_TIMES, _TRAINING_TIMES = 3.0, 8.0, 3.0, 5.0
_MOST_NOISE = 0.5  # quartiles of gloo's communication lie this near, or nothing is said about it


@dataclass(frozen=True)
class Row:
    """One cell. Times are microseconds of one call on the slowest rank; by contender."""

    op: str
    ranks: int
    bytes: int
    us: dict[str, float]  # median of the rounds' medians
    p99_us: dict[str, float]  # of all blocks
    over_floor_us: dict[str, float]  # time less the floor's, in a round; median of the rounds
    round_us: dict[str, list[float]]
    rounds: int  # that count
    rounds_left_out: int
    busy_rounds: int  # something else ran on the machine
    calibration_ns: float
    block: int

    def times_faster(self, ours: str) -> float | None:
        """Than gloo: the ratio of medians."""
        if ours not in self.us or GLOO not in self.us:
            return None
        return self.us[GLOO] / self.us[ours]

    def __str__(self) -> str:
        size = f" {size_text(self.bytes)}" if self.bytes else ""
        return f"{self.op}{size}, {self.ranks} ranks"


@dataclass(frozen=True)
class Step:
    """A training step, in microseconds; by contender. `communication_us` is what it takes longer
    than without communication, in a round; median of the rounds."""

    training: str
    ranks: int
    step_us: dict[str, float]
    alone_us: dict[str, float]
    communication_us: dict[str, float]
    round_communication_us: dict[str, list[float]]
    rounds: int
    busy_rounds: int

    def times_less(self, contender: str) -> float | None:
        """Communication, than with gloo; infinite where it cannot be seen in the step's time. None
        if gloo's cannot be told, as on a machine that does something else, too."""
        return self._times_less(
            self.communication_us.get(contender), self.communication_us.get(GLOO)
        )

    def times_less_beyond_floor(self, ours: str) -> float | None:
        """The same without what DDP itself does for it."""
        return self._times_less(self.beyond_floor_us(ours), self.beyond_floor_us(GLOO))

    def _times_less(self, mine: float | None, theirs: float | None) -> float | None:
        if mine is None or theirs is None:
            return None
        low, high = self.quartiles_us(GLOO)
        if low <= 0 or high - low > _MOST_NOISE * theirs:
            return None
        return theirs / mine if mine > 0 else math.inf

    def beyond_floor_us(self, contender: str) -> float | None:
        """Communication less what DDP itself does for it: copies into buckets and back."""
        floor, mine = self.communication_us.get(FLOOR), self.communication_us.get(contender)
        return None if floor is None or mine is None else mine - floor

    def quartiles_us(self, contender: str) -> tuple[float, float]:
        """Of communication: between them lie half of the rounds."""
        rounds = self.round_communication_us[contender]
        if len(rounds) < 2:
            return rounds[0], rounds[0]
        low, _, high = quantiles(rounds, n=4, method="inclusive")
        return low, high

    def __str__(self) -> str:
        return f"{TRAININGS[self.training].text}, {self.ranks} ranks"


@dataclass(frozen=True)
class Overlap:
    """From traces of a training step on rank 0; sums over a few steps."""

    training: str
    ranks: int
    contender: str
    communication_us: float  # all_reduces were under way
    overlapped_us: float  # of that, while backward computed
    backward_us: float
    calls: int
    ended_in_backward: int  # of these, before backward's last function

    @property
    def share(self) -> float:
        return self.overlapped_us / self.communication_us if self.communication_us else 0.0


@dataclass(frozen=True)
class Target:
    text: str
    found: str
    is_met: bool


@dataclass
class Report:
    conditions: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def write_json(self, path: Path) -> None:
        everything = {**asdict(self), "targets": [asdict(one) for one in targets(self)]}
        path.write_text(json.dumps(everything, indent=1) + "\n")

    def write_rows(self, path: Path) -> None:
        path.write_text(json.dumps([asdict(row) for row in self.rows], indent=1) + "\n")


def _by_contender(result: Result, counted: Sequence[int]) -> dict[str, list[float]]:
    """These rounds' medians."""
    return {
        name.partition("/")[2]: [median(rounds[number]) for number in counted]
        for name, rounds in result.times_us.items()
    }


def _less(times: list[float], others: list[float]) -> list[float]:
    return [a - b for a, b in zip(times, others, strict=True)]


def _p99(result: Result, name: str) -> float:
    every = sorted(us for number in result.rounds_counted() for us in result.times_us[name][number])
    return every[math.ceil(0.99 * len(every)) - 1]


def row_of(result: Result, ranks: int) -> Row | None:
    if not result.times_us:
        return None
    counted = result.rounds_counted()
    rounds = _by_contender(result, counted)
    floor = rounds.get(FLOOR)
    return Row(
        op=result.cell.op,
        ranks=ranks,
        bytes=result.cell.bytes,
        us={name: median(times) for name, times in rounds.items()},
        p99_us={name.partition("/")[2]: _p99(result, name) for name in result.times_us},
        over_floor_us={
            name: median(_less(times, floor))
            for name, times in rounds.items()
            if floor and name != FLOOR
        },
        round_us=rounds,
        rounds=len(counted),
        rounds_left_out=len(result.calibration_ns) - len(counted),
        busy_rounds=result.busy_rounds,
        calibration_ns=median(result.calibration_ns[number] for number in counted),
        block=result.block,
    )


def step_of(result: Result, ranks: int) -> Step | None:
    """All rounds count: a step is arithmetic for the most part, its two turns follow one another,
    and the cores rarely stay as they are for as long as a round takes."""
    rounds = _by_contender(result, range(len(result.calibration_ns)))
    steps = {name: times for name, times in rounds.items() if not name.endswith(ALONE)}
    if TRAININGS[result.cell.op].is_fsdp:
        alone = {name: rounds[FLOOR] for name in steps if FLOOR in rounds}
    else:
        alone = {name: rounds[name + ALONE] for name in steps if name + ALONE in rounds}
    if not alone:
        return None
    longer = {name: _less(steps[name], alone[name]) for name in alone}
    return Step(
        training=result.cell.op,
        ranks=ranks,
        step_us={name: median(times) for name, times in steps.items()},
        alone_us={name: median(times) for name, times in alone.items()},
        communication_us={name: median(times) for name, times in longer.items()},
        round_communication_us=longer,
        rounds=len(result.calibration_ns),
        busy_rounds=result.busy_rounds,
    )


def overlap_of(training: str, ranks: int, contender: str, found: dict[str, float]) -> Overlap:
    """As overlap.trace() found it."""
    return Overlap(
        training=training,
        ranks=ranks,
        contender=contender,
        communication_us=found["communication_us"],
        overlapped_us=found["overlapped_us"],
        backward_us=found["backward_us"],
        calls=int(found["calls"]),
        ended_in_backward=int(found["ended_in_backward"]),
    )


# --- all cells together --------------------------------------------------------------------------


def mean_times(rows: Iterable[Row], ours: str, small: bool) -> float | None:
    """Geometric mean over cells up to SMALL_BYTES, or from LARGE_BYTES."""
    ratios = [
        ratio
        for row in rows
        if row.bytes and (row.bytes <= SMALL_BYTES if small else row.bytes >= LARGE_BYTES)
        if (ratio := row.times_faster(ours)) is not None
    ]
    return geometric_mean(ratios) if ratios else None


def slower_cells(rows: Iterable[Row]) -> list[str]:
    """Where shoal takes longer than gloo."""
    return [
        f"{row}, {ours}: {ratio:.2f} times as fast"
        for row in rows
        for ours in OURS
        if (ratio := row.times_faster(ours)) is not None and ratio < 1
    ]


def targets(report: Report) -> list[Target]:
    """What shoal is to reach beside gloo; those for which there are figures."""
    found = [*_latency(report.rows), *_means(report.rows)]
    if report.rows:
        slower = slower_cells(report.rows)
        found.append(Target("never slower than gloo", f"{len(slower)} cells slower", not slower))
    for step in report.steps:
        if TRAININGS[step.training].is_fsdp:
            continue
        for ours in OURS:
            if not {ours, GLOO} <= {*step.communication_us}:
                continue
            times = step.times_less_beyond_floor(ours)
            text = f"{step}, {ours}: communication beyond the floor {_TRAINING_TIMES:g} times less"
            shown = "unknown: gloo's is lost in noise"
            if times is not None:
                shown = f"{times:.1f} times (with DDP's own copies {step.times_less(ours):.1f})"
            found.append(Target(text, shown, times is not None and times >= _TRAINING_TIMES))
    return found


def _latency(rows: Iterable[Row]) -> Iterable[Target]:
    for row in rows:
        if (row.op, row.ranks, row.bytes) == ("all_reduce", 2, 8):
            for ours in OURS:
                if ours in row.over_floor_us:
                    over = row.over_floor_us[ours]
                    text = f"{row}, {ours}: at most {_OVER_FLOOR_US:g} us over the floor"
                    yield Target(text, f"{over:.2f} us", over <= _OVER_FLOOR_US)


def _means(rows: list[Row]) -> Iterable[Target]:
    wanted = (
        (POOL, True, _SMALL_TIMES),
        (POOL, False, _LARGE_TIMES),
        (ORDINARY, True, _ORDINARY_TIMES),
        (ORDINARY, False, _ORDINARY_TIMES),
    )
    for ours, small, times in wanted:
        mean = mean_times(rows, ours, small)
        if mean is not None:
            text = f"{ours}, {range_text(small)}: {times:g} times faster than gloo (geometric mean)"
            yield Target(text, f"{mean:.1f} times", mean >= times)


def range_text(small: bool) -> str:
    return f"up to {size_text(SMALL_BYTES)}" if small else f"from {size_text(LARGE_BYTES)}"
