"""Compares backends' results, and writes them as text, JSON and JUnit XML. Pure: no torch here."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip brings the reader that this version lacks
    from pip._vendor import tomli as tomllib

from tests.torch.suites.results import FAILED, NOT_RUN, OUTCOMES, PASSED, SKIPPED, Result, Unit

REFERENCE = "gloo"
Results = Mapping[Unit, Mapping[str, Result]]


@dataclass(frozen=True)
class Known:
    """A test that a backend is known not to pass though gloo does, and why."""

    test: str
    reason: str
    suite: str = "distributed"
    world_sizes: tuple[int, ...] = ()  # empty: all

    def covers(self, suite: str, world_size: int, test: str) -> bool:
        return (
            self.suite == suite
            and test.split(".")[1] == self.test
            and (not self.world_sizes or world_size in self.world_sizes)
        )


def read_known(path: Path, backend: str) -> list[Known]:
    """The entries for a backend: tables `[[<backend>]]`, each with one reason for its `tests`."""
    entries: list[Known] = []
    for table in tomllib.loads(path.read_text()).get(backend, []):
        for test in table["tests"]:
            sizes = tuple(table.get("world_sizes", ()))
            entries.append(Known(test, table["reason"], table.get("suite", "distributed"), sizes))
    return entries


@dataclass(frozen=True)
class Difference:
    """A test that gloo passes and another backend does not."""

    unit: Unit
    result: Result
    known: str = ""  # the reason, if it is a known one


def differences(results: Results, known: Mapping[str, Sequence[Known]]) -> list[Difference]:
    """What gloo passes and others do not, the known ones with their reason, in order of units.

    Where gloo was not run, what fails counts as if gloo had passed it.
    """
    found = []
    for unit in sorted(results):
        if unit.backend == REFERENCE:
            continue
        expected = results.get(Unit(unit.suite, unit.world_size, REFERENCE))
        for test, result in results[unit].items():
            if _is_worse(result, expected):
                reasons = [
                    one.reason
                    for one in known.get(unit.backend, ())
                    if one.covers(unit.suite, unit.world_size, test)
                ]
                found.append(Difference(unit, result, (reasons or [""])[0]))
    return found


def _is_worse(result: Result, expected: Mapping[str, Result] | None) -> bool:
    if expected is None:
        return result.outcome == FAILED
    reference = expected.get(result.test)
    return result.outcome != PASSED and reference is not None and reference.outcome == PASSED


def better_than_known(
    results: Results, known: Mapping[str, Sequence[Known]]
) -> list[tuple[Unit, str]]:
    """Tests listed as known ones which pass."""
    return [
        (unit, test)
        for unit in sorted(results)
        for test, result in results[unit].items()
        if result.outcome == PASSED
        and any(
            one.covers(unit.suite, unit.world_size, test) for one in known.get(unit.backend, ())
        )
    ]


def text(
    results: Results, known: Mapping[str, Sequence[Known]], seconds: Mapping[Unit, float]
) -> str:
    """The report: counts, gloo's own failures, differences."""
    lines = ["suite         ranks  backend   passed skipped  failed not run  seconds"]
    for unit in sorted(results):
        counts = Counter(result.outcome for result in results[unit].values())
        numbers = " ".join(f"{counts[outcome]:>7}" for outcome in OUTCOMES)
        lines.append(
            f"{unit.suite:<13} {unit.world_size:>5}  {unit.backend:<8} {numbers}  "
            f"{seconds.get(unit, 0):>7.0f}"
        )
    for unit in sorted(results):
        if unit.backend == REFERENCE:
            lines += _listed(f"{unit}: failed", unit, results[unit], FAILED)
    found = differences(results, known)
    for title, chosen in (
        ("gloo passes, known not to pass", [one for one in found if one.known]),
        ("gloo passes, does not pass", [one for one in found if not one.known]),
    ):
        if any(unit.backend != REFERENCE for unit in results):
            lines.append(f"{title}: {len(chosen)}")
        for one in chosen:
            lines.append(f"  {one.unit}: {one.result.test}: {one.result.outcome}")
            lines.append(f"      {one.result.reason}")
            if one.known:
                lines.append(f"      known: {one.known}")
    better = better_than_known(results, known)
    if better:
        lines.append("listed in known.toml, but passes (take it out):")
        lines += [f"  {unit}: {test}" for unit, test in better]
    return "\n".join(lines)


def _listed(title: str, unit: Unit, results: Mapping[str, Result], outcome: str) -> list[str]:
    chosen = [result for result in results.values() if result.outcome == outcome]
    lines = [f"{title}: {len(chosen)}"] if chosen else []
    return lines + [f"  {result.test}: {result.reason}" for result in chosen]


def exit_status(results: Results, known: Mapping[str, Sequence[Known]]) -> int:
    """1 if something got worse than known, or was not run."""
    unfinished = any(
        result.outcome == NOT_RUN for tests in results.values() for result in tests.values()
    )
    worse = any(not one.known for one in differences(results, known))
    return 1 if worse or unfinished else 0


def as_json(
    results: Results, known: Mapping[str, Sequence[Known]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    def where(unit: Unit) -> dict[str, Any]:
        return {"suite": unit.suite, "world_size": unit.world_size, "backend": unit.backend}

    return {
        **facts,
        "results": [
            {**where(unit), **vars(result)}
            for unit in sorted(results)
            for result in results[unit].values()
        ],
        "differences": [
            {**where(one.unit), "test": one.result.test, "known": one.known}
            for one in differences(results, known)
        ],
    }


def junit(results: Results, known: Mapping[str, Sequence[Known]]) -> ET.Element:
    """JUnit XML of the backends under test; gloo's own results only where there is no other.

    A failure here is what makes the exit status 1: a test that gloo passes, and not a known one.
    The other failures and the known ones count as skipped, with the reason.
    """
    units = [unit for unit in sorted(results) if unit.backend != REFERENCE] or sorted(results)
    worse = {(one.unit, one.result.test): one for one in differences(results, known)}
    root = ET.Element("testsuites")
    for unit in units:
        suite = ET.SubElement(root, "testsuite", name=str(unit), tests=str(len(results[unit])))
        for test, result in results[unit].items():
            case = ET.SubElement(
                suite,
                "testcase",
                classname=f"{unit.suite}.{unit.world_size}.{unit.backend}",
                name=test,
                time=str(result.seconds),
            )
            if result.outcome == PASSED:
                continue
            difference = worse.get((unit, test))
            if result.outcome == NOT_RUN or (difference and not difference.known):
                failure = ET.SubElement(case, "failure", message=result.reason)
                failure.text = _printable(result.log)
            elif difference:
                ET.SubElement(case, "skipped", message=f"known: {difference.known}")
            elif result.outcome == SKIPPED:
                ET.SubElement(case, "skipped", message=result.reason)
            else:
                ET.SubElement(case, "skipped", message=f"gloo does not pass: {result.reason}")
    return root


def _printable(log: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(character for character in log if character >= " " or character in "\n\t")
