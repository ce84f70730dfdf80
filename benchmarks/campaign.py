"""A whole run: placement by placement, cell by cell, until all is done or the time is up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from . import table
from .cells import FLOORS, NETWORK_FLOORS, Cell, cells_of
from .conditions import conditions
from .libraries import Library, Placement
from .measure import Contender, measure
from .network import two_hosts
from .plan import Plan
from .rows import Note, Report, floor_of, rows_of
from .session import LibraryFailed, Running, Session
from .workshop import Unavailable, Workshop

DIRECT = "direct"  # the library that calibrates: nothing goes without it
_CHECKED_BYTES = 1 << 20
_CHECK_SECONDS = 20.0
_QUIET_LOAD = 0.5
_MAX_STARTS = 4  # of one library in one placement: it is ended when it does not answer

Say = Callable[[str], None]


class Campaign:
    """Runs a plan. `report` grows as it goes; `mistakes` are what shoal itself did wrong."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.report = Report(conditions())
        self.mistakes: list[str] = []
        self.plan = plan
        self.say = say
        self._begin = time.monotonic()
        self._deadline = self._begin
        self._workshop = Workshop(plan.directory, say)

    def run(self) -> None:
        if (load := os.getloadavg()[0]) > _QUIET_LOAD:
            self.say(f"the machine is busy (load {load:.1f}): ratios may mislead")
        libraries = list(self._made(self.plan.libraries))
        cores = tuple(sorted(os.sched_getaffinity(0)))
        local = [Placement(ranks, cores) for ranks in self.plan.ranks]
        placements = len(local) + len(self.plan.network)
        for number, placement in enumerate(local):
            self._run_at(placement, libraries, (number + 1) / placements)
        for number, ranks in enumerate(self.plan.network, len(local)):
            try:
                with two_hosts() as hosts:
                    placement = Placement(ranks, cores, hosts)
                    self._run_at(placement, libraries, (number + 1) / placements)
            except Unavailable as reason:
                self.note("network", f"{ranks} ranks", f"left out: {reason}")

    def is_in_time(self, what: object) -> bool:
        in_time = time.monotonic() < self._deadline
        if not in_time:
            self.note("time", str(what), "left out: the time was up, see --minutes")
        return in_time

    def note(self, who: str, where: str, what: str) -> None:
        self.say(f"{who}, {where}: {what}")
        self.report.notes.append(Note(where, who, what))

    def _made(self, libraries: list[Library]) -> Iterable[Library]:
        for library in libraries:
            try:
                library.make(self._workshop)
            except Unavailable as reason:
                if not library.is_peer:
                    raise
                self.note(library.name, "everywhere", f"not available: {reason}")
            else:
                yield library

    def _run_at(self, placement: Placement, libraries: list[Library], share: float) -> None:
        """`share` of the time may be gone at its end, so that each placement gets some."""
        self._deadline = self._begin + self.plan.minutes * 60 * share
        if not self.is_in_time(placement):
            return
        self.say(str(placement))
        self.report.settings[str(placement)] = {
            library.name: text for library in libraries if (text := library.settings(placement))
        }
        logs = self._workshop.directory / "logs"
        with Session(placement, max(self.plan.sizes), logs) as session:
            _Stage(self, session, libraries).run()
            for running in session.running.values():
                self.report.versions[running.name] = running.version


class _Stage:
    """One placement with its running libraries."""

    def __init__(self, campaign: Campaign, session: Session, libraries: list[Library]) -> None:
        self._campaign = campaign
        self._session = session
        self._placement = session.placement
        self._libraries = libraries
        self._peers = {library.name for library in libraries if library.is_peer}
        self._starts = {library.name: 0 for library in libraries}
        self._collapsed: set[tuple[str, str]] = set()  # operation and contender

    def run(self) -> None:
        self._start_all()
        floors = NETWORK_FLOORS if self._placement.hosts else FLOORS
        for cell in self._in_time(cells_of(floors, self._campaign.plan.sizes)):
            self._add_floor(cell)
        print(table.HEADING)
        for cell in self._in_time(cells_of(self._campaign.plan.ops, self._campaign.plan.sizes)):
            self._add_rows(cell)
            self._start_all()

    def _in_time(self, cells: list[Cell]) -> Iterable[Cell]:
        for cell in cells:
            if not self._campaign.is_in_time(f"{self._placement}, {cell} and what follows"):
                return
            yield cell

    def _start_all(self) -> None:
        """Starts those that do not run: at first all, later those that had to be ended."""
        for library in self._libraries:
            running = self._session.running.get(library.name)
            if (running and running.is_alive) or self._starts[library.name] == _MAX_STARTS:
                continue
            self._starts[library.name] += 1
            try:
                self._check_network(self._session.start(library))
            except LibraryFailed as reason:
                self._starts[library.name] = _MAX_STARTS
                self._note({library.name: str(reason)}, "start")
                if library.name == DIRECT:
                    raise

    def _check_network(self, running: Running) -> None:
        """The two hosts are one machine and share memory; a library may find it, and skip TCP."""
        hosts = self._placement.hosts
        if hosts is None or running.name == DIRECT:
            return
        cell = Cell("broadcast", _CHECKED_BYTES)
        buffer = running.library.buffers(self._placement, cell)[0]
        before = hosts.crossed_bytes()
        running.prepare(cell.op, cell.bytes, buffer)
        running.time(1, 0, 1, True, _CHECK_SECONDS)
        if (crossed := hosts.crossed_bytes() - before) < _CHECKED_BYTES:
            running.kill()
            raise LibraryFailed(f"its data does not cross the network: only {crossed} bytes did")

    def _contenders(self, cell: Cell, *libraries: Running) -> list[Contender]:
        return [
            Contender(running, buffer)
            for running in libraries
            if running.is_alive
            for buffer in running.library.buffers(self._placement, cell)
        ]

    def _add_floor(self, cell: Cell) -> None:
        direct = self._contenders(cell, self._session.running[DIRECT])
        result = measure(self._session, cell, direct, self._campaign.plan.effort)
        self._note(result.failed, str(cell))
        if floor := floor_of(result, self._placement):
            self._campaign.report.floors.append(floor)
            print(table.floor_line(floor), flush=True)

    def _add_rows(self, cell: Cell) -> None:
        contenders = self._contenders(cell, *self._session.running.values())
        taking_part = [c for c in contenders if (cell.op, c.name) not in self._collapsed]
        result = measure(self._session, cell, taking_part, self._campaign.plan.effort)
        # Larger sizes would take longer still.
        self._collapsed |= {(cell.op, name) for name in result.collapsed}
        self._note(result.collapsed, f"{cell} and larger")
        self._note(result.failed, str(cell))
        for row in rows_of(result, self._placement, self._peers):
            self._campaign.report.rows.append(row)
            print(table.line(row), flush=True)

    def _note(self, what: dict[str, str], where: str) -> None:
        for name, text in what.items():
            self._campaign.note(name, f"{where}, {self._placement}", text)
            if name.split("/")[0] not in self._peers:
                self._campaign.mistakes.append(f"{name} in {where}: {text}")
