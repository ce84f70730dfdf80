"""The report: Markdown with tables and figures, written as a whole by the suite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .cells import size_text
from .measure import COLLAPSE_RATIO, REGIME_RATIO
from .plot import draw
from .rows import Figures, Floor, Report, Row
from .stream import over_stream
from .table import number

_INTRODUCTION = f"""\
# Performance

Written by `make bench` (`shoal bench --report`), in one run on one machine; edited by nobody.
`torch.distributed` beside gloo: [performance-torch.md](performance-torch.md).

- A time is microseconds of one call on the slowest rank: the median of a round, and of the
  rounds' medians. Size is the largest buffer of a rank; float32, sum, not in place. Every buffer
  is rewritten before each measurement.
- **pool** is memory from shoal's pool, and stands beside the fastest of all peers, in private
  memory or in a window they share (`MPI_Win_allocate_shared`). **ordinary** is any other memory,
  and stands beside peers in private memory.
- **direct** is the operation as a bare loop over shared memory, without a library; with stores
  through or past the caches, whichever is faster. So are the floors copy and add.
- **stream** is what must cross between the two hosts, sent and received at once by a socket that
  never sleeps, and the sum of what must be added, without a library (`benchmarks/stream.py`).
- A ratio is shoal's time over the other's, taken within a round; the median of the rounds.
  **Below 1, shoal is faster.** Only ratios are comparable between runs.
- A round counts if a cache line's way from core to core took about what it took in the cell's
  median round (not {REGIME_RATIO} times longer or shorter), before and after each turn of it.
- A peer that is {COLLAPSE_RATIO:.0f} times slower than the fastest has collapsed, as some do where
  ranks outnumber cores: the notes at the end list it, and it is nobody's best.
