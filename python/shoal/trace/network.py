"""What is wrong between two ranks that both go on: the links of those who wait."""

from __future__ import annotations

from shoal.pages import Page
from shoal.trace.evidence import Evidence
from shoal.trace.finding import Finding, in_ms, share
from shoal.trace.late import Late
from shoal.trace.links import Link

RETRANSMIT_MS = 200  # before, TCP sends nothing again: a verdict on a link is provisional
FULL = 0.5  # of the time, the receiver's window


def link_trouble(ev: Evidence, late: Late) -> tuple[Page | None, Finding] | None:
    """Between those who wait and whom they wait for: links of either end that do not carry."""
    ranks = dict.fromkeys((*late.awaited, *late.waiting))
    pages = [page for rank in ranks if (page := ev.page(rank)) is not None]
    worst: tuple[float, Page, Finding] | None = None
    for page in pages:
        for before, after in ev.links(page.pid):
            weight, found = _judge_link(ev, late, before, after)
            if found is not None and (worst is None or weight > worst[0]):
                other = _other_end(ev, after)
                end = f"rank {page.rank} to " + (f"rank {other.rank}" if other else after.remote)
                link = f"link of {end} ({after.local} - {after.remote})"
                worst = weight, page, found.after(link)
    return None if worst is None else (worst[1], worst[2])


def _other_end(ev: Evidence, link: Link) -> Page | None:
    for page in ev.after.pages.values():
        for other in ev.after.links.get(page.pid) or ():
            if other.local == link.remote and other.remote == link.local:
                return page
    return None


def _judge_link(
    ev: Evidence, late: Late, before: Link, after: Link
) -> tuple[float, Finding | None]:
    """(weight, finding) of one connection; the heavier one is nearer to the root."""
    waited_ms = (ev.after.t_ns - late.since_ns) // 1_000_000
    provisional = waited_ms < 2 * RETRANSMIT_MS
    again = after.retransmits - before.retransmits
    if not after.up:
        return 1000, Finding("link_down", (f"interface {after.interface} is down",))
    if not after.carrier:
        return 900, Finding("link_down", (f"interface {after.interface} has no carrier",))
    if after.unsent_bytes > 0 and (after.timeouts > 0 or again > 0 or after.lost > 0):
        return 500 + after.timeouts + again, Finding(
            "packet_loss",
            (
                f"{after.retransmits} segments sent again in all, {again} in the last "
                f"{in_ms(ev.window_ns)}; {after.timeouts} time-outs in a row; "
                f"{after.lost} held for lost; {after.unsent_bytes} bytes not acknowledged",
            ),
            provisional=provisional and after.timeouts == 0,
        )
    full_us = after.receiver_full_us - before.receiver_full_us
    if full_us * 1000 > FULL * ev.window_ns:
        return 300, Finding(
            "receiver_not_ready",
            (f"the receiver's window was full for {share(full_us * 1000, ev.window_ns)}",),
        )
    if after.unsent_bytes > 0 and after.acknowledged_bytes == before.acknowledged_bytes:
        return 100, Finding(
            "packet_loss",
            (f"{after.unsent_bytes} bytes not acknowledged in {in_ms(ev.window_ns)}",),
            ("whether packets are lost: nothing has been sent again yet",),
            provisional=True,
        )
    return 0, None
