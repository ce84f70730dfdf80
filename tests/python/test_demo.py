"""The main job: training on real data, on one host and on two."""

from __future__ import annotations

import pathlib

from conftest import Runner, TwoHosts

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "train_digits.py"


def check(out: str) -> None:
    last = out.strip().splitlines()[-1]
    assert "shoal demo: ok" in last and "parameters bitwise equal: yes" in last, out


def test_four_ranks_train(job: Runner) -> None:
    check(job(EXAMPLE, 4, limit_s=90).out)


def test_two_hosts_train(job: Runner, two_hosts: TwoHosts) -> None:
    result = job(EXAMPLE, limit_s=120, launcher=two_hosts.launcher, options=two_hosts.options(2))
    assert "4 ranks on 2 node(s)" in result.out
    check(result.out)
