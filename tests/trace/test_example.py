"""examples/find_the_straggler.py: the tracer, beside a real training job, finds who is slow."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "find_the_straggler.py"
LAUNCHED = (sys.executable, "-m", "shoal.cli", "run", "-n", "4", "--no-prefix", sys.executable)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("fault", ["a slow disk", "long Python", "a locked file", "SIGSTOP"])
def test_the_slow_rank_is_found(fault: str) -> None:
    out = run(sys.executable, str(EXAMPLE), "--fault", fault)
    assert f"by {fault}: right" in out and "waiting: rank" in out, out


def test_it_runs_under_the_launcher_and_a_seed_draws_the_same() -> None:
    last = [run(*LAUNCHED, str(EXAMPLE), "--seed", "3").splitlines()[-1] for _ in range(2)]
    assert last[0].partition(":")[0] == last[1].partition(":")[0]
