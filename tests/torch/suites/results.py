"""What one test did, and how hosts tell it to the runner: one JSON object a line in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

PASSED, SKIPPED, FAILED, NOT_RUN = "passed", "skipped", "failed", "not run"
OUTCOMES = (PASSED, SKIPPED, FAILED, NOT_RUN)


@dataclass(frozen=True, order=True)
class Unit:
    """One suite at one world size with one backend: what one host process runs."""

    suite: str
    world_size: int
    backend: str

    def __str__(self) -> str:
        return f"{self.suite}, {self.world_size} ranks, {self.backend}"


@dataclass
class Result:
    test: str
    outcome: str
    seconds: float = 0.0
    reason: str = ""  # first line of the error, or why it was skipped
    log: str = ""  # of a failure: what every rank wrote, stacks of a hang among it


@dataclass
class Progress:
    """What a host has written so far."""

    plan: list[str] | None = None
    started: str | None = None  # without a result yet
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def left(self) -> list[str]:
        return [test for test in self.plan or () if test not in self.results]


def write(file: IO[str], kind: str, value: Any) -> None:
    """Adds a line, and has it on its way before the next step can end the process."""
    file.write(json.dumps({kind: value}) + "\n")
    file.flush()


def write_result(file: IO[str], result: Result) -> None:
    write(file, "result", asdict(result))


def read(path: Path) -> Progress:
    """Reads what a host wrote, up to the last whole line."""
    progress = Progress()
    for kind, value in _records(path):
        if kind == "plan":
            progress.plan = value
        elif kind == "start":
            progress.started = value
        else:
            result = Result(**value)
            progress.results[result.test] = result
            progress.started = None
    return progress


def _records(path: Path) -> Iterable[tuple[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield from json.loads(line).items()
