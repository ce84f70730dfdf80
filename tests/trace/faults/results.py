"""A file of outcomes that grows from run to run: fifty seeds a class take longer than a machine is
quiet.

One line of JSON a case: the fields of Outcome; the run that played it; the version of the tracer
that was asked; the machine. Whoever appends takes care of nothing else, and what counts is decided
by whoever reads: of one class and seed the last line.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from dataclasses import dataclass

import shoal
from tests.trace.faults import report
from tests.trace.faults.catalog import HEALTHY
from tests.trace.faults.judge import Outcome

FIELDS = frozenset(field.name for field in dataclasses.fields(Outcome))


@functools.cache
def version() -> str:
    """Of what judges: a digest of its sources, which says the same in any checkout."""
    folder = pathlib.Path(shoal.__file__).parent
    digest = hashlib.sha256()
    for path in (folder / "pages.py", *sorted((folder / "trace").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Line:
    outcome: Outcome
    run: str  # when it began
    version: str
    machine: str


class Results:
    """`path`: None to keep them for this run only. One thread, one process at a time."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self._path = path
        self._run = time.strftime("%Y-%m-%dT%H:%M:%S")
        self._lines = _read(path) if path is not None and path.exists() else []

    def has(self, fault: str, seed: int) -> bool:
        """This case has been judged, of the tracer as it is now."""
        return any(
            (line.outcome.fault, line.outcome.seed) == (fault, seed)
            and line.version == version()
            and line.outcome.result in report.JUDGED
            for line in self._lines
        )

    def add(self, outcome: Outcome) -> None:
        line = Line(outcome, self._run, version(), report.machine())
        self._lines.append(line)
        if self._path is None:
            return
        fields = dataclasses.asdict(line)
        with self._path.open("a") as file:
            file.write(json.dumps(fields.pop("outcome") | fields) + "\n")

    def _counted(self) -> list[Line]:
        """The last of each case, in the order in which classes were first played."""
        return list({(one.outcome.fault, one.outcome.seed): one for one in self._lines}.values())

    def outcomes(self) -> list[Outcome]:
        return [line.outcome for line in self._counted()]

    def described(self) -> str:
        """How many seeds, in how many runs, of what."""
        lines = self._counted()
        rows = report.rows(self.outcomes())
        seeds = [len(row.outcomes) for row in rows if row.name != HEALTHY]
        least, most = min(seeds, default=0), max(seeds, default=0)
        words = [f"{least} seeds a class" if least == most else f"{least} to {most} seeds a class"]
        for count, what in (
            (len({line.run for line in lines}), "runs"),
            (len({line.version for line in lines}), "versions of the tracer"),
        ):
            words += [f"in {count} {what}"] if count > 1 else []
        return ", ".join(words) + "; " + "; ".join(dict.fromkeys(line.machine for line in lines))


def _read(path: pathlib.Path) -> list[Line]:
    found = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            fields = json.loads(text)
            outcome = Outcome(**{name: fields.pop(name) for name in FIELDS & fields.keys()})
            found.append(Line(outcome, **fields))
        except (ValueError, TypeError) as error:
            raise SystemExit(f"{path}, line {number}: {error}; take the line out") from error
    return found
