"""`make bench-tracer`: what the progress page, the probes and an attached tracer cost.

Compared are two builds of the library, with records and probes and without
(SHOAL_OBSERVABLE=OFF), in instructions (callgrind) and in time; and one running job with
`shoal trace` and without, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from pathlib import Path

from benchmarks.tracer.attached import Attached, measure
from tests.instructions.check import Case, cost

PROGRAMS = "tests/instructions"
CASES: tuple[Case, ...] = ((1, "barrier", 0), (2, "barrier", 0), (2, "all_reduce", 8),
                           (2, "all_reduce", 1024), (2, "broadcast", 1024))  # fmt: skip
BEGIN, END = "<!-- cost: begin (written by make bench-tracer) -->", "<!-- cost: end -->"


def _instructions(builds: list[Path]) -> list[tuple[Case, int, int]]:
    programs = [str(build / PROGRAMS / "call_cost") for build in builds]
    rows = []
    for case in CASES:
        seen, unseen = (cost(program, case) for program in programs)
        rows.append((case, seen, unseen))
    return rows


def _nanoseconds(builds: list[Path], rounds: int, calls: int) -> tuple[float, float, float]:
    """Of a barrier of one rank: with, without, and the difference; medians of rounds in turn."""
    programs = [str(build / PROGRAMS / "page_cost") for build in builds]
    pairs = []
    for _ in range(rounds):
        outputs = [
            subprocess.run([program, str(calls)], capture_output=True, text=True, check=True).stdout
            for program in programs
        ]
        pairs.append(tuple(float(output) for output in outputs))
    middle = statistics.median
    return (
        middle(pair[0] for pair in pairs),
        middle(pair[1] for pair in pairs),
        middle(pair[0] - pair[1] for pair in pairs),
    )


def _document(
    instructions: list[tuple[Case, int, int]],
    ns: tuple[float, float, float],
    rounds: int,
    calls: int,
    attached: list[Attached],
) -> str:
    lines = [
        "| call, by one rank | instructions | without page and probes | difference |",
        "|---|---|---|---|",
    ]
    for (ranks, what, size), seen, unseen in instructions:
        lines.append(f"| {what} {size} B, {ranks} ranks | {seen} | {unseen} | {seen - unseen} |")
    lines += [
        "",
        f"Time of a barrier of one rank, which updates the page once, {rounds} rounds of {calls:,} "
        f"calls of each build in turn: {ns[0]:.2f} ns against {ns[1]:.2f}; "
        f"**{ns[2]:+.2f} ns an operation** (median of the differences).",
        "",
        "| all_reduce by 2 ranks | operations/s | with `shoal trace` attached | tracer's CPU |",
        "|---|---|---|---|",
    ]
    for one in attached:
        change = f"{100 * (one.ratio - 1):+.1f} % (median of {one.rounds} rounds)"
        cpu = f"{100 * one.cpu:.1f} % of a core"
        lines.append(f"| {one.bytes} B | {one.rate:,.0f} | {change} | {cpu} |")
    return "\n".join(lines)


def _write(page: Path, text: str) -> None:
    before, found, rest = page.read_text().partition(BEGIN)
    if not found:
        raise SystemExit(f"{page}: has no line {BEGIN}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--builds", nargs=2, type=Path, required=True, metavar="DIR",
                        help="with records and probes, and without")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=12_000_000)
    parser.add_argument("--report", type=Path, help="write the tables into this page")
    options = parser.parse_args()
    instructions = _instructions(options.builds)
    ns = _nanoseconds(options.builds, options.rounds, options.calls)
    attached = [measure(size, options.rounds) for size in (8, 65536)]
    text = _document(instructions, ns, options.rounds, options.calls, attached)
    print(text)
    if options.report is not None:
        _write(options.report, text)


if __name__ == "__main__":
    main()
