"""`make bench-gpu` where there is no GPU: over the stand-in for the driver, beside torch's gloo."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.gpu.report import document, mean, ratios, text
from tests.python.on_cuda import ON_GPU, SETTINGS, needs_driver

ROOT = pathlib.Path(__file__).parents[2]
LIMIT_S = 90
# Rank 1 leaves rank 0 alone in gloo's second size, and who waits is given up after 4 s, not 30.
HANG = """
import os, sys, time
if "benchmarks.gpu.rank" in " ".join(sys.orig_argv) and "RANK" in os.environ:
    from benchmarks.gpu import peers
    peers.HUNG_S = 4
    as_it_is = peers.Peers.call
    def call(self, name, count):
        if name == "gloo" and count > 100 and os.environ["RANK"] == "1":
            time.sleep(60)
        return as_it_is(self, name, count)
    peers.Peers.call = call
"""


def row(ranks: int, size: int, system: str, us: float, host_us: float = 1.0) -> dict[str, object]:
    return {
        "ranks": ranks, "bytes": size, "system": system, "us": us, "host_us": host_us,
        "floor_us": 1.0, "copy_gb_s": 1.0, "rounds": 5, "calls": 10,
    }  # fmt: skip


ROWS = [
    row(2, 8, "shoal", 10, host_us=4), row(2, 8, "nccl", 20), row(2, 8, "gloo", 60),
    row(2, 1024, "shoal", 10), row(2, 1024, "nccl", 80), row(2, 1024, "gloo", 200),
]  # fmt: skip


def test_ratios_are_of_the_same_size_and_means_geometric() -> None:
    assert ratios(ROWS, "nccl", 2) == [2.0, 8.0]
    assert mean([2.0, 8.0]) == pytest.approx(4.0)


def test_the_summary_says_which_targets_are_met() -> None:
    shown = text(ROWS, {"device": "some GPU"}, ["2 ranks, without x: why"])
    table = shown.split("| target |")[1].split("\n\n")[0].splitlines()[2:]
    met = {cells[1].strip(): cells[3].strip() for cells in (line.split("|") for line in table)}
    assert met["2x faster than nccl, mean of 2 ranks and more"] == "yes"  # 4.00
    assert met["10x faster than gloo, mean of 2 ranks and more"] == "yes"  # 10.95
    assert met["shoal: at most 3 us of the host"] == "no"  # 4 at 8 B
    assert shown.splitlines()[-1] == "- 2 ranks, without x: why"


def test_a_peer_that_was_not_measured_is_no_target_met() -> None:
    assert "| 2x faster than nccl, mean of 2 ranks and more | not measured | no |" in text(
        [r for r in ROWS if r["system"] != "nccl"], {}, []
    )


def run(folder: pathlib.Path, first: str = "") -> tuple[str, list[dict[str, object]]]:
    """What it prints, and the rows. `first`: where Python looks before all else."""
    if ON_GPU or importlib.util.find_spec("torch") is None:
        pytest.skip("has other peers" if ON_GPU else "no torch")
    rows, report = folder / "rows.jsonl", folder / "report.md"
    paths = filter(None, [first, str(ROOT), os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--try", "--json", str(rows),
         "--report", str(report), "--ranks", "2"],
        env={**os.environ, **SETTINGS, "PYTHONPATH": ":".join(paths)},
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    written = report.read_text()
    assert written.startswith(document("")[:100]) and "| ranks | bytes |" in written
    return done.stdout, [json.loads(line) for line in rows.read_text().splitlines()]


@needs_driver
def test_all_systems_take_turns(tmp_path: pathlib.Path) -> None:
    out, rows = run(tmp_path)
    assert [(r["bytes"], r["system"]) for r in rows] == [
        (size, system) for size in (8, 65536) for system in ("shoal", "shoal, graph", "gloo")
    ]
    assert "2 ranks, without nccl: needs a GPU" in out


@needs_driver
def test_a_peer_that_hangs_costs_its_own_rows_only(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANG)
    out, rows = run(tmp_path, first=str(tmp_path))
    assert [(r["bytes"], r["system"]) for r in rows] == [
        (8, "shoal"), (8, "shoal, graph"), (8, "gloo"), (65536, "shoal"), (65536, "shoal, graph")
    ]  # fmt: skip
    assert "2 ranks, gloo: not over after 4 s" in out
