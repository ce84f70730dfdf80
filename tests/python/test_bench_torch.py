"""`shoal bench --torch`, in a form so small that it says nothing about speed."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from shoal.bench.cells import Cell
from shoal.bench.measure import Result
from shoal.bench.torch.cells import CONTENDERS, FLOOR, GLOO, OPS, ORDINARY, POOL
from shoal.bench.torch.document import write
from shoal.bench.torch.figures import Report, mean_times, row_of, slower_cells, step_of, targets
from shoal.bench.torch.table import summary

BENCH = (sys.executable, "-m", "shoal.cli", "bench", "--torch")
has_torch = importlib.util.find_spec("torch") is not None


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *arguments], capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.skipif(not has_torch, reason="needs torch")
def test_a_run_gives_rows_steps_and_a_report(tmp_path: pathlib.Path) -> None:
    everything, report = tmp_path / "a.json", tmp_path / "c.md"
    done = bench(
        "--quick", "--ops", ",".join([*OPS, "ddp"]), "--sizes", "4Ki", "--rounds", "1",
        "--directory", str(tmp_path), "--json", str(everything), "--report", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr  # every result has been verified
    whole = json.loads(everything.read_text())
    assert whole["notes"] == []
    assert [(row["op"], row["bytes"]) for row in whole["rows"]] == [
        *((op, 4096) for op in OPS if op != "barrier"),
        ("barrier", 0),
    ]
    for row in whole["rows"]:
        assert {*row["us"]} == {*CONTENDERS} - ({POOL} if row["op"] == "barrier" else set())
        assert min(row["us"].values()) > 0
    [step] = whole["steps"]
    assert {*step["step_us"]} == {*step["alone_us"]} == {*CONTENDERS}
    assert [one["contender"] for one in whole["overlaps"]] == [GLOO, POOL, ORDINARY]
    for overlap in whole["overlaps"]:
        assert overlap["communication_us"] > 0
        assert overlap["calls"] == 10  # two buckets, five steps
        assert 0 <= overlap["overlapped_us"] <= overlap["communication_us"]
    assert "never slower than gloo" in report.read_text()


def result_of(op: str, size: int, **times_us: list[float]) -> Result:
    """One iteration a round; names with _ for -."""
    times = {f"torch/{n.replace('_', '-')}": [[us] for us in times_us[n]] for n in times_us}
    rounds = len(next(iter(times.values())))
    return Result(Cell(op, size), calibration_ns=[50.0] * rounds, times_us=times)


def report_of(*results: Result) -> Report:
    report = Report({})
    for result in results:
        if row := row_of(result, 2):
            report.rows.append(row)
    return report


def test_targets_are_judged_by_medians() -> None:
    report = report_of(
        result_of("all_reduce", 8, floor=[1, 1, 9], gloo=[12, 12, 50], shoal_pool=[2, 3, 10]),
        result_of("all_reduce", 1 << 20, gloo=[90], shoal_pool=[10], shoal_ordinary=[100]),
    )
    assert report.rows[0].over_floor_us[POOL] == 1
    assert report.rows[0].times_faster(POOL) == 4
    assert mean_times(report.rows, POOL, small=False) == pytest.approx(9)
    assert mean_times(report.rows, ORDINARY, small=True) is None
    assert slower_cells(report.rows) == [
        "all_reduce 1 MiB, 2 ranks, shoal-ordinary: 0.90 times as fast"
    ]
    assert [(target.found, target.is_met) for target in targets(report)] == [
        ("1.00 us", True),
        ("4.0 times", True),
        ("9.0 times", True),
        ("0.9 times", False),
        ("1 cells slower", False),
    ]
    assert summary(report)[-1].startswith("target missed: never slower than gloo")


def test_communication_is_what_a_step_takes_longer() -> None:
    step = step_of(
        result_of(
            "ddp", 21 << 20, gloo=[30, 31, 52], gloo_alone=[10, 10, 30],
            shoal_pool=[14, 15, 30], shoal_pool_alone=[10, 11, 30],
            shoal_ordinary=[9.0] * 3, shoal_ordinary_alone=[10.0] * 3,
            floor=[11.0] * 3, floor_alone=[10.0] * 3,
        ),
        2,
    )  # fmt: skip
    assert step is not None
    assert step.communication_us == {GLOO: 21, POOL: 4, ORDINARY: -1, FLOOR: 1}
    assert step.times_less_beyond_floor(POOL) == pytest.approx(20 / 3)
    assert step.times_less(POOL) == pytest.approx(21 / 4)
    assert step.times_less(ORDINARY) == float("inf")


def test_nothing_is_said_of_communication_that_noise_hides() -> None:
    noisy = result_of(
        "ddp", 21 << 20, gloo=[30, 9, 60], gloo_alone=[10, 10, 10],
        shoal_pool=[9.0] * 3, shoal_pool_alone=[10.0] * 3,
    )  # fmt: skip
    report = Report({})
    step = step_of(noisy, 2)
    assert step is not None and step.times_less(POOL) is None
    report.steps.append(step)
    assert [target.is_met for target in targets(report)] == [False]


@pytest.mark.skipif(not has_torch, reason="needs torch")
def test_overlap_is_time_in_which_both_run() -> None:
    from shoal.bench.torch.overlap import of_events

    def event(name: str, begin: float, end: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, time_range=SimpleNamespace(start=begin, end=end))

    found = of_events(
        [
            event("autograd::engine::evaluate_function: A", 0, 10),
            event("c10d::allreduce_", 8, 10),  # inside A: it starts the first operation
            event("shoal:all_reduce", 9, 15),
            event("autograd::engine::evaluate_function: B", 12, 20),
            event("shoal:all_reduce", 14, 30),
        ]
    )
    assert found == {
        "communication_us": 21,
        "overlapped_us": 8,
        "backward_us": 18,
        "calls": 2,
        "ended_in_backward": 1,
    }


def test_a_report_of_nothing_is_a_report(tmp_path: pathlib.Path) -> None:
    write(Report({"kernel": "6"}), tmp_path / "empty.md")
    assert "| kernel | 6 |" in (tmp_path / "empty.md").read_text()


@pytest.mark.skipif(not has_torch, reason="needs torch")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ops", "all_redcue"], "no such 'all_redcue'; there are all_reduce,"),
        (["--network", "2"], "no --network"),
        (["--ranks", "1"], "'1' is not a number of ranks"),
    ],
)
def test_bad_arguments_say_what_to_try(arguments: list[str], text: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
