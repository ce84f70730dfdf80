"""Figures for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from ..cells import size_text
from ..table import number
from .cells import CONTENDERS, FLOOR, GLOO, ORDINARY, OURS, POOL, TRAININGS
from .figures import Overlap, Report, Row, Step, mean_times, range_text, slower_cells, targets

HEADING = (
    f"{'':<22}{'':>9}{'floor us':>10}{'gloo':>10}{'pool':>10}{'ordinary':>10}"
    f"{'pool':>9}{'ordinary':>10}  times faster than gloo"
)


def _times(value: float | None) -> str:
    return "-" if value is None else f"{number(value)}x"


def line(row: Row) -> str:
    size = size_text(row.bytes) if row.bytes else ""
    marks = f"  ({row.rounds_left_out} rounds left out)" if row.rounds_left_out else ""
    marks += f"  ({row.busy_rounds} busy rounds)" if row.busy_rounds else ""
    times = "".join(f"{number(row.us.get(name)):>10}" for name in CONTENDERS)
    faster = f"{_times(row.times_faster(POOL)):>9}{_times(row.times_faster(ORDINARY)):>10}"
    return f"{row.op:<22}{size:>9}{times}{faster}{marks}"


def step_lines(step: Step) -> list[str]:
    busy = f", {step.busy_rounds} busy" if step.busy_rounds else ""
    lines = [f"{TRAININGS[step.training].text}: ms of a step ({step.rounds} rounds{busy})"]
    for name in step.step_us:
        if name not in step.alone_us:
            continue
        low, high = step.quartiles_us(name)
        beyond = step.beyond_floor_us(name)
        more = "" if beyond is None or name == FLOOR else f", {beyond / 1e3:.2f} beyond floor"
        less = f", {_times(step.times_less(name))} less than gloo" if name in OURS else ""
        lines.append(
            f"  {name:<15}{step.step_us[name] / 1e3:>8.2f}, without communication"
            f"{step.alone_us[name] / 1e3:>8.2f}: {step.communication_us[name] / 1e3:.2f} ms "
            f"({low / 1e3:.2f} to {high / 1e3:.2f}){more}{less}"
        )
    return lines


def overlap_line(overlap: Overlap) -> str:
    return (
        f"{TRAININGS[overlap.training].text}, {overlap.contender}: {overlap.share:.0%} of the time "
        f"that all_reduces were under way, backward computed; {overlap.ended_in_backward} of "
        f"{overlap.calls} ended before backward did"
    )


def summary(report: Report) -> list[str]:
    lines = [*_means(report.rows)]
    slower = slower_cells(report.rows)
    if report.rows:
        lines.append("slower than gloo: " + ("nowhere" if not slower else ""))
        lines += [f"  {cell}" for cell in slower]
    lines += [
        f"target {'met:   ' if target.is_met else 'missed:'} {target.text}; it is {target.found}"
        for target in targets(report)
    ]
    return lines


def _means(rows: list[Row]) -> Iterable[str]:
    for ranks in (*dict.fromkeys(row.ranks for row in rows), 0):
        of = [row for row in rows if ranks in (0, row.ranks)]
        means = [
            f"{ours} {_times(mean)} {range_text(small)}"
            for ours in OURS
            for small in (True, False)
            if (mean := mean_times(of, ours, small)) is not None
        ]
        if means:
            where = f"{ranks} ranks" if ranks else "all"
            yield f"times faster than {GLOO} (geometric mean), {where}: " + ", ".join(means)
