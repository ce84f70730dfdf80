"""A whole run: placement by placement, cell by cell, until all is done or the time is up."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable

import shoal

from . import report
from .cells import FLOORS, NETWORK_FLOORS, Cell, cells_of
from .libraries import Library, Placement
from .measure import Contender, Result, measure
from .network import two_hosts
from .plan import Plan
from .session import LibraryFailed, Session
from .workshop import Unavailable, Workshop

_MAX_STARTS = 4  # of one library in one placement: it is ended when it does not answer

Say = Callable[[str], None]


class Campaign:
    def __init__(self, plan: Plan, say: Say) -> None:
        self.report = report.Report(_conditions(), [], [])
        self.mistakes: list[str] = []  # what shoal itself did wrong
        self.plan = plan
        self.say = say
        self._deadline = time.monotonic() + plan.minutes * 60
        self._workshop = Workshop(plan.directory, say)

    def run(self) -> None:
        libraries = list(self._made(self.plan.libraries))
        cores = tuple(sorted(os.sched_getaffinity(0)))
        for ranks in self.plan.ranks:
            self._run_at(Placement(ranks, cores), libraries)
        for ranks in self.plan.network:
            with two_hosts() as hosts:
                self._run_at(Placement(ranks, cores, hosts), libraries)

    def is_in_time(self, what: object) -> bool:
        in_time = time.monotonic() < self._deadline
        if not in_time:
            self.say(f"out of time before {what}; see --minutes")
        return in_time

    def _made(self, libraries: list[Library]) -> Iterable[Library]:
        for library in libraries:
            try:
                library.make(self._workshop)
            except Unavailable as reason:
                if not library.is_peer:
                    raise
                self.say(f"without {library.name}: {reason}")
            else:
                yield library

    def _run_at(self, placement: Placement, libraries: list[Library]) -> None:
        if not self.is_in_time(placement):
            return
        self.say(str(placement))
        with Session(placement, self._workshop.directory / "logs") as session:
            _Stage(self, session, libraries).run()


class _Stage:
    """One placement with its running libraries."""

    def __init__(self, campaign: Campaign, session: Session, libraries: list[Library]) -> None:
        self._campaign = campaign
        self._session = session
        self._libraries = libraries
        self._peers = {library.name for library in libraries if library.is_peer}
        self._starts = {library.name: 0 for library in libraries}
        self._collapsed: dict[tuple[str, str], str] = {}  # by operation and contender

    def run(self) -> None:
        plan, stage = self._campaign.plan, self._session.placement
        self._start_all()
        floors = NETWORK_FLOORS if stage.hosts else FLOORS
        for cell in cells_of(floors, plan.sizes):
            if not self._campaign.is_in_time(f"{cell}, {stage}"):
                return
            self._add_floor(cell)
        print(report.HEADING)
        for cell in cells_of(plan.ops, plan.sizes):
            if not self._campaign.is_in_time(f"{cell}, {stage}"):
                return
            self._add_rows(cell)
            self._start_all()

    def _start_all(self) -> None:
        """Starts those that do not run: at first all, later those that had to be ended."""
        for library in self._libraries:
            running = self._session.running.get(library.name)
            if (running and running.is_alive) or self._starts[library.name] == _MAX_STARTS:
                continue
            self._starts[library.name] += 1
            try:
                self._session.start(library)
            except LibraryFailed as reason:
                if not library.is_peer:
                    raise
                self._starts[library.name] = _MAX_STARTS
                self._campaign.say(f"without {library.name}: {reason}")

    def _add_floor(self, cell: Cell) -> None:
        direct = Contender(self._session.running["direct"], "private")
        result = measure(self._session, cell, [direct], self._campaign.plan.effort)
        self._note_mistakes(result)
        floor = report.floor_of(result, self._session.placement)
        if floor:
            self._campaign.report.floors.append(floor)
            print(report.floor_line(floor), flush=True)

    def _add_rows(self, cell: Cell) -> None:
        contenders = [
            Contender(running, buffer)
            for running in self._session.running.values()
            if running.is_alive
            for buffer in _buffers(running.library, cell, self._session.placement)
        ]
        taking_part = [c for c in contenders if (cell.op, c.name) not in self._collapsed]
        result = measure(self._session, cell, taking_part, self._campaign.plan.effort)
        for name, seen in result.collapsed.items():
            self._collapsed[cell.op, name] = seen  # larger sizes would take longer still
        self._note_mistakes(result)
        for row in report.rows_of(result, self._session.placement, self._peers):
            self._campaign.report.rows.append(row)
            print(report.line(row), flush=True)

    def _note_mistakes(self, result: Result) -> None:
        for name, text in {**result.failed, **result.collapsed}.items():
            self._campaign.say(f"{name} in {result.cell}: {text}")
            if name.split("/")[0] not in self._peers:
                self._campaign.mistakes.append(f"{name} in {result.cell}: {text}")


def _buffers(library: Library, cell: Cell, placement: Placement) -> tuple[str, ...]:
    return library.buffers(placement)[: None if cell.has_buffers else 1]


def _conditions() -> dict[str, object]:
    return {
        "shoal": shoal.__version__,
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
    }
