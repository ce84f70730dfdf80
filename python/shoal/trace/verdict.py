"""Who made a collective late, and why: a pure function of what is known at two moments.

The way from the victim to the root:

 1. Who has not posted it, though others wait? Such a rank is late in its own code, or it waits in
    another operation itself: then the walk goes on there. What holds its thread is the cause.
 2. All have posted it. Is there one whose host does not let it go on (stopped, frozen, throttled,
    preempted), or that posted it and then drives nothing?
 3. All drive it. What lies between those who wait and whom they wait for: a link that is down, that
    loses packets, whose receiver does not read.
 4. Else unknown, with what is missing to know more.

A cause is only said with its evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.pages import Operation, Page, Transfer
from shoal.trace.evidence import Evidence
from shoal.trace.finding import Finding
from shoal.trace.host import (
    asleep_ns,
    preempted,
    process_trouble,
    registrations,
    thread_finding,
)
from shoal.trace.late import Late, behind, late_for
from shoal.trace.network import link_trouble
from shoal.trace.rdma_trouble import rdma_trouble, undriven_queues

SECOND_TRIES = ("packet_loss", "receiver_not_ready")
# The thread is asleep, or stopped, at one moment; eBPF says since when.
ASLEEP = frozenset({"sleeping", "blocked", "slow_syscall", "stopped", "frozen"})
LONG = 0.5  # of the time that the others have waited


@dataclass(frozen=True)
class Verdict:
    rank: int  # world rank of the root; -1: unknown
    host: str
    pid: int
    cause: str
    since_ms: int
    job: str
    communicator: int
    collective: str
    sequence: int
    evidence: list[str]
    missing: list[str] = field(default_factory=list)
    provisional: bool = False


def _caller(page: Page) -> int:
    """The thread that posts this rank's operations, as far as is known."""
    return page.caller or page.pid


def _waits_in(page: Page) -> Operation | Transfer | None:
    """The oldest operation that this rank waits for itself."""
    candidates: list[Operation | Transfer] = [
        o for o in page.operations if o.in_flight and o.begin_ns > 0
    ]
    candidates += page.transfers
    return min(candidates, key=lambda o: o.begin_ns, default=None)


def _finding_behind(
    ev: Evidence, late: Late, pages: list[Page], path: tuple[int, ...]
) -> tuple[Page | None, Finding]:
    """Of those who have not posted: the root, and why."""
    for page in pages:
        trouble = process_trouble(ev, page)
        if trouble is not None:
            return page, trouble
    # Who waits in another operation is a victim of that one.
    free = [page for page in pages if not page.waits]
    if free:
        findings = [(page, thread_finding(ev, page, _caller(page))) for page in free[:4]]
        known = [one for one in findings if one[1].cause != "unknown"]
        return (known or findings)[0]
    page = pages[0]
    waits = _waits_in(page)
    assert waits is not None
    if page.rank in path:
        names = " -> ".join(str(rank) for rank in (*path[path.index(page.rank) :], page.rank))
        return page, Finding("deadlock", (f"ranks wait for one another: {names}",))
    return _root(ev, late_for(page, waits), (*path, page.rank))


def _describe_gap(late: Late, page: Page) -> str:
    if late.first < 0:
        return f"rank {page.rank} has not posted the other half of it"
    row = page.progress(late.key)
    posted = row.posted if row is not None else 0
    return (
        f"rank {page.rank} has posted #{posted} of communicator {late.communicator}, "
        f"others #{late.sequence}"
    )


def _root(ev: Evidence, late: Late, path: tuple[int, ...] = ()) -> tuple[Page | None, Finding]:
    pages = behind(ev.after.pages, late)
    if pages:
        page, found = _finding_behind(ev, late, pages, path or late.waiting[:1])
        if found.cause == "deadlock" or path:
            return page, found
        victim = f"rank {pages[0].rank} has not posted it: it waits itself"
        is_first = page is not None and page in pages
        return page, found.after(_describe_gap(late, page) if page and is_first else victim)
    return _root_of_posted(ev, late, path)


