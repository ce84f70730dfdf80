"""The report: docs/performance-torch.md, written as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..cells import size_text
from ..document import markdown_table, one_line
from ..measure import REGIME_RATIO
from ..table import number
from .cells import CONTENDERS, FLOOR, GLOO, OURS, TRAININGS
from .figures import Overlap, Report, Row, Step, mean_times, range_text, slower_cells, targets

_INTRODUCTION = f"""\
# Performance under torch.distributed

Written by `make bench-torch` (`shoal bench --torch --report`), in one run on one machine; edited by
nobody. What libraries take without torch is in [performance.md](performance.md).

- Each rank is one process with process groups of both backends, `shoal` and `gloo`, which take
  turns within milliseconds; a round is a turn of each. One thread computes in each rank, and
  no thread is pinned to a core, as under torchrun.
- A time is microseconds of one call of torch.distributed on the slowest rank: the median of a
  round, and of the rounds' medians. Size is the largest buffer of a rank; float32, sum. Every
  tensor is rewritten before each measurement. send_recv is there and back.
- **floor** is the same call on a backend in C++ that moves nothing between ranks (torch's `fake`):
  what torch's Python and dispatcher take by themselves. Some of its operations copy within the rank
  (all_gather, reduce_scatter, all_to_all, gather, scatter), which shows from 1 MiB up.
- **pool** is tensors made under `shoal.torch.pool()`, **ordinary** any others. Those of 128 KiB and
  more are adopted by the pool when three operations have used them ([torch.md](torch.md)), which is
  in the first of the rounds.
- Times faster: gloo's time over shoal's, the ratio of medians. **Above 1, shoal is faster.**
- A round counts if a cache line's way from core to core took about what it took in the cell's
  median round (not {REGIME_RATIO} times longer or shorter), before and after each turn of it.
"""

_TRAINING = """\
A transformer of 5.3 million parameters (21 MB of gradients), 64 words a step and rank. With DDP,
communication is what a step takes longer than the same step of the same model under `no_sync()`,
taken within a round (in brackets, between what lie half of the rounds): what the backward pass does
not hide, and DDP's own copies between gradients and buckets, which the floor (a communication hook
that does nothing) shows: the target is for what comes beyond that. FSDP2 is compared with the same
step over the backend that does nothing. All rounds count here.
"""


def write(report: Report, path: Path) -> None:
    parts = [_INTRODUCTION, *_targets(report), *_machine(report)]
    for ranks in dict.fromkeys(row.ranks for row in report.rows):
        parts += [f"## {ranks} ranks\n", *_cells([r for r in report.rows if r.ranks == ranks])]
    if report.steps:
        parts += ["## Training steps\n", _TRAINING, _steps(report.steps)]
    if report.overlaps:
        parts += ["### Beside the backward pass\n", _overlaps(report.overlaps)]
    if report.notes:
        parts.append("## Notes\n")
        parts.append("\n".join(f"- {n.who}, {n.where}: {one_line(n.what)}" for n in report.notes))
    path.write_text("\n".join(parts).rstrip("\n") + "\n")


def _targets(report: Report) -> list[str]:
    lines = [(one.text, one.found, "yes" if one.is_met else "no") for one in targets(report)]
    if not lines:
        return []
    parts = ["## Targets\n", markdown_table(("target", "found", "met"), lines)]
    if slower := slower_cells(report.rows):
        parts.append("Slower than gloo: " + "; ".join(slower) + ".\n")
    return parts


def _machine(report: Report) -> list[str]:
    rounds = sum(row.rounds + row.rounds_left_out for row in report.rows)
    busy = sum(row.busy_rounds for row in report.rows)
    conditions = [
        *report.conditions.items(),
        ("rounds in which something else ran", f"{busy} of {rounds}"),
    ]
    return ["## Machine\n", markdown_table(("", ""), conditions)]


def _cells(rows: list[Row]) -> list[str]:
    sizes = sorted({row.bytes for row in rows if row.bytes})
    parts = []
    for ours in OURS:
        means = [
            f"{number(mean)} {range_text(small)}"
            for small in (True, False)
            if (mean := mean_times(rows, ours, small)) is not None
        ]
        lines = [
            (op, *(_faster(cells.get(size), ours) for size in sizes))
            for op, cells in _by_op(rows).items()
        ]
        name = ours.removeprefix("shoal-")
        parts.append(markdown_table(_head(f"**{name}**, times faster", sizes), lines))
        if means:
            parts.append(f"Geometric means: {', '.join(means)}.\n")
    parts += [_barrier(row) for row in rows if not row.bytes]
    parts.append("<details><summary>All times</summary>\n")
    for op, cells in _by_op(rows).items():
        lines = [
            (name, *(number(cells[s].us.get(name)) if s in cells else "-" for s in sizes))
            for name in CONTENDERS
        ]
        lines += [
            (f"{name}: p99", *(number(cells[s].p99_us.get(name)) if s in cells else "-"
                               for s in sizes))
            for name in (GLOO, *OURS)
        ]  # fmt: skip
        parts.append(markdown_table(_head(f"{op}, us", sizes), lines))
    parts.append("</details>\n")
    return parts


def _by_op(rows: Iterable[Row]) -> dict[str, dict[int, Row]]:
    result: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.bytes:
            result.setdefault(row.op, {})[row.bytes] = row
    return result


def _faster(row: Row | None, ours: str) -> str:
    return number(row.times_faster(ours)) if row else "-"


def _head(first: str, sizes: list[int]) -> Sequence[str]:
    return (first, *map(size_text, sizes))


def _barrier(row: Row) -> str:
    times = ", ".join(f"{name} {number(us)} us" for name, us in row.us.items())
    return f"{row.op}: {times}.\n"


def _ms(us: float | None) -> str:
    return "-" if us is None else number(us / 1000)


def _communication(step: Step, name: str) -> str:
    if name not in step.communication_us:
        return "-"
    low, high = step.quartiles_us(name)
    return f"{_signed(step.communication_us[name])} ({_signed(low)} to {_signed(high)})"


def _beyond(step: Step, name: str) -> str:
    beyond = None if name == FLOOR else step.beyond_floor_us(name)
    return "" if beyond is None else _signed(beyond)


def _signed(us: float) -> str:
    return f"{us / 1000:.1f}"


def _steps(steps: Iterable[Step]) -> str:
    lines = [
        (
            TRAININGS[step.training].text,
            str(step.ranks),
            name,
            _ms(step.step_us[name]),
            _ms(step.alone_us.get(name)),
            _communication(step, name),
            _beyond(step, name),
            number(step.times_less(name)) if name not in (FLOOR, GLOO) else "",
        )
        for step in steps
        for name in step.step_us
    ]
    head = ("", "ranks", "", "step, ms", "without", "communication, ms", "beyond floor",
            "times less than gloo")  # fmt: skip
    return markdown_table(head, lines)


def _overlaps(overlaps: Iterable[Overlap]) -> str:
    lines = [
        (
            TRAININGS[one.training].text,
            str(one.ranks),
            one.contender,
            f"{one.share:.0%}",
            f"{one.ended_in_backward} of {one.calls}",
        )
        for one in overlaps
    ]
    head = ("from a trace of rank 0", "ranks", "", "of the time all_reduces are under way, "
            "backward computes", "ended before backward did")  # fmt: skip
    return markdown_table(head, lines)
