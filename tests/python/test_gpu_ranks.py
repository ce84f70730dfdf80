"""The ground of `make test-gpu`'s checks (tests/gpu/ranks.py): what it says of a check that fails,
hangs or ends its ranks, and that the next one is made all the same. No GPU has part in it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

GPU_TESTS = pathlib.Path(__file__).parents[1] / "gpu"

PROGRAM = """
import os, sys, time
sys.path.insert(0, {folder!r})
import ranks

RANK = int(os.environ.get("RANK", 0))
pids = []

def start():
    pids.append(os.getpid())

def first():
    return "as it should"

def passed_over():
    raise ranks.Skip("nothing here")

def wrong_on_one():
    if RANK == 1:
        raise ValueError("seven")
    time.sleep(60)

def hangs():
    print("came so far", flush=True)
    if RANK == 1:
        time.sleep(60)

def dies():
    if RANK == 1:
        os.kill(os.getpid(), 9)
    return "without it"

def dies_though_it_must_not():
    if RANK == 1:
        os._exit(3)

def last():
    assert pids == [os.getpid()]

ranks.FAILED_S = 0.5
CHECKS = [
    ranks.Check(first), ranks.Check(passed_over), ranks.Check(wrong_on_one),
    ranks.Check(hangs, limit_s=1.0), ranks.Check(dies, ends_job=True, dies=(1,)),
    ranks.Check(dies_though_it_must_not), ranks.Check(last),
]
sys.exit(ranks.main(CHECKS, start, {limit_s}))
"""


def run(folder: pathlib.Path, limit_s: float, *names: str) -> tuple[int, str]:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(folder=str(GPU_TESTS), limit_s=limit_s))
    done = subprocess.run(
        [sys.executable, str(program), *names],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_each_check_is_made_and_told(tmp_path: pathlib.Path) -> None:
    status, output = run(tmp_path, 40)
    assert status == 1, output
    told = [line for line in output.splitlines() if not line.startswith(" ")]
    for line, start in zip(
        told,
        [
            "ok first: as it should (",
            "skipped passed_over: nothing here (",
            "FAILED wrong_on_one: rank 0: late; rank 1: FAILED ValueError: seven",
            "FAILED hangs: rank 0: ok; rank 1: late",
            "ok dies: without it (",
            "FAILED dies_though_it_must_not: rank 0: ok; rank 1: gone",
            "ok last: (",
        ],
        strict=True,
    ):
        assert line.startswith(start), output
    # What a rank printed, its traceback, where it hangs, and how it ended.
    for text in ("| came so far", 'raise ValueError("seven")', "in hangs", "rank 1 (exit 3)"):
        assert text in output, output


@pytest.mark.parametrize(("limit_s", "status"), [(30, 0), (0, 1)])
def test_good_checks_and_a_program_that_has_no_time(
    tmp_path: pathlib.Path, limit_s: float, status: int
) -> None:
    assert run(tmp_path, limit_s, "first", "last")[0] == status