def _root_of_posted(ev: Evidence, late: Late, path: tuple[int, ...]) -> tuple[Page | None, Finding]:
    """All ranks that can be seen have posted it. The last of `path` is in it, and is waited for
    elsewhere."""
    awaited = _awaited(ev, late)
    members = [page for page in ev.after.pages.values()
               if late.first < 0 or page.progress(late.key) is not None]  # fmt: skip
    # Whom others wait for comes first, whoever waits longest last.
    members.sort(key=lambda page: (-awaited.count(page.rank), page.rank))
    if late.first < 0:
        members = [page for page in members if page.rank in (*awaited, *late.waiting)]
    for page in members:
        trouble = process_trouble(ev, page)
        if trouble is not None:
            return page, _posted(late, page, trouble)
    for page in members:
        if page.drivers == 0 and _still_in(page, late):
            return page, _posted(late, page, _undriven(ev, late, page))
    network = rdma_trouble(ev, late) or link_trouble(ev, late)
    if network is not None:
        return network
    # Nobody waits any more for who is through; who is alone in it waits for nobody.
    inside = [page for page in members if _still_in(page, late)]
    for page in inside:
        if page.rank not in (*awaited, *path[-1:]) and len(inside) > 1:
            continue
        trouble = preempted(ev, page, page.driver or page.pid)
        if trouble is not None:
            return page, _posted(late, page, trouble)
    return None, _nothing_found(ev, late)


def _awaited(ev: Evidence, late: Late) -> list[int]:
    """Whom those wait for who are in it now, a rank as often as it is named: when it was found to
    be late, some had hardly begun to wait."""
    now = [o.awaited_peer for page in ev.after.pages.values() for o in _of(page, late)]
    return [rank for rank in now or late.awaited if rank >= 0]


def _of(page: Page, late: Late) -> list[Operation]:
    """It, as long as this rank is in it; a send or receive is none."""
    if late.first < 0:
        return []
    return [o for o in page.operations if o.in_flight and o.communicator == late.communicator
            and o.sequence == late.sequence]  # fmt: skip


def _still_in(page: Page, late: Late) -> bool:
    if late.first < 0:
        return bool(page.transfers)
    return bool(_of(page, late))


def _posted(late: Late, page: Page, found: Finding) -> Finding:
    operation = f"{late.collective} #{late.sequence}"
    return found.after(f"all ranks have posted {operation}; rank {page.rank} is not through")


def _undriven(ev: Evidence, late: Late, page: Page) -> Finding:
    """It has posted an operation, and none of its threads drives it."""
    thread = thread_finding(ev, page, _caller(page))
    unread = sum(after.unread_bytes for _, after in ev.links(page.pid))
    evidence = [f"rank {page.rank} has posted it, and no thread of it waits for it or drives it"]
    if unread:
        evidence.append(f"{unread} bytes have come and are not read")
    cause, queues = undriven_queues(ev, late, page)
    # A queue pair in error stays in it, whatever its thread is at.
    own = ("computing", "sleeping", "blocked", "unknown", "slow_syscall")
    if cause == "qp_error" or thread.cause in own:
        if (cause, thread.cause) == ("slow_receiver", "slow_syscall"):
            cause = thread.cause  # it would receive, but the kernel has not returned to it
        return Finding(cause, (*evidence, *queues, *thread.evidence), thread.missing)
    return Finding(thread.cause, (*evidence, *thread.evidence), thread.missing)


def _nothing_found(ev: Evidence, late: Late) -> Finding:
    missing = list(ev.missing)
    absent = sorted({rank for rank in late.awaited if rank >= 0 and ev.page(rank) is None})
    if absent:
        names = ", ".join(str(rank) for rank in absent)
        missing.insert(0, f"the pages of rank {names}: on another host; run shoal trace there")
    elif not absent and late.first >= 0:
        sizes = [row.ranks for page in ev.after.pages.values()
                 if (row := page.progress(late.key)) is not None]  # fmt: skip
        unseen = max(sizes, default=0) - len(sizes)
        if unseen > 0:
            missing.insert(0, f"the pages of {unseen} ranks: on other hosts; run shoal trace there")
    return Finding("unknown", (f"all ranks seen have posted {late.collective} #{late.sequence}",),
                    tuple(missing))  # fmt: skip


