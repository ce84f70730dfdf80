"""What was measured, as rows: medians, percentiles, bandwidths, ratios; and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from .cells import bus_factor
from .libraries import Placement
from .measure import Result


@dataclass(frozen=True)
class Figures:
    """Of one contender in one cell."""

    us: float  # median over rounds of the round's median
    p99_us: float  # of all iterations
    algbw_gbs: float  # bytes over time
    busbw_gbs: float  # the same in units of the busiest link's traffic, as nccl-tests has it
    round_us: list[float]


@dataclass(frozen=True)
class Row:
    """shoal with one kind of memory, beside the others. "pool" stands against the fastest peer in
    any memory, "ordinary" against peers in ordinary (private) memory; "none" is a barrier's."""

    op: str
    network: str  # "none" or "tcp"
    ranks: int
    bytes: int
    buffer: str
    shoal_us: float
    shoal_p99_us: float
    busbw_gbs: float
    peer_us: dict[str, float]  # those that may be compared with this row
    direct_us: float | None
    best_peer: str | None
    to_best_peer: float | None  # shoal's time over the best peer's, round by round; the median
    to_direct: float | None
    rounds: int  # that count
    rounds_left_out: int  # their calibration was another
    busy_rounds: int  # something else ran on the machine
    calibration_ns: float
    block: int
    collapsed: dict[str, str]
    failed: dict[str, str]
    figures: dict[str, Figures]


@dataclass(frozen=True)
class Floor:
    """What the machine does by itself: on all ranks at once, without a library."""

    floor: str
    streams: bool  # stores past the caches were the faster ones
    network: str
    ranks: int
    bytes: int
    us: float
    gbs: float


def _round_medians(result: Result, name: str) -> list[float]:
    rounds = result.times_us[name]
    return [median(rounds[number]) for number in result.rounds_counted()]


def _figures(result: Result, name: str, ranks: int) -> Figures:
    medians = _round_medians(result, name)
    every = sorted(us for n in result.rounds_counted() for us in result.times_us[name][n])
    us = median(medians)
    algbw = result.cell.bytes / us / 1000
    return Figures(
        us=us,
        p99_us=every[min(len(every) - 1, math.ceil(0.99 * len(every)) - 1)],
        algbw_gbs=algbw,
        busbw_gbs=algbw * bus_factor(result.cell.op, ranks),
        round_us=medians,
    )


def _ratio(result: Result, name: str, other: str | None) -> float | None:
    if other is None:
        return None
    mine, theirs = _round_medians(result, name), _round_medians(result, other)
    return median(a / b for a, b in zip(mine, theirs, strict=True))


def rows_of(result: Result, placement: Placement, peers: set[str]) -> list[Row]:
    if not result.cell.bytes and "shoal/ordinary" in result.times_us:
        return [_row(result, placement, peers, "none", "shoal/ordinary")]
    return [
        _row(result, placement, peers, buffer, f"shoal/{buffer}")
        for buffer in ("pool", "ordinary")
        if f"shoal/{buffer}" in result.times_us
    ]


def _row(result: Result, placement: Placement, peers: set[str], buffer: str, mine: str) -> Row:
    figures = {name: _figures(result, name, placement.ranks) for name in result.times_us}
    comparable = {
        name: one.us
        for name, one in figures.items()
        if name.split("/")[0] in peers and (buffer == "pool" or name.endswith("/private"))
    }
    best = min(comparable, key=comparable.__getitem__, default=None)
    direct = _direct(figures)
    counted = result.rounds_counted()
    return Row(
        op=result.cell.op,
        network="tcp" if placement.hosts else "none",
        ranks=placement.ranks,
        bytes=result.cell.bytes,
        buffer=buffer,
        shoal_us=figures[mine].us,
        shoal_p99_us=figures[mine].p99_us,
        busbw_gbs=figures[mine].busbw_gbs,
        peer_us=comparable,
        direct_us=figures[direct].us if direct else None,
        best_peer=best,
        to_best_peer=_ratio(result, mine, best),
        to_direct=_ratio(result, mine, direct),
        rounds=len(counted),
        rounds_left_out=len(result.calibration_ns) - len(counted),
        busy_rounds=result.busy_rounds,
        calibration_ns=median(result.calibration_ns[number] for number in counted),
        block=result.block,
        collapsed=result.collapsed,
        failed=result.failed,
        figures=figures,
    )


def _direct(figures: dict[str, Figures]) -> str | None:
    """The faster of the bare loops: stores may go past the caches or not."""
    names = (name for name in figures if name.startswith("direct/"))
    return min(names, key=lambda name: figures[name].us, default=None)


def floor_of(result: Result, placement: Placement) -> Floor | None:
    figures = {name: _figures(result, name, placement.ranks) for name in result.times_us}
    best = _direct(figures)
    if best is None:
        return None
    us = figures[best].us
    return Floor(
        floor=result.cell.op,
        streams=best.endswith("-stream"),
        network="tcp" if placement.hosts else "none",
        ranks=placement.ranks,
        bytes=result.cell.bytes,
        us=us,
        gbs=result.cell.bytes / us / 1000,
    )


@dataclass(frozen=True)
class Note:
    """What went wrong: a contender that collapsed, failed or did not take part."""

    where: str
    who: str
    what: str


@dataclass(frozen=True)
class Report:
    conditions: dict[str, str]  # the machine, the moment
    versions: dict[str, str] = field(default_factory=dict)  # by library
    settings: dict[str, dict[str, str]] = field(default_factory=dict)  # by placement and library
    rows: list[Row] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def write_rows(self, path: Path) -> None:
        path.write_text(json.dumps([asdict(row) for row in self.rows], indent=1) + "\n")
