"""`make bench-gpu`: all_reduce of CUDA memory beside gloo and NCCL, over its floor.

The floor is bytes over bandwidth: ranks that share a GPU share its memory, so an all_reduce of n
bytes on p ranks reads and writes 2 n p bytes there, as fast as the device copies. Where each rank
has a GPU, the floor is that of the slowest of them and of what joins them: not known here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

SIZES = (8, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20)
TRY_SIZES = (8, 64 << 10)
LIMIT_S = 150


def measure(ranks: int, sizes: tuple[int, ...], more: list[str]) -> list[dict[str, Any]]:
    command = [
        sys.executable, "-m", "shoal.cli", "run", "-n", str(ranks), "--no-prefix",
        "--timeout", str(LIMIT_S), sys.executable, "-m", "benchmarks.gpu.rank",
        "--bytes", *map(str, sizes), *more,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for row in [row for row in rows if "without" in row]:
        print(f"{ranks} ranks, without {row['without']}: {row['because']}")
        rows.remove(row)
    if done.returncode != 0:
        sys.exit(f"{ranks} ranks: the job ended with {done.returncode}")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| ranks | bytes | system | us a call | over the floor | over shoal | us of the host |",
        "|---|---|---|---|---|---|---|",
    ]
    own = {(r["ranks"], r["bytes"]): r["us"] for r in rows if r["system"] == "shoal"}
    for row in rows:
        ratio = row["us"] / own[row["ranks"], row["bytes"]]
        lines.append(
            f"| {row['ranks']} | {row['bytes']} | {row['system']} | {row['us']:.1f} "
            f"| {row['us'] / row['floor_us']:.2f} | {ratio:.2f} | {row['host_us']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--try", action="store_true", dest="trial", help="two sizes, few calls: does it run?"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    sizes = TRY_SIZES if arguments.trial else SIZES
    more = ["--rounds", "2", "--calls", "5", "--no-peers"] if arguments.trial else []
    rows = [row for ranks in arguments.ranks for row in measure(ranks, sizes, more)]
    first = rows[0]
    print(f"device copy: {first['copy_gb_s']:.0f} GB/s (read and written)")
    print(f"medians of {first['rounds']} rounds in turn")
    print(table(rows))


if __name__ == "__main__":
    main()
