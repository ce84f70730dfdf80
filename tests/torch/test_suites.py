"""The runner itself: that it sees every kind of failure, and that no difference goes unreported."""

from __future__ import annotations

import json
import pathlib
import xml.etree.ElementTree as ET

import pytest

from scripts import summary
from tests.torch.suites import __main__ as suites
from tests.torch.suites import catalog, report, sources
from tests.torch.suites.results import FAILED, NOT_RUN, PASSED, SKIPPED, Result, Unit

GLOO, OTHER = Unit("distributed", 2, "gloo"), Unit("distributed", 2, "other")


def outcomes(**named: str) -> dict[str, Result]:
    return {
        f"T.{name}": Result(f"T.{name}", outcome, 0.1, "why") for name, outcome in named.items()
    }


def test_only_what_gloo_passes_is_a_difference() -> None:
    results = {
        GLOO: outcomes(a=PASSED, b=PASSED, c=FAILED, d=SKIPPED, e=PASSED),
        OTHER: outcomes(a=PASSED, b=FAILED, c=FAILED, d=SKIPPED, e=SKIPPED),
    }
    assert [one.result.test for one in report.differences(results, {})] == ["T.b", "T.e"]
    assert report.exit_status(results, {}) == 1


def test_a_known_difference_is_reported_and_lets_the_run_pass() -> None:
    results = {GLOO: outcomes(b=PASSED), OTHER: outcomes(b=FAILED)}
    known = {"other": [report.Known("b", "a reason")]}
    assert report.exit_status(results, known) == 0
    assert "known: a reason" in report.text(results, known, {})
    elsewhere = {"other": [report.Known("b", "a reason", world_sizes=(4,))]}
    assert report.exit_status(results, elsewhere) == 1


def test_a_known_difference_that_is_gone_is_reported() -> None:
    results = {GLOO: outcomes(b=PASSED), OTHER: outcomes(b=PASSED)}
    known = {"other": [report.Known("b", "a reason")]}
    assert "take it out" in report.text(results, known, {})


def test_tests_that_were_not_run_fail_the_run() -> None:
    assert report.exit_status({GLOO: outcomes(a=PASSED, b=NOT_RUN)}, {}) == 1


def test_without_gloo_every_failure_counts() -> None:
    assert report.exit_status({OTHER: outcomes(a=FAILED)}, {}) == 1
    assert report.exit_status({OTHER: outcomes(a=SKIPPED)}, {}) == 0


def test_junit_counts_as_the_summary_of_make_test_does(tmp_path: pathlib.Path) -> None:
    results = {
        GLOO: outcomes(a=PASSED, b=PASSED, c=FAILED, d=SKIPPED, e=PASSED),
        OTHER: outcomes(a=PASSED, b=FAILED, c=FAILED, d=SKIPPED, e=FAILED),
    }
    results[OTHER]["T.b"].log = "\x1b[31mred\x00"  # not allowed in XML
    known = {"other": [report.Known("e", "a reason")]}
    file = tmp_path / "torch.xml"
    ET.ElementTree(report.junit(results, known)).write(file, encoding="unicode")
    assert summary.count(file) == (1, 1, 3)  # passed, failed, skipped


def test_a_rewrite_that_finds_nothing_is_an_error() -> None:
    with pytest.raises(LookupError, match="has torch changed"):
        sources.rewrite("x = 1\n", sources.REWRITES[sources.DISTRIBUTED], "other", "here")


@pytest.mark.parametrize(
    "line",
    [
        'if dist.get_backend() == "gloo":',
        'if name != "gloo", "Only gloo has it":',
        "FAST = {dist.Backend.GLOO}",
    ],
)
def test_a_new_mention_of_gloo_is_an_error(line: str) -> None:
    with pytest.raises(LookupError, match="here:2"):
        sources.check_mentions(f"\n{line}\n", "here")


def test_shards_and_samples_are_complete_and_deterministic() -> None:
    tests = [f"T.test_{index:03}" for index in range(100)]
    shards = [catalog.Selection(shard=(index, 3)).choose(tests) for index in (1, 2, 3)]
    assert sorted(sum(shards, [])) == tests
    sample = catalog.Selection(sample=True, always=frozenset({"test_007"}), every=10)
    assert sample.choose(tests) == sample.choose(tests)
    assert "T.test_007" in sample.choose(tests) and len(sample.choose(tests)) == 11


def test_every_kind_of_failure_is_seen(tmp_path: pathlib.Path) -> None:
    """A failure and a crash of a rank other than 0, hangs with stacks, a dead host process."""
    pytest.importorskip("torch")
    file = tmp_path / "results.json"
    suites.main(
        ["--suite", "selfcheck", "--world-sizes", "2", "--limit-s", "2", "--json", str(file)]
    )
    found = {one["test"].split(".")[1]: one for one in json.loads(file.read_text())["results"]}
    assert {name: one["outcome"] for name, one in found.items()} == {
        "test_pass": PASSED,
        "test_fail": FAILED,
        "test_crash": FAILED,
        "test_hang": FAILED,
        "test_hang_deaf": FAILED,
        "test_host_dies": FAILED,
        "test_skip": SKIPPED,
        "test_skip_code": SKIPPED,
    }
    assert found["test_fail"]["reason"] == "ValueError: rank 1 says no"
    assert found["test_skip"]["reason"] == "a reason"
    assert "rank 1 in selfcheck.py" in found["test_hang"]["reason"]
    assert "Timeout (0:00:02" in found["test_hang"]["log"]
