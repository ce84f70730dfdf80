"""Instructions of one call, counted by callgrind, against a checked-in baseline.

    check.py PROGRAM COMPILER [--update]

PROGRAM is call_cost, COMPILER e.g. "GNU 12": another one makes other code, so each has a baseline
of its own, and one without is skipped. What differs by more than 3 % fails in both directions: an
improvement that is not written down could be lost again unseen. Counted is the call of the rank
that comes last. Where it has to wait for the others all the same, its idle turns are in the figure:
they are as many in every run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BASELINES = Path(__file__).parent / "baseline"
TOLERANCE = 0.03
SKIPPED = 77  # known to CTest
CALLS = (100, 600)  # what two runs differ by is the calls; their beginnings and ends are the same
RANKS = (1, 2)
COLLECTIVES = (
    ("barrier", 0),
    ("all_reduce", 8),
    ("all_reduce", 1024),
    ("all_gather", 1024),
    ("broadcast", 1024),
)

Case = tuple[int, str, int]  # ranks, collective, bytes
CASES: list[Case] = [(ranks, *one) for ranks in RANKS for one in COLLECTIVES]


def instructions(program: str, case: Case, calls: int) -> int:
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
        "--toggle-collect=counted_start", program, *map(str, case), str(calls),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        raise SystemExit(f"{' '.join(command)}: code {done.returncode}\n{done.stderr[-2000:]}")
    return int(found[1])


def cost(program: str, case: Case) -> int:
    """Of one call, of the rank that comes last."""
    few, many = (instructions(program, case, calls) for calls in CALLS)
    return round((many - few) / (CALLS[1] - CALLS[0]))


def read(baseline: Path) -> dict[Case, int]:
    rows = [line.split() for line in baseline.read_text().splitlines() if not line.startswith("#")]
    return {(int(ranks), what, int(size)): int(count) for ranks, what, size, count in rows}


def write(baseline: Path, costs: dict[Case, int]) -> None:
    lines = ["# ranks collective bytes instructions"]
    lines += [" ".join(map(str, (*case, count))) for case, count in costs.items()]
    baseline.parent.mkdir(exist_ok=True)
    baseline.write_text("\n".join(lines) + "\n")


def compare(costs: dict[Case, int], before: dict[Case, int]) -> bool:
    good = True
    for case, count in costs.items():
        ratio = count / before[case] if case in before else float("nan")
        within = abs(ratio - 1) <= TOLERANCE
        good = good and within
        ranks, what, size = case
        print(
            f"{what:<11}{size:>5} B {ranks} ranks: {count:>6} instructions, "
            f"baseline {before.get(case, 0):>6}, ratio {ratio:.3f}{'' if within else '  <<<'}"
        )
    return good


def main(program: str, compiler: str, *options: str) -> int:
    baseline = BASELINES / (compiler.lower().replace(" ", "-") + ".txt")
    update = options == ("--update",)
    if not shutil.which("valgrind"):
        print("skipped: no valgrind here (Debian package valgrind)")
        return SKIPPED
    if not update and not baseline.exists():
        print(f"skipped: {compiler} has no baseline in {BASELINES.name}/")
        return SKIPPED
    with ThreadPoolExecutor(2) as pool:
        costs = dict(zip(CASES, pool.map(lambda case: cost(program, case), CASES), strict=True))
    if update:
        write(baseline, costs)
        print(baseline.read_text(), end="")
        return 0
    if compare(costs, read(baseline)):
        return 0
    print("Is it meant? `make baseline`, and say in the commit what changed the cost.")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
