"""Every class of faults that this machine can inject: the tracer names the right rank and cause.

A class passes with two right verdicts. The tracer promises 95 %, so that another cause, or none, is
forgiven where more seeds are right; of wrong ranks, false alarms and broken jobs only one, since on
a machine with other work the injector's truth is not beyond doubt. The full run counts them all.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.trace.faults import judge, report
from tests.trace.faults.case import Settings, play, watch_healthy
from tests.trace.faults.catalog import FAULTS
from tests.trace.faults.hosts import Hosts, can_make
from tests.trace.faults.judge import Outcome

RIGHT_SEEDS, MOST_SEEDS = 2, 5
GRAVE = (judge.WRONG_RANK, judge.FALSE_ALARM, judge.BROKEN)
HEALTHY_S = 10.0

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts | None]:
    if can_make():
        yield None
        return
    with Hosts() as made:
        yield made


@pytest.mark.parametrize("name", FAULTS)
def test_the_tracer_names_rank_and_cause(name: str, hosts: Hosts | None) -> None:
    fault = FAULTS[name]
    if why := fault.missing():
        pytest.skip(why)
    seen: list[Outcome] = []
    for seed in range(MOST_SEEDS):
        seen.append(play(fault, seed, Settings(hosts)))
        assert sum(outcome.result in GRAVE for outcome in seen) < 2, seen
        if [outcome.result for outcome in seen].count(judge.RIGHT) == RIGHT_SEEDS:
            return
    spoilt = [outcome for outcome in seen if outcome.result in (judge.NOISE, judge.NOT_LATE)]
    if len(seen) - len(spoilt) < RIGHT_SEEDS:
        pytest.skip(f"the machine is too busy to disturb a job on it: {spoilt}")
    pytest.fail("\n".join(map(str, seen)))


def test_a_healthy_job_is_not_accused() -> None:
    outcome = watch_healthy(0, HEALTHY_S, Settings())
    assert outcome.result == judge.RIGHT, outcome


# ---- the injector's own arithmetic


def test_verdicts_are_compared_with_the_truth() -> None:
    stopped, lossy = FAULTS["stopped"], FAULTS["packet_loss"]
    for fault, culprits, rank, cause, result in (
        (stopped, {2}, 2, "stopped", judge.RIGHT),
        (stopped, {2}, 2, "sleeping", judge.OTHER_CAUSE),
        (stopped, {2}, 2, "unknown", judge.UNKNOWN),
        (stopped, {2}, -1, "stopped", judge.UNKNOWN),
        (stopped, {2}, 1, "stopped", judge.WRONG_RANK),
        (lossy, {1, 3}, 1, "packet_loss", judge.RIGHT),
    ):
        assert judge.compare(fault, culprits, {"rank": rank, "cause": cause}) == result
    assert judge.compare(stopped, {2}, {}) == judge.MISSED


def test_the_report_counts_and_replaces_what_it_wrote(tmp_path: pathlib.Path) -> None:
    verdict = {"rank": 1, "cause": "stopped"}
    outcomes = [
        Outcome("stopped", 0, "before", [1], judge.RIGHT, verdict, 0.5),
        Outcome("stopped", 1, "after", [1], judge.WRONG_RANK, {"rank": 2, "cause": "sleeping"}),
        Outcome("stopped", 2, "after", [1], judge.NOISE),
    ]
    (row,) = report.rows(outcomes)
    assert row.share == 0.5 and not row.passes and row.seconds("before") == [0.5]
    assert all(row.passes for row in report.rows(outcomes[:1]))
    text = report.markdown(outcomes, {"netem_loss": "no netem"}, "3 seeds a class")
    assert "1 of 2 verdicts right, 1 of a wrong rank" in text and "1 noise" in text
    page = tmp_path / "page.md"
    page.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    for _ in range(2):
        report.write_into(page, text)
        assert page.read_text() == f"above\n{report.BEGIN}\n\n{text}\n{report.END}\nbelow\n"
