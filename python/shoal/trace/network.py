"""What is wrong between two ranks that both go on: the links of those who wait."""

from __future__ import annotations

from shoal.pages import Page
from shoal.trace.evidence import Evidence
from shoal.trace.finding import Finding, in_ms, share
from shoal.trace.late import Late
from shoal.trace.links import Link

RETRANSMIT_MS = 200  # before, TCP sends nothing again: a verdict on a link is provisional
FULL = 0.5  # of the time, the receiver's window
APART_NS = 10_000_000  # two moments that lie so far apart show that nothing moves between them
SLOW_RTT_US, SLOW_RATIO = 50_000, 10  # of a round trip, and how often the shortest fits in it


def link_trouble(ev: Evidence, late: Late) -> tuple[Page | None, Finding] | None:
    """Links that do not carry, one end of which waits or is waited for. The other end may be
    through: it has given all it had to say to its kernel, which sends it again and again."""
    concerned = dict.fromkeys((*late.awaited, *late.waiting))
    pages = [page for rank in concerned if (page := ev.page(rank)) is not None]
    pages += [page for rank, page in ev.after.pages.items() if rank not in concerned]
    ends = {link.name: page for page in pages for link in ev.after.links.get(page.pid) or ()}
    worst: tuple[float, Page, Finding] | None = None
    for page in pages:
        for before, after in ev.links(page.pid):
            other = ends.get((after.remote, after.local))
            if page.rank not in concerned and (other is None or other.rank not in concerned):
                continue
            judged = _judge_link(ev, late, page.pid, before, after)
            if judged is not None and (worst is None or judged[0] > worst[0]):
                weight, found = judged
                end = f"rank {page.rank} to " + (f"rank {other.rank}" if other else after.remote)
                link = f"link of {end} ({after.local} - {after.remote})"
                worst = weight, page, found.after(link)
    return None if worst is None else (worst[1], worst[2])


Judged = tuple[float, Finding]  # the heavier one is nearer to the root


def _judge_link(ev: Evidence, late: Late, pid: int, before: Link, after: Link) -> Judged | None:
    """Of one connection, the first that holds."""
    return (
        _down(after)
        or _loses(ev, late, before, after)
        or _dropped_here(ev, before, after)
        or _has_lost(ev, late, pid, after)
        or _not_ready(ev, before, after)
        or _congested(ev, late, pid, after)
        or _silent(ev, before, after)
    )


def _down(after: Link) -> Judged | None:
    if not after.up:
        return 1000, Finding("link_down", (f"interface {after.interface} is down",))
    if not after.carrier:
        return 900, Finding("link_down", (f"interface {after.interface} has no carrier",))
    return None


def _loses(ev: Evidence, late: Late, before: Link, after: Link) -> Judged | None:
    """Now: something is sent again, and something is not acknowledged."""
    again = after.retransmits - before.retransmits
    if not after.unsent_bytes or not (after.timeouts or again or after.lost):
        return None
    waited_ms = (ev.after.t_ns - late.since_ns) // 1_000_000
    text = (
        f"{after.retransmits} segments sent again in all, {again} in the last "
        f"{in_ms(ev.window_ns)}; {after.timeouts} time-outs in a row; "
        f"{after.lost} held for lost; {after.unsent_bytes} bytes not acknowledged"
    )
    provisional = waited_ms < 2 * RETRANSMIT_MS and not after.timeouts
    return 500 + after.timeouts + again, Finding("packet_loss", (text,), provisional=provisional)


def _dropped_here(ev: Evidence, before: Link, after: Link) -> Judged | None:
    """What a queue or filter of this host drops before it leaves counts as never sent: nothing is
    under way, nothing is sent again, and yet bytes wait."""
    waits = all(link.unsent_bytes and not link.unacked for link in (before, after))
    if not waits or ev.window_ns < APART_NS or _not_ready(ev, before, after):
        return None
    text = (
        f"{after.unsent_bytes} bytes wait to be sent and no segment is under way: this host drops "
        "what the connection sends"
    )
    return 450, Finding("packet_loss", (text,))


def _has_lost(ev: Evidence, late: Late, pid: int, after: Link) -> Judged | None:
    """Since it is waited for: all has got through by now, some of it at a second try. The socket's
    counts since the last look before say it; the kernel's events say when the last one was."""
    t_ns, earlier = ev.link_at(pid, after, late.since_ns)
    again = after.retransmits - earlier.retransmits - (after.needless - earlier.needless)
    seen = ev.after.kernel.links.get(after.name)
    if again <= 0 or (seen is not None and seen.lost_at_ns < late.since_ns):
        return None
    texts = [f"{again} lost segments sent again in the last {in_ms(ev.after.t_ns - t_ns)}"]
    if seen is not None:
        texts.append(f"the last of them {in_ms(ev.after.t_ns - seen.lost_at_ns)} ago")
    return 400 + min(again, 99), Finding("packet_loss", tuple(texts))


def _not_ready(ev: Evidence, before: Link, after: Link) -> Judged | None:
    full_us = after.receiver_full_us - before.receiver_full_us
    if full_us * 1000 <= FULL * ev.window_ns:
        return None
    text = f"the receiver's window was full for {share(full_us * 1000, ev.window_ns)}"
    return 300, Finding("receiver_not_ready", (text,))


def _congested(ev: Evidence, late: Late, pid: int, after: Link) -> Judged | None:
    """A round trip takes very long, and has been far shorter. If meanwhile something was sent again
    that had arrived, its acknowledgement came late, or was lost on its way: another look tells."""
    usual_us = after.least_rtt_us
    if not usual_us or after.rtt_us < max(SLOW_RTT_US, SLOW_RATIO * usual_us):
        return None
    text = (
        f"a round trip takes {after.rtt_us / 1000:.1f} ms, and has taken {usual_us / 1000:.3f} ms"
    )
    _, earlier = ev.link_at(pid, after, late.since_ns)
    is_sure = after.needless == earlier.needless
    missing = "whether acknowledgements are lost: some segments were sent again needlessly"
    return 200, Finding(
        "congestion", (text,), () if is_sure else (missing,), provisional=not is_sure
    )


def _silent(ev: Evidence, before: Link, after: Link) -> Judged | None:
    if not after.unsent_bytes or after.acknowledged_bytes != before.acknowledged_bytes:
        return None
    return 100, Finding(
        "packet_loss",
        (f"{after.unsent_bytes} bytes not acknowledged in {in_ms(ev.window_ns)}",),
        ("whether packets are lost: nothing has been sent again yet",),
        provisional=True,
    )
