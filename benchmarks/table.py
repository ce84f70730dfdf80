"""Rows for a terminal, one line each."""

from __future__ import annotations

from .cells import size_text
from .rows import Floor, Row

HEADING = (
    f"{'':<15}{'':>9}  {'buffer':<9}{'shoal us':>10}{'p99':>10}{'busbw':>8}"
    f"{'best peer us':>14}{'ratio':>7}{'direct us':>11}{'ratio':>7}  best peer"
)


def number(value: float | None) -> str:
    """Three digits, or what they need before the point."""
    if value is None:
        return "-"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def line(row: Row) -> str:
    best = row.peer_us[row.best_peer] if row.best_peer else None
    marks = f"  ({row.rounds_left_out} rounds left out)" if row.rounds_left_out else ""
    marks += f"  ({row.busy_rounds} busy rounds)" if row.busy_rounds else ""
    size = size_text(row.bytes) if row.bytes else ""
    return (
        f"{row.op:<15}{size:>9}  {row.buffer:<9}{number(row.shoal_us):>10}"
        f"{number(row.shoal_p99_us):>10}{number(row.busbw_gbs):>8}{number(best):>14}"
        f"{number(row.to_best_peer):>7}{number(row.direct_us):>11}{number(row.to_direct):>7}"
        f"  {row.best_peer or '-'}{marks}"
    )


def floor_line(floor: Floor) -> str:
    rate = f"  {floor.gbs:.1f} GB/s" if floor.bytes else ""
    how = ", past the caches" if floor.streams else ""
    size = size_text(floor.bytes) if floor.bytes else ""
    return f"floor {floor.floor:<14}{size:>9}{number(floor.us):>10} us{rate}{how}"


def summary(rows: list[Row]) -> list[str]:
    """For each kind of memory: in how many cells nobody was faster, and where it is worst."""
    lines = []
    for buffer in dict.fromkeys(row.buffer for row in rows):
        beside = [(row.to_best_peer, row) for row in rows if row.buffer == buffer and row.bytes]
        ratios = [(ratio, row) for ratio, row in beside if ratio is not None]
        if not ratios:
            continue
        first = sum(ratio <= 1 for ratio, _ in ratios)
        ratio, worst = max(ratios, key=lambda pair: pair[0])
        lines.append(
            f"{buffer}: no peer is faster in {first} of {len(ratios)} cells; the worst is "
            f"{worst.op} of {size_text(worst.bytes)} on {worst.ranks} ranks, {number(ratio)} times "
            f"{worst.best_peer}"
        )
    return lines
