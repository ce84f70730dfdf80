"""What is wrong between two ranks that talk by RDMA: their ports, queue pairs and counters."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.pages import Page
from shoal.trace.evidence import Evidence
from shoal.trace.finding import Finding, in_ms
from shoal.trace.late import Late
from shoal.trace.queues import Queue
from shoal.trace.rdma import CONGESTED, LOST, REFUSED, REFUSES, Port, QueuePair, Sample

# Before so long, nothing is sent again: time-outs are of a second by default.
RETRANSMIT_MS = 1500
SLOW_SEND_S = 1.0  # from posting to completion, of what the queue holds


def _used(ev: Evidence, page: Page) -> list[QueuePair]:
    """Connected queue pairs of a rank, of the kind that messages go by."""
    pairs = ev.after.rdma.pairs.get(page.pid, ())
    return [pair for pair in pairs if pair.type not in ("UD", "GSI", "SMI") and pair.peer > 0]


def _ports(ev: Evidence, page: Page) -> list[Port]:
    """Those it talks by."""
    names = {(pair.device, pair.port) for pair in _used(ev, page)}
    return [port for port in ev.after.rdma.ports if (port.device, port.number) in names]


def _other_end(ev: Evidence, page: Page, pair: QueuePair) -> Page | None:
    """The rank that has the other end. Numbers are of a device: several may fit, then none does."""
    found = [
        other for other in ev.after.pages.values() if other is not page
        for one in _used(ev, other) if (one.number, one.peer) == (pair.peer, pair.number)
    ]  # fmt: skip
    return found[0] if len(found) == 1 else None


def describe(ev: Evidence, page: Page, pair: QueuePair) -> str:
    other = _other_end(ev, page, pair)
    end = f" to rank {other.rank}" if other is not None else ""
    return f"queue pair {pair.number} of rank {page.rank}{end} ({pair.device}/{pair.port})"


def _earlier(ev: Evidence, late: Late) -> Sample:
    """The ports before it was waited for, or as early as they were looked at."""
    first = Sample(ev.before.t_ns, ev.before.rdma.ports)
    samples = [one for one in ev.rdma_history if one.t_ns < first.t_ns] + [first]
    before = [one for one in samples if one.t_ns <= late.since_ns]
    return before[-1] if before else samples[0]


def grown(ev: Evidence, late: Late, page: Page, names: Iterable[str]) -> list[str]:
    """What has been counted at the ports of a rank, in words."""
    sample = _earlier(ev, late)
    earlier = {port.name: port.counters for port in sample.ports}
    texts = []
    for port in _ports(ev, page):
        for name in names:
            more = port.counters.get(name, 0) - earlier.get(port.name, port.counters).get(name, 0)
            if more > 0:
                period = in_ms(ev.after.t_ns - sample.t_ns)
                texts.append(f"{port.name} {name}: {more} more in {period}")
    return texts


def waiting_completions(ev: Evidence, page: Page) -> list[str]:
    """Completion queues of a rank that it has not taken anything from between the two moments,
    though something waited."""
    before = {(q.device, q.place): q for q in ev.before.rdma.queues.get(page.pid) or ()}
    texts = []
    for queue in ev.after.rdma.queues.get(page.pid) or ():
        earlier = before.get((queue.device, queue.place))
        if queue.kind != "completion" or not queue.waiting or earlier is None:
            continue
        if earlier.waiting and earlier.consumed == queue.consumed:
            texts.append(f"{queue.waiting} completions wait in {queue.name}, none has been taken "
                         f"in {in_ms(ev.window_ns)}")  # fmt: skip
    return texts


def undriven_queues(ev: Evidence, late: Late, page: Page) -> tuple[str, list[str]]:
    """(cause, evidence) of the queues of a rank that drives nothing, and is waited for."""
    waiting = waiting_completions(ev, page)
    broken = _qp_error(ev, [page], late)
    if broken is not None:
        return "qp_error", [*broken[1].evidence, *waiting]
    refused = grown(ev, late, page, REFUSES)
    return "receiver_not_ready" if refused else "slow_receiver", waiting + refused


def _stuck_sends(ev: Evidence, page: Page) -> list[Queue]:
    """Send queues in which something is posted, and nothing of it was completed in between."""
    before = {(q.device, q.place): q for q in ev.before.rdma.queues.get(page.pid) or ()}
    return [
        queue for queue in ev.after.rdma.queues.get(page.pid) or ()
        if queue.kind == "send" and queue.waiting
        and (earlier := before.get((queue.device, queue.place))) is not None
        and earlier.waiting and earlier.consumed == queue.consumed
    ]  # fmt: skip


def _slow_sends(ev: Evidence, page: Page) -> list[tuple[Queue, float]]:
    """Send queues that move, and how many seconds each send takes: of a queue that holds so many
    while so many are completed, by Little's law."""
    before = {(q.device, q.place): q for q in ev.before.rdma.queues.get(page.pid) or ()}
    slow = []
    for queue in ev.after.rdma.queues.get(page.pid) or ():
        earlier = before.get((queue.device, queue.place))
        if queue.kind != "send" or earlier is None or not (queue.waiting and earlier.waiting):
            continue
        completed = (queue.consumed - earlier.consumed) % queue.entries
        held = (queue.waiting + earlier.waiting) / 2
        if completed and held / completed * ev.window_ns / 1e9 >= SLOW_SEND_S:
            slow.append((queue, held / completed * ev.window_ns / 1e9))
    return slow


