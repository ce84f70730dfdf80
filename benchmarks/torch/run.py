"""A whole run: rank count by rank count, cell by cell, until all is done or the time is up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..cells import Cell, cells_of
from ..conditions import conditions
from ..libraries import Direct, Placement
from ..measure import Contender, Effort, Result, measure
from ..rows import Note
from ..session import LibraryFailed, Running, Session
from ..workshop import Workshop
from . import table
from .cells import FLOOR, TRAININGS
from .figures import Report, overlap_of, row_of, step_of
from .ranks import TorchRanks

_PARAMETER_BYTES = 21 << 20  # about: a training step is a long cell
_TRACE_SECONDS = 60.0
_QUIET_LOAD = 0.5
_MAX_STARTS = 4  # of one number of ranks: they are ended when they do not answer


@dataclass(frozen=True)
class Plan:
    ops: list[str]
    sizes: list[int]
    trainings: list[str]
    ranks: list[int]
    effort: Effort
    training_effort: Effort
    minutes: float
    directory: Path


class Run:
    """`report` grows as it goes; `mistakes` are what went wrong."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.report = Report(conditions())
        self.mistakes: list[str] = []
        self._plan = plan
        self._say = say
        self._deadline = time.monotonic() + plan.minutes * 60
        self._workshop = Workshop(plan.directory, say)
        self._direct = Direct()

    def run(self) -> None:
        if (load := os.getloadavg()[0]) > _QUIET_LOAD:
            self._say(f"the machine is busy (load {load:.1f}): ratios may mislead")
        self._direct.make(self._workshop)
        cores = tuple(sorted(os.sched_getaffinity(0)))
        for ranks in self._plan.ranks:
            placement = Placement(ranks, cores)
            self._say(str(placement))
            logs = self._workshop.directory / "logs"
            with Session(placement, max(self._plan.sizes), logs) as session:
                session.start(self._direct)
                _Stage(self, session, self._plan).run()

    def is_in_time(self, what: object) -> bool:
        in_time = time.monotonic() < self._deadline
        if not in_time:
            self._note("time", str(what), "left out: the time was up, see --minutes")
        return in_time

    def failed(self, who: str, where: str, what: str) -> None:
        self._note(who, where, what)
        self.mistakes.append(f"{who} in {where}: {what}")

    def _note(self, who: str, where: str, what: str) -> None:
        self._say(f"{who}, {where}: {what}")
        self.report.notes.append(Note(where, who, what))


class _Stage:
    """One number of ranks."""

    def __init__(self, whole: Run, session: Session, plan: Plan) -> None:
        self._whole, self._session, self._plan = whole, session, plan
        self._placement = session.placement
        self._library = TorchRanks()
        self._starts = 0

    def run(self) -> None:
        report = self._whole.report
        if self._plan.ops:
            print(table.HEADING)
        for cell in cells_of(self._plan.ops, self._plan.sizes):
            result = self._measured(cell, self._plan.effort)
            if result and (row := row_of(result, self._placement.ranks)):
                report.rows.append(row)
                print(table.line(row), flush=True)
        for name in self._plan.trainings:
            result = self._measured(Cell(name, _PARAMETER_BYTES), self._plan.training_effort)
            if result and (step := step_of(result, self._placement.ranks)):
                report.steps.append(step)
                print(*table.step_lines(step), sep="\n", flush=True)
                if not TRAININGS[name].is_fsdp:
                    self._trace(name)

    def _measured(self, cell: Cell, effort: Effort) -> Result | None:
        if not self._whole.is_in_time(f"{cell}, {self._placement}"):
            return None
        running = self._running()
        buffers = self._library.buffers(self._placement, cell)
        contenders = [Contender(running, buffer) for buffer in buffers]
        result = measure(self._session, cell, contenders, effort)
        for name, text in {**result.failed, **result.collapsed}.items():
            self._whole.failed(name, f"{cell}, {self._placement}", text)
        return result

    def _running(self) -> Running:
        running = self._session.running.get(self._library.name)
        if running and running.is_alive:
            return running
        self._starts += 1
        if self._starts > _MAX_STARTS:
            raise LibraryFailed(f"the ranks had to be started more than {_MAX_STARTS} times")
        running = self._session.start(self._library)
        self._whole.report.conditions["torch"] = running.version.removeprefix("torch ")
        return running

    def _trace(self, name: str) -> None:
        running = self._running()
        for buffer in self._library.buffers(self._placement, Cell("all_reduce", 8)):
            if buffer == FLOOR:
                continue
            try:
                running.prepare(name, _PARAMETER_BYTES, buffer)
                found = json.loads(running.ask("overlap", _TRACE_SECONDS)[0])
            except LibraryFailed as failure:
                self._whole.failed(buffer, f"trace of {name}, {self._placement}", str(failure))
                return
            overlap = overlap_of(name, self._placement.ranks, buffer, found)
            self._whole.report.overlaps.append(overlap)
            print(table.overlap_line(overlap), flush=True)
