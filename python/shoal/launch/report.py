"""What became of each rank, for people and (--json-report) for programs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shoal.launch.job import RankExit


def signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def short_cause(end: RankExit) -> str:
    """For the other ranks' errors; the words are those of the library (describe_exit)."""
    text = f"killed by signal {end.signal}" if end.signal else f"exited with code {end.status}"
    return f"{text} ({end.note.split(':')[0]})" if end.note else text


def long_cause(end: RankExit, sent: set[int]) -> str:
    """``sent``: the signals the launcher has sent to end the job, before this rank ended."""
    if end.note and end.pid is None:
        return end.note
    if end.signal is None:
        text = f"exited with code {end.status}"
        if end.status and sent:
            text += f" after {', '.join(map(signal_name, sorted(sent)))} from shoal run"
        return text
    text = f"killed by signal {end.signal} ({signal_name(end.signal)})"
    if end.signal in sent:
        text += " from shoal run"
    return f"{text}: {end.note}" if end.note else text


@dataclass
class RankReport:
    rank: int
    host: str
    pid: int | None = None
    exit_code: int | None = None  # as a shell returns it: 128 + signal for a killed process
    signal: str | None = None  # e.g. "SIGKILL"
    cause: str = "has not been started"
    ended: bool = False

    def record(self, end: RankExit, cause: str) -> None:
        self.ended = True
        self.pid = end.pid
        self.signal = signal_name(end.signal) if end.signal else None
        self.exit_code = end.status if end.signal is None else 128 + end.signal
        self.cause = cause

    @property
    def code(self) -> int:
        return 1 if self.exit_code is None else self.exit_code  # 1: lost with its host

    def describe(self) -> str:
        where = self.host if self.pid is None else f"{self.host}, pid {self.pid}"
        return f"rank {self.rank} ({where}) {self.cause}"

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["ended"]
        return values


@dataclass
class JobReport:
    job: str
    command: list[str]
    ranks: list[RankReport]
    first_failure: RankReport | None = None
    lost_hosts: list[str] = field(default_factory=list)
    timed_out: bool = False
    reason: str = ""  # why the launcher ended the job, where no rank's failure was the reason
    code: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.code == 0

    def as_json(self) -> dict[str, Any]:
        first = self.first_failure
        return {
            "ok": self.ok,
            "job": self.job,
            "command": self.command,
            "exit_code": self.code,
            "reason": self.reason,
            "ranks": [rank.as_json() for rank in self.ranks],
            "first_failure": first.as_json() if first else None,
            "lost_hosts": self.lost_hosts,
            "timed_out": self.timed_out,
            "seconds": round(self.seconds, 3),
        }

    def write(self, path: Path) -> None:
        """Appears whole or not at all: a reader may wait for the file."""
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        draft.replace(path)