def _all_sent(ev: Evidence, pages: list[Page]) -> bool:
    """Send queues can be seen, and what is in them leaves: whatever was counted, nothing waits for
    it."""
    queues = [q for page in pages for q in ev.after.rdma.queues.get(page.pid) or ()]
    seen = any(queue.kind == "send" for queue in queues)
    return seen and not any(_stuck_sends(ev, page) or _slow_sends(ev, page) for page in pages)


def exhausted(ev: Evidence, page: Page) -> list[str]:
    """Limits of its cgroups that leave it nothing more."""
    return [
        f"cgroup {limit.path} lets it have {limit.most} {limit.what} of {limit.device} (rdma.max), "
        f"and {limit.used} are in use"
        for limit in ev.after.rdma.limits.get(page.pid, ()) if limit.used >= limit.most
    ]  # fmt: skip


# ---- the causes, in the order in which one may be behind the others

Trouble = tuple[Page | None, Finding]


def _link_down(ev: Evidence, pages: list[Page], late: Late) -> Trouble | None:
    found: list[tuple[int, Page, str]] = []
    for page in pages:
        for port in _ports(ev, page):
            if not port.up:  # nearer to the root than a link that is gone at the other end
                text = f"interface {port.interface} of {port.name} is down"
                found.append((0, page, text))
            elif not port.carrier:
                found.append((1, page, f"interface {port.interface} of {port.name} has no carrier"))
            elif port.state != "ACTIVE":
                found.append((1, page, f"port {port.name} is {port.state} ({port.physical})"))
    if not found:
        return None
    _, page, text = min(found, key=lambda one: one[0])
    return page, Finding("link_down", (text,))


def _qp_error(ev: Evidence, pages: list[Page], late: Late) -> Trouble | None:
    for page in pages:
        for pair in _used(ev, page):
            if pair.state in ("ERR", "SQE"):
                text = f"{describe(ev, page, pair)} is in state {pair.state}"
                return page, Finding("qp_error", (text, *grown(ev, late, page, (*LOST, *REFUSED))))
    return None


def _receiver_not_ready(ev: Evidence, pages: list[Page], late: Late) -> Trouble | None:
    for page in pages:
        texts = grown(ev, late, page, REFUSES)
        if texts:
            why = f"rank {page.rank} had no receive posted for what came"
            return page, Finding("receiver_not_ready", (why, *texts))
    for page in pages:
        texts = grown(ev, late, page, REFUSED)
        if texts:
            return page, Finding(
                "receiver_not_ready", (f"a peer of rank {page.rank} had no receive posted", *texts),
                ("the peer's own counters: run shoal trace on its host",),
            )  # fmt: skip
    return None


def _packet_loss(ev: Evidence, pages: list[Page], late: Late) -> Trouble | None:
    return None if _all_sent(ev, pages) else _has_lost(ev, pages, late)


def _has_lost(ev: Evidence, pages: list[Page], late: Late) -> Trouble | None:
    seen = [(page, texts) for page in pages if (texts := grown(ev, late, page, LOST))]
    if not seen:
        return None
    # Who sends again is at the link that loses; the other end only counts what comes twice.
    page, texts = max(seen, key=lambda one: (bool(_stuck_sends(ev, one[0])), -pages.index(one[0])))
    stuck = [f"{q.waiting} sends are posted to {q.name} and not completed"
             for q in _stuck_sends(ev, page)]  # fmt: skip
    others = [text for other, more in seen if other is not page for text in more]
    return page, Finding("packet_loss", (*stuck, *texts, *others))


def _congestion(ev: Evidence, pages: list[Page], late: Late) -> Trouble | None:
    if _all_sent(ev, pages):
        return None
    for page in pages:
        stuck = _stuck_sends(ev, page)
        slow = [f"a send of {q.name} takes {seconds:.1f} s" for q, seconds in _slow_sends(ev, page)]
        marks = grown(ev, late, page, CONGESTED)
        if slow:
            nothing = "and nothing has been sent again"
            return page, Finding("congestion", (*slow, *(marks or (nothing,))))
        if not stuck and not marks:
            continue
        sends = [f"{q.waiting} sends are posted to {q.name}, and none was completed in "
                 f"{in_ms(ev.window_ns)}" for q in stuck]  # fmt: skip
        if marks:
            return page, Finding("congestion", (*sends, *marks))
        waited_ms = (ev.after.t_ns - late.since_ns) // 1_000_000
        return page, Finding(
            "congestion", (*sends, "and nothing has been sent again"),
            ("whether packets are lost: a time-out takes a second or more",),
            provisional=waited_ms < RETRANSMIT_MS,
        )  # fmt: skip
    return None


_ORDER = (_link_down, _qp_error, _receiver_not_ready, _packet_loss, _congestion)
_COUNTED = (_receiver_not_ready, _has_lost)


def rdma_trouble(ev: Evidence, late: Late, over: bool = False) -> Trouble | None:
    """Between those who wait and whom they wait for, where they talk by RDMA. `over`: the operation
    is through by now, so that only what was counted says anything."""
    ranks = dict.fromkeys((*late.awaited, *late.waiting))
    pages = [page for rank in ranks if (page := ev.page(rank)) is not None]
    for look in _COUNTED if over else _ORDER:
        found = look(ev, pages, late)
        if found is not None:
            page, finding = found
            limits = exhausted(ev, page) if page is not None else []
            return page, Finding(finding.cause, (*finding.evidence, *limits),
                                 (*finding.missing, *ev.after.rdma.missing),
                                 finding.provisional)  # fmt: skip
    return None
