"""Figures: time and ratio by size, one column for each operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from .cells import size_text  # noqa: E402
from .rows import Row  # noqa: E402

FORMATS = ("svg", "png")
_DOTS_PER_INCH = 110
_COLUMN_INCHES, _LEGEND_INCHES, _HEIGHT_INCHES = 2.6, 2.2, 6.0
_RATIO_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)

# The same look in every figure: what is ours is heavy, the floor is dotted.
_OURS = {"pool": "#0b6e99", "ordinary": "#5fb3d4"}
_PEERS = ("#d1495b", "#edae49", "#66a182", "#8d6a9f", "#a47551", "#7a7a7a")


def draw(title: str, rows: Sequence[Row], stem: Path) -> None:
    """Writes stem.svg and stem.png: the rows of one placement."""
    ops = list(dict.fromkeys(row.op for row in rows if row.bytes))
    if not ops:
        return
    peers = sorted({name.split("/")[0] for row in rows for name in row.peer_us})
    colors = {peer: _PEERS[number % len(_PEERS)] for number, peer in enumerate(peers)}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "shoal"}):
        figure, axes = pyplot.subplots(
            2, len(ops), figsize=(_COLUMN_INCHES * len(ops) + _LEGEND_INCHES, _HEIGHT_INCHES),
            sharex="col", sharey="row", squeeze=False, layout="constrained",
        )  # fmt: skip
        for (times, ratios), op in zip(axes.T, ops, strict=True):
            of_op = sorted((row for row in rows if row.op == op), key=lambda row: row.bytes)
            times.set_title(op)
            _draw_times(times, of_op, colors)
            _draw_ratios(ratios, of_op)
        for row_of_axes, label in zip(axes, ("us a call", "shoal's time over ..."), strict=True):
            row_of_axes[0].set_ylabel(label)
            row_of_axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
        figure.suptitle(title)
        for form in FORMATS:
            # Without a date, the same rows give the same file.
            metadata = {"Date": None} if form == "svg" else {}
            figure.savefig(f"{stem}.{form}", dpi=_DOTS_PER_INCH, metadata=metadata)
        pyplot.close(figure)


def _draw_times(axes: Axes, rows: list[Row], colors: dict[str, str]) -> None:
    for peer, color in colors.items():
        _line(axes, {row.bytes: _fastest(row, peer) for row in rows}, peer, color=color)
    for buffer, color in _OURS.items():
        times = {row.bytes: row.shoal_us for row in rows if row.buffer == buffer}
        _line(axes, times, f"shoal, {buffer}", color=color, linewidth=2.2, marker="o")
    direct = {row.bytes: row.direct_us for row in rows}
    _line(axes, direct, "direct", color="black", linestyle=":", linewidth=1.5)
    axes.set_yscale("log")
    _set_sizes(axes, rows)


def _draw_ratios(axes: Axes, rows: list[Row]) -> None:
    axes.axhline(1, color="black", linewidth=0.8)
    for buffer, color in _OURS.items():
        ours = [row for row in rows if row.buffer == buffer]
        best = {row.bytes: row.to_best_peer for row in ours}
        _line(axes, best, f"best peer ({buffer})", color=color, linewidth=2.2, marker="o")
        direct = {row.bytes: row.to_direct for row in ours}
        _line(axes, direct, f"direct ({buffer})", color=color, linestyle=":")
    axes.set_yscale("log")
    axes.set_yticks(_RATIO_TICKS, [f"{tick:g}" for tick in _RATIO_TICKS])
    _set_sizes(axes, rows)


def _line(axes: Axes, points: Mapping[int, float | None], label: str, **style: Any) -> None:
    known = {size: value for size, value in points.items() if value is not None}
    if known:
        style = {"linewidth": 1.0, "markersize": 3, **style}
        axes.plot(list(known), list(known.values()), label=label, **style)


def _fastest(row: Row, peer: str) -> float | None:
    times = [us for name, us in row.peer_us.items() if name.split("/")[0] == peer]
    return min(times, default=None)


def _set_sizes(axes: Axes, rows: list[Row]) -> None:
    sizes = sorted({row.bytes for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [size_text(size) for size in sizes], rotation=60, fontsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
