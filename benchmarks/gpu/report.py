"""What `make bench-gpu` has measured, as text: a table, means, targets; docs/performance-gpu.md."""

from __future__ import annotations

import math
from typing import Any

Row = dict[str, Any]
OWN, GRAPH = "shoal", "shoal, graph"
# How many times shoal's time a peer's shall be.
FASTER = {"nccl": 2.0, "gloo": 10.0}
HOST_US = 3.0

_INTRODUCTION = """\
# Performance of CUDA memory

Written by `make bench-gpu` (`--report`), in one run on one machine; edited by nobody.

- all_reduce, float32, sum, in place. Systems take turns, round by round, in one set of processes;
  a time is the median of the rounds, on the slowest rank. A round has as many calls as fit its time
  (32 at most under way).
- **us of the host** is what the caller's thread spends in a call.
- **over the floor**: ranks that share a GPU share its memory, so n bytes on p ranks are 2 n p bytes
  read and written; the floor is that over the bandwidth of the device's own copy.
- **over shoal**: the system's time over that of `shoal`. Above 1, shoal is faster.
- Where ranks share a GPU their processes get it in slices of time, and NCCL's kernels wait for each
  other across them, by way of a network: two "nodes" on one GPU. That is not how NCCL is
  meant to be used, and says nothing about it where each rank has a GPU.
"""


def document(text: str) -> str:
    return f"{_INTRODUCTION}\n{text}\n"


def text(rows: list[Row], facts: dict[str, Any], notes: list[str]) -> str:
    if not rows:
        return "nothing was measured"
    parts = [_machine(rows, facts), _table(rows), _means(rows), _targets(rows)]
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts)


def _machine(rows: list[Row], facts: dict[str, Any]) -> str:
    sharing = "ranks share it" if facts.get("shared") else "one for each rank"
    return (
        f"{facts.get('device', 'no device')} ({sharing}), copies "
        f"{rows[0]['copy_gb_s']:.0f} GB/s (read and written); "
        f"{facts.get('versions', 'no torch')}"
    )


def _own(rows: list[Row]) -> dict[tuple[int, int], float]:
    return {(row["ranks"], row["bytes"]): row["us"] for row in rows if row["system"] == OWN}


def _table(rows: list[Row]) -> str:
    lines = [
        "| ranks | bytes | system | us a call | over the floor | over shoal | us of the host "
        "| rounds x calls |",
        "|---|---|---|---|---|---|---|---|",
    ]
    own = _own(rows)
    for row in rows:
        over = row["us"] / own[row["ranks"], row["bytes"]]
        lines.append(
            f"| {row['ranks']} | {row['bytes']} | {row['system']} | {row['us']:.1f} "
            f"| {row['us'] / row['floor_us']:.2f} | {over:.2f} | {row['host_us']:.1f} "
            f"| {row['rounds']} x {row['calls']} |"
        )
    return "\n".join(lines)


def ratios(rows: list[Row], system: str, ranks: int) -> list[float]:
    """A system's time over shoal's, of each size that both have."""
    own = _own(rows)
    return [
        row["us"] / own[ranks, row["bytes"]]
        for row in rows
        if row["system"] == system and row["ranks"] == ranks
    ]


def mean(values: list[float]) -> float:
    """Geometric."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _means(rows: list[Row]) -> str:
    lines = ["| times of shoal's, geometric mean of the sizes | ranks | mean | least | most |"]
    lines.append("|---|---|---|---|---|")
    for ranks in dict.fromkeys(row["ranks"] for row in rows):
        for system in dict.fromkeys(row["system"] for row in rows):
            found = ratios(rows, system, ranks)
            if system == OWN or not found:
                continue
            lines.append(
                f"| {system} | {ranks} | {mean(found):.2f} | {min(found):.2f} | {max(found):.2f} |"
            )
    return "\n".join(lines)


def _targets(rows: list[Row]) -> str:
    lines = ["| target | found | met |", "|---|---|---|"]
    several = [row for row in rows if row["ranks"] > 1]
    for name, factor in FASTER.items():
        found = [
            ratio
            for ranks in dict.fromkeys(row["ranks"] for row in several)
            for ratio in ratios(several, name, ranks)
        ]
        what = f"{factor:.0f}x faster than {name}, mean of 2 ranks and more"
        if found:
            lines.append(_target(what, f"{mean(found):.2f}x", mean(found) >= factor))
        else:
            lines.append(f"| {what} | not measured | no |")
    for name in (OWN, GRAPH):
        hosts = [row["host_us"] for row in rows if row["system"] == name]
        if hosts:
            what = f"{name}: at most {HOST_US:.0f} us of the host"
            worst = f"{mean(hosts):.1f} us, at most {max(hosts):.1f}"
            lines.append(_target(what, worst, max(hosts) <= HOST_US))
    return "\n".join(lines)


def _target(what: str, found: str, met: bool) -> str:
    return f"| {what} | {found} | {'yes' if met else 'no'} |"