def is_moving(ev: Evidence, late: Late) -> bool:
    """It is no standstill but a long operation: all have posted it, and those in it take steps."""
    if late.first < 0 or behind(ev.after.pages, late):
        return False
    for rank in late.waiting:
        before, after = ev.before.pages.get(rank), ev.after.pages.get(rank)
        if before is None or after is None or before.progress(late.key) is None:
            continue
        steps = [[o.step for o in page.operations if o.sequence == late.sequence
                  and o.communicator == late.communicator] for page in (before, after)]  # fmt: skip
        if steps[0] != steps[1]:
            return True
    return False


def judge(ev: Evidence, late: Late) -> Verdict:
    """The verdict on an operation that is late at both moments."""
    page, found = _root(ev, late)
    return _verdict(ev, late, page, found)


def judge_ended(ev: Evidence, late: Late) -> Verdict | None:
    """On an operation that ended between the two moments, by the first alone: who was waited for
    then, if it had been in one sleep for most of the time that the others had waited. What it has
    done since does not matter. None: it was in no such sleep, or eBPF has not seen it."""
    page, found = _root(ev.first, late)
    if page is None or found.cause not in ASLEEP:
        return None
    if asleep_ns(ev.before, page) < LONG * (ev.before.t_ns - late.since_ns):
        return None
    return _verdict(ev, late, page, found)


def judge_lost(ev: Evidence, late: Late) -> Verdict | None:
    """On an operation that is through since: all had posted it, and for some of it a second try
    was needed. `ev` has the pages of when it was late."""
    if behind(ev.after.pages, late):
        return None
    network = _second_try(ev, late)
    return None if network is None else _verdict(ev, late, *network)


def _second_try(ev: Evidence, late: Late) -> tuple[Page | None, Finding] | None:
    """Something of it had to be sent again."""
    network = rdma_trouble(ev, late, over=True) or link_trouble(ev, late)
    if network is None or network[1].provisional or network[1].cause not in SECOND_TRIES:
        return None
    return network


def judge_often(
    ev: Evidence, late: Late, page: Page, evidence: str, drives: bool = True, posted: bool = False
) -> Verdict | None:
    """On a rank that has made several operations late, each for a short while; `late`: the last.
    `posted`: in most looks it had; `drives`: not so if then no thread of it drove them.
    None: nothing is known to have held it over the whole of that time."""
    found = process_trouble(ev, page)
    if found is None and posted and drives:
        network = _second_try(ev, late)
        if network is not None:
            return _verdict(ev, late, network[0], network[1].after(evidence))
    found = found or preempted(ev, page, page.driver or page.pid) or registrations(ev, page)
    if found is None and not drives:
        found = _undriven(ev, late, page)
    if found is None and not posted and not page.waits:
        found = thread_finding(ev, page, _caller(page))
    if found is None or found.cause == "unknown":
        return None
    return _verdict(ev, late, page, found.after(evidence))


def _verdict(ev: Evidence, late: Late, page: Page | None, found: Finding) -> Verdict:
    return Verdict(
        rank=page.rank if page is not None else -1,
        host=page.host if page is not None else "",
        pid=page.pid if page is not None else 0,
        cause=found.cause,
        since_ms=max(0, ev.after.t_ns - late.since_ns) // 1_000_000,
        job=late.job,
        communicator=late.communicator,
        collective=late.collective,
        sequence=late.sequence,
        evidence=[*found.evidence, _who_waits(late)],
        missing=[*found.missing],
        provisional=found.provisional,
    )


def _who_waits(late: Late) -> str:
    ranks = ", ".join(str(rank) for rank in late.waiting[:8])
    more = f" and {len(late.waiting) - 8} more" if len(late.waiting) > 8 else ""
    return f"waiting: rank {ranks}{more}"
