"""Spans of collectives, made of looks at the progress pages.

A look shows what waits and, in each of a page's 16 places, the last operation that waited there.
`begin_ns` of those is exact. An end lies between two looks: it is given as the later of them, or as
the begin of the operation that took the place, with how much earlier it may have been. Operations
that began and ended between two looks, or had not to wait, are not seen, but for one: of a
collective that others wait for, the rank that comes last, which is what one looks for.

Ids are derived from names that all ranks agree on, so that the spans that recorders on several
hosts write for a collective make one trace, though nobody has sent anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from shoal.pages import Operation, Page
from shoal.trace.late import key_of

MAX_OPEN = 1024  # collectives under way; the oldest are given out as they are
MAX_REMEMBERED = 4096  # of those given out, to find a verdict's and to give none out twice


@dataclass(frozen=True)
class Name:
    """Of a collective: the same on all its ranks."""

    job: str
    communicator: int
    first: int  # world rank of the communicator's rank 0
    sequence: int

    def _digest(self, *more: object) -> bytes:
        words = ("shoal", self.job, self.communicator, self.first, self.sequence, *more)
        return hashlib.sha256("\0".join(map(str, words)).encode()).digest()

    @property
    def trace_id(self) -> bytes:
        return self._digest()[:16]

    @property
    def root_id(self) -> bytes:
        """Of the span of the collective as a whole."""
        return self._digest("root")[:8]

    def rank_id(self, rank: int) -> bytes:
        return self._digest("rank", rank)[:8]

    def verdict_id(self, cause: str, rank: int, provisional: bool) -> bytes:
        return self._digest("verdict", cause, rank, provisional)[:8]


@dataclass(frozen=True)
class Part:
    """One rank's part of a collective. Times: CLOCK_MONOTONIC of its host."""

    rank: int  # in the world
    host: str
    pid: int
    begin_ns: int
    end_ns: int
    begin_uncertainty_ns: int  # it may have begun by so much later
    end_uncertainty_ns: int  # it may have ended by so much earlier
    state: str  # "done", "failed", or "in_flight": not seen to end
    waited: bool = True
    dtype: str = ""
    count: int = 0
    bytes: int = 0  # of the whole buffer
    step: int = 0
    awaited_rank: int = -1  # for whom it was seen to wait last


@dataclass(frozen=True)
class Collective:
    """A collective as the ranks of this host had it; `parts` by rank."""

    name: Name
    kind: str  # "all_reduce"
    ranks: int  # of its communicator
    has_root: bool  # the communicator's rank 0 is here: who records here writes the root span
    parts: tuple[Part, ...]

    @property
    def begin_ns(self) -> int:
        return min(part.begin_ns for part in self.parts)

    @property
    def end_ns(self) -> int:
        return max(part.end_ns for part in self.parts)


Rank = tuple[str, int, int]  # job, rank, pid


@dataclass
class _Seen:
    """What a place showed at the last look."""

    name: Name
    operation: Operation
    flying_ns: int  # when it was last seen in flight
    awaited_rank: int = -1

    def is_same(self, other: Operation) -> bool:
        mine = self.operation
        resumed = other.in_flight and not mine.in_flight  # no: the number has been used again
        names = (mine.communicator, mine.sequence), (other.communicator, other.sequence)
        return names[0] == names[1] and not resumed


@dataclass
class _Open:
    """A collective that is not over on all ranks here."""

    kind: str
    ranks: int
    since_ns: int  # the look that saw it first
    parts: dict[Rank, Part] = field(default_factory=dict)
    flying: set[Rank] = field(default_factory=set)


def _rank(page: Page) -> Rank:
    return page.job, page.rank, page.pid