"""


def write(report: Report, path: Path) -> None:
    """The file, and figures in a folder of its name beside it."""
    figures = path.with_suffix("")
    figures.mkdir(exist_ok=True)
    parts = [_INTRODUCTION, *_machine(report)]
    for key, rows in _by_placement(report.rows).items():
        title = _title(*key)
        stem = figures / re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        draw(title, rows, stem)
        parts += [f"## {title}\n", f"![{title}]({figures.name}/{stem.name}.svg)\n"]
        parts += _summary(rows)
        parts += _over_stream(rows, report.floors)
        parts += _floors([floor for floor in report.floors if (floor.network, floor.ranks) == key])
        parts += ["<details><summary>All times</summary>\n", *_times(rows), "</details>\n"]
    if report.notes:
        parts.append("## Notes\n")
        lines = [f"- {note.who}, {note.where}: {one_line(note.what)}" for note in report.notes]
        parts.append("\n".join(lines) + "\n")
    path.write_text("\n".join(parts))


def _by_placement(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.network, row.ranks), []).append(row)
    return groups


def _title(network: str, ranks: int) -> str:
    return f"{ranks} ranks " + ("over TCP" if network == "tcp" else "on one host")


def _machine(report: Report) -> list[str]:
    conditions = [(name, text) for name, text in report.conditions.items()]
    rounds = sum(row.rounds + row.rounds_left_out for row in report.rows)
    busy = sum(row.busy_rounds for row in report.rows)
    conditions.append(("rounds in which something else ran", f"{busy} of {rounds}"))
    parts = ["## Machine and libraries\n", markdown_table(("", ""), conditions)]
    names = list(dict.fromkeys(name for by in report.settings.values() for name in by))
    rows = [(name, version) for name, version in report.versions.items() if name != "direct"]
    parts.append(markdown_table(("library", "version"), rows))
    settings = [
        (name, placement, f"`{by[name]}`")
        for name in names
        for placement, by in report.settings.items()
        if name in by
    ]
    if settings:
        parts.append(markdown_table(("library", "where", "settings"), settings))
    return parts


def _sizes(rows: list[Row]) -> list[int]:
    return sorted({row.bytes for row in rows})


def _head(first: str, sizes: list[int]) -> Sequence[str]:
    return (first, *(size_text(size) if size else "" for size in sizes))


def _summary(rows: list[Row]) -> list[str]:
    """Ratios: one table for each kind of memory and each thing to stand beside."""
    parts = []
    sizes = _sizes([row for row in rows if row.bytes])
    for buffer in dict.fromkeys(row.buffer for row in rows if row.bytes):
        of_buffer = [row for row in rows if row.buffer == buffer]
        beside = (("best peer", "to_best_peer"), ("direct", "to_direct"))
        for other, ratio in beside:
            lines = [
                (op, *(number(cells.get(size)) for size in sizes))
                for op in dict.fromkeys(row.op for row in of_buffer)
                if (cells := {r.bytes: getattr(r, ratio) for r in of_buffer if r.op == op})
            ]
            if any(getattr(row, ratio) for row in of_buffer):
                parts.append(markdown_table(_head(f"**{buffer}** over {other}", sizes), lines))
    for row in rows:
        if not row.bytes:
            parts.append(_barrier(row))
    return parts


def _over_stream(rows: list[Row], floors: list[Floor]) -> list[str]:
    """shoal beside what the network and the sum take by themselves."""
    ratios = {
        (row.buffer, row.op, row.bytes): ratio
        for row in rows
        if (ratio := over_stream(row, floors)) is not None
    }
    parts = []
    for buffer in dict.fromkeys(buffer for buffer, _, _ in ratios):
        of = {(op, size): ratio for (kind, op, size), ratio in ratios.items() if kind == buffer}
        sizes = sorted({size for _, size in of})
        lines = [
            (op, *(number(of.get((op, size))) for size in sizes))
            for op in dict.fromkeys(op for op, _ in of)
        ]
        parts.append(markdown_table(_head(f"**{buffer}** over stream", sizes), lines))
    return parts


def _barrier(row: Row) -> str:
    text = f"{row.op}: {number(row.shoal_us)} us"
    if row.best_peer:
        best = number(row.peer_us[row.best_peer])
        text += f", {number(row.to_best_peer)} times the best peer ({row.best_peer}, {best} us)"
    if row.to_direct:
        text += f", {number(row.to_direct)} times direct ({number(row.direct_us)} us)"
    return text + ".\n"


def _times(rows: list[Row]) -> list[str]:
    """One table for each operation: every contender's time, and how late shoal can be."""
    parts = []
    for op in dict.fromkeys(row.op for row in rows):
        of_op = [row for row in rows if row.op == op]
        sizes = _sizes(of_op)
        figures = {row.bytes: row.figures for row in of_op}
        names = list(dict.fromkeys(name for of_size in figures.values() for name in of_size))
        lines: list[Sequence[str]] = [
            (name.replace("/", ", "), *(_figure(figures, size, name, "us") for size in sizes))
            for name in names
        ]
        lines += [
            (
                f"{name.replace('/', ', ')}: p99",
                *(_figure(figures, s, name, "p99_us") for s in sizes),
            )
            for name in names
            if name.startswith("shoal/")
        ]
        parts.append(markdown_table(_head(f"{op}, us", sizes), lines))
    return parts


def _figure(figures: dict[int, dict[str, Figures]], size: int, name: str, what: str) -> str:
    found = figures[size].get(name)
    return number(getattr(found, what)) if found else "-"


def _floors(floors: list[Floor]) -> list[str]:
    names = dict.fromkeys(floor.floor for floor in floors if floor.bytes)
    if not names:
        return []
    sizes = sorted({floor.bytes for floor in floors if floor.bytes})
    by = {(floor.floor, floor.bytes): floor for floor in floors}
    lines: list[Sequence[str]] = []
    for name in names:
        of = [by.get((name, size)) for size in sizes]
        lines.append((name, *(number(floor.us) if floor else "-" for floor in of)))
        rate = (number(floor.bytes / floor.us / 1000) if floor else "-" for floor in of)
        lines.append((f"{name}, GB/s", *rate))
    parts = [markdown_table(("floors, us", *map(size_text, sizes)), lines)]
    for floor in floors:
        if not floor.bytes:
            parts.append(f"A cache line from one core to the other: {floor.us * 1000:.0f} ns.\n")
    return parts


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    rows += ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(rows) + "\n"


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("|", "/")).strip()
