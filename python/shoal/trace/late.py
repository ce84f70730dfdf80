"""Which operations are late: somebody has waited for them longer than the user allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shoal.pages import Operation, Page, Transfer


@dataclass(frozen=True)
class Late:
    """An operation that somebody waits for."""

    job: str
    communicator: int
    first: int  # world rank of the communicator's rank 0; -1: of a send or receive
    sequence: int
    collective: str  # or "send", "recv"
    since_ns: int  # CLOCK_MONOTONIC, when the first of those who wait began to
    waiting: tuple[int, ...]  # world ranks
    awaited: tuple[int, ...]  # world ranks that they say they wait for, in the order of `waiting`

    @property
    def key(self) -> tuple[int, int]:
        return self.communicator, self.first

    @property
    def name(self) -> tuple[str, int, int, int, str]:
        """Tells operations apart."""
        return self.job, self.communicator, self.first, self.sequence, self.collective


def key_of(page: Page, operation: Operation) -> tuple[int, int]:
    for row in page.communicators:
        if row.communicator == operation.communicator and row.posted >= operation.sequence:
            return row.key
    return operation.communicator, -1


def _waiting_operations(page: Page, after_ns: int) -> Iterator[Operation]:
    for operation in page.operations:
        begun = operation.in_flight and operation.begin_ns > 0
        if begun and page.read_ns - operation.begin_ns >= after_ns:
            yield operation


def find_late(pages: Iterable[Page], after_ns: int) -> list[Late]:
    """What somebody has waited for longer than `after_ns`, the longest first. One job's pages."""
    seen: dict[tuple[str, int, int, int, str], list[tuple[int, int, int]]] = {}
    for page in pages:
        for operation in _waiting_operations(page, after_ns):
            name = (page.job, *key_of(page, operation), operation.sequence, operation.collective)
            seen.setdefault(name, []).append(
                (operation.begin_ns, page.rank, operation.awaited_peer)
            )
        for transfer in page.transfers:
            if page.read_ns - transfer.begin_ns >= after_ns:
                name = (page.job, transfer.communicator, -1, transfer.tag, transfer.kind)
                seen.setdefault(name, []).append((transfer.begin_ns, page.rank, transfer.peer))
    late = [
        Late(
            *name,
            since_ns=min(begin for begin, _, _ in waits),
            waiting=tuple(rank for _, rank, _ in waits),
            awaited=tuple(peer for _, _, peer in waits),
        )
        for name, waits in seen.items()
    ]
    return sorted(late, key=lambda one: one.since_ns)


def late_for(page: Page, waits: Operation | Transfer) -> Late:
    """What one rank waits for, as if it were late."""
    if isinstance(waits, Transfer):
        return Late(page.job, waits.communicator, -1, waits.tag, waits.kind, waits.begin_ns,
                    (page.rank,), (waits.peer,))  # fmt: skip
    return Late(page.job, *key_of(page, waits), waits.sequence, waits.collective, waits.begin_ns,
                (page.rank,), (waits.awaited_peer,))  # fmt: skip