class Tracker:
    """Turns looks into collectives. One thread."""

    def __init__(self) -> None:
        self._places: dict[tuple[Rank, int], _Seen] = {}
        self._open: dict[Name, _Open] = {}
        self._given: dict[Name, None] = {}  # the latest, oldest first
        self._before: dict[Rank, Page] = {}

    def observe(self, pages: Sequence[Page]) -> list[Collective]:
        """Those that are over since the last look."""
        now = {_rank(page): page for page in pages}
        for rank in self._before.keys() - now.keys():
            self._lose(rank)
        for page in pages:
            for operation in page.operations:
                self._observe(page, operation)
        for name, one in self._open.items():
            self._add_latecomers(name, one, pages)
        over = [name for name, one in self._open.items() if self._is_over(name, one, pages)]
        over += list(self._open)[: max(0, len(self._open) - len(over) - MAX_OPEN)]
        known = {**self._before, **now}
        self._before = now
        return [self._give(name, known) for name in dict.fromkeys(over)]

    def finish(self) -> list[Collective]:
        """All that are left, as they were seen last."""
        for rank in self._before:
            self._lose(rank)
        return [self._give(name, self._before) for name in list(self._open)]

    def find(self, job: str, communicator: int, sequence: int) -> Name | None:
        for name in (*self._open, *reversed(self._given)):
            if (name.job, name.communicator, name.sequence) == (job, communicator, sequence):
                return name
        return None

    def _observe(self, page: Page, operation: Operation) -> None:
        where = (_rank(page), operation.place)
        seen = self._places.get(where)
        if seen is not None and seen.is_same(operation):
            self._go_on(page, operation, seen)
            return
        if seen is not None:
            # Half written: the begin is still that of the operation before. Next time, then.
            if operation.begin_ns == seen.operation.begin_ns:
                return
            self._end(page, seen, operation.begin_ns or page.read_ns)
            del self._places[where]
        communicator, first = key_of(page, operation)
        if operation.begin_ns == 0 or first < 0:
            return
        name = Name(page.job, communicator, first, operation.sequence)
        self._places[where] = new = _Seen(name, operation, 0)
        if operation.in_flight:
            self._go_on(page, operation, new)
        elif (before := self._before.get(_rank(page))) is not None:
            new.flying_ns = max(operation.begin_ns, before.read_ns)
            self._add(page, new, page.read_ns, operation.state)

    def _go_on(self, page: Page, operation: Operation, seen: _Seen) -> None:
        if operation.in_flight and operation.begin_ns > 0:
            seen.operation, seen.flying_ns = operation, page.read_ns
            seen.awaited_rank = operation.awaited_peer
            if seen.name not in self._given:
                self._opened(page, seen).flying.add(_rank(page))
        elif not operation.in_flight:
            self._end(page, replace(seen, operation=operation), page.read_ns)
            seen.operation = operation

    def _opened(self, page: Page, seen: _Seen) -> _Open:
        row = page.progress((seen.name.communicator, seen.name.first))
        ranks = row.ranks if row is not None else 0
        one = _Open(seen.operation.collective, ranks, page.read_ns)
        return self._open.setdefault(seen.name, one)

    def _end(self, page: Page, seen: _Seen, end_ns: int) -> None:
        """Of what was in flight at the last look."""
        one = self._open.get(seen.name)
        if one is not None and _rank(page) in one.flying:
            failed = seen.operation.state == "failed"
            self._add(page, seen, end_ns, "failed" if failed else "done")

    def _add(self, page: Page, seen: _Seen, end_ns: int, state: str) -> None:
        if seen.name in self._given:
            return  # it came too late
        one, o = self._opened(page, seen), seen.operation
        one.flying.discard(_rank(page))
        end_ns = max(end_ns, o.begin_ns)
        one.parts[_rank(page)] = Part(
            page.rank, page.host, page.pid, o.begin_ns, end_ns, 0,
            max(0, end_ns - max(seen.flying_ns, o.begin_ns)), state, dtype=o.dtype, count=o.count,
            bytes=o.block_bytes * (one.ranks if o.in_blocks else 1), step=o.step,
            awaited_rank=seen.awaited_rank,
        )  # fmt: skip

    def _lose(self, rank: Rank) -> None:
        """Its page is gone."""
        page = self._before[rank]
        for where in [one for one in self._places if one[0] == rank]:
            seen = self._places.pop(where)
            one = self._open.get(seen.name)
            if one is not None and rank in one.flying:
                self._add(page, seen, seen.flying_ns, "in_flight")

    def _add_latecomers(self, name: Name, one: _Open, pages: Iterable[Page]) -> None:
        """Who had not posted it at the last look, when others waited, and has now."""
        for page, posted in _members(name, pages):
            rank = _rank(page)
            before = self._before.get(rank)
            row = before.progress((name.communicator, name.first)) if before is not None else None
            came = row is not None and row.posted < name.sequence <= posted
            if not came or before is None or one.since_ns >= page.read_ns:
                continue
            if rank not in one.parts and rank not in one.flying:
                apart = page.read_ns - before.read_ns
                one.parts[rank] = Part(
                    page.rank, page.host, page.pid, before.read_ns, page.read_ns, apart, apart,
                    "done", waited=False,
                )  # fmt: skip

    def _is_over(self, name: Name, one: _Open, pages: Iterable[Page]) -> bool:
        if one.flying or not one.parts:
            return False
        if any(part.state != "done" for part in one.parts.values()):
            return True
        return all(posted >= name.sequence and not _is_in(page, name)
                   for page, posted in _members(name, pages))  # fmt: skip

    def _give(self, name: Name, known: dict[Rank, Page]) -> Collective:
        one = self._open.pop(name)
        self._given[name] = None
        if len(self._given) > MAX_REMEMBERED:
            del self._given[next(iter(self._given))]
        parts = sorted(one.parts.values(), key=lambda part: part.rank)
        has_root = any((job, rank) == (name.job, name.first) for job, rank, _ in known)
        return Collective(name, one.kind, one.ranks, has_root, tuple(parts))


def _members(name: Name, pages: Iterable[Page]) -> Iterator[tuple[Page, int]]:
    """The ranks of its communicator that are here, and how far they are."""
    for page in pages:
        row = page.progress((name.communicator, name.first)) if page.job == name.job else None
        if row is not None:
            yield page, row.posted


def _is_in(page: Page, name: Name) -> bool:
    return any(o.in_flight and o.communicator == name.communicator and o.sequence == name.sequence
               for o in page.operations)  # fmt: skip
