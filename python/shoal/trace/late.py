"""Which operations are late, and who has not posted them: what progress pages alone say."""

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
    """What somebody has waited for longer than `after_ns`. One job's pages."""
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
    # The one that most ranks wait for first: a rank that is held within an operation waits as well.
    return sorted(late, key=lambda one: (-len(one.waiting), one.since_ns))


def late_for(page: Page, waits: Operation | Transfer) -> Late:
    """What one rank waits for, as if it were late."""
    if isinstance(waits, Transfer):
        return Late(page.job, waits.communicator, -1, waits.tag, waits.kind, waits.begin_ns,
                    (page.rank,), (waits.peer,))  # fmt: skip
    return Late(page.job, *key_of(page, waits), waits.sequence, waits.collective, waits.begin_ns,
                (page.rank,), (waits.awaited_peer,))  # fmt: skip


def behind(pages: dict[int, Page], late: Late) -> list[Page]:
    """Ranks that have not posted it, those furthest behind first."""
    if late.first < 0:  # a send or receive: whoever it is with, unless that rank waits as well
        return [p for rank in late.awaited if (p := pages.get(rank)) and not _answers(p, late)]
    rows = [(row.posted, page) for page in pages.values()
            if (row := page.progress(late.key)) is not None]  # fmt: skip
    found = [(posted, page) for posted, page in rows if posted < late.sequence]
    return [page for _, page in sorted(found, key=lambda one: (one[0], one[1].rank))]


def _answers(page: Page, late: Late) -> bool:
    """It has posted the other half of this send or receive."""
    kind = "recv" if late.collective == "send" else "send"
    return any(t.kind == kind and t.communicator == late.communicator and t.tag == late.sequence
               and t.peer in (*late.waiting, -1) for t in page.transfers)  # fmt: skip


def suspect(pages: dict[int, Page], late: Late) -> Page | None:
    """Whom the others seem to wait for: who has not posted it, or else whom most of them name."""
    found = behind(pages, late)
    if found:
        # Who waits itself, in another operation, is no more to blame than the others.
        return next((page for page in found if not page.waits), found[0])
    awaited = [rank for rank in late.awaited if rank in pages]
    return pages[max(awaited, key=awaited.count)] if awaited else None
