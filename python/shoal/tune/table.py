"""Measurements, as rows of a tuning table (csrc/tune/text.h) and as tables for people."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from shoal.tune.results import Cell, Measured


def describe_bytes(count: int) -> str:
    """512 -> "512", 65536 -> "64K", as --sizes takes them."""
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def table_text(measured: Measured) -> str:
    """The text of a table of these measurements; _core.merge_tuning() checks it."""
    today = datetime.date.today().isoformat()
    hosts = _plain(", ".join(measured.hosts))
    lines = [f"shoal-tuning 1; date {today}; hosts {hosts}; network {_plain(measured.network)}"]
    for cell in measured.cells:
        best, second = cell.ranking()[:2]
        lines.append(
            f"{cell.collective} {measured.ranks} {measured.node_ranks} {cell.up_to_bytes} "
            f"{best} {cell.us[best]:.2f} {second} {cell.us[second]:.2f}"
        )
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Without what would end a field or a line."""
    return "".join("," if c in ";#" else c for c in " ".join(text.split()))


def report(measured: Measured) -> Iterator[str]:
    """Lines for people: for each collective algorithms by size, the fastest marked."""
    collectives = list(dict.fromkeys(cell.collective for cell in measured.cells))
    for collective in collectives:
        cells = [cell for cell in measured.cells if cell.collective == collective]
        yield from _collective(collective, cells)
        yield ""


def _collective(collective: str, cells: list[Cell]) -> Iterator[str]:
    names = list(cells[0].us)
    widths = [max(10, len(name) + 1) for name in names]
    rounds = sorted({cell.rounds for cell in cells})
    span = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    yield f"{collective}: us, median of {span} round(s)"
    heads = " ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    yield f"  {'bytes':>8} {heads}   gain over the built-in choice"
    for cell in cells:
        best = cell.ranking()[0]
        times = " ".join(
            f"{('*' if name == best else '') + f'{cell.us[name]:.1f}':>{width}}"
            for name, width in zip(names, widths, strict=True)
        )
        yield f"  {describe_bytes(cell.up_to_bytes):>8} {times}   {_gain(cell, best)}"


def _gain(cell: Cell, best: str) -> str:
    if best == cell.builtin:
        return "none: it is the fastest"
    return f"x {cell.us[cell.builtin] / cell.us[best]:.2f} ({cell.builtin})"
