"""Watches the jobs of this node and calls for a verdict when a collective is late."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import Counter, deque
from collections.abc import Iterator

from shoal.pages import Page
from shoal.trace import links, rdma
from shoal.trace.evidence import Evidence, Moment, collect, observe
from shoal.trace.host import is_in_kernel, is_running, registrations
from shoal.trace.kernel import Kernel
from shoal.trace.late import Late, behind, find_late, suspect
from shoal.trace.selection import Selection
from shoal.trace.verdict import Verdict, is_moving, judge, judge_ended, judge_lost, judge_often

WINDOW_S = 0.1  # between the two moments of a verdict
PROVISIONAL_S = 0.5  # after which a provisional verdict is made again
# What slows an operation down that still moves; else one that moves is long and not late.
HINDERING = frozenset(
    {"throttled", "packet_loss", "congestion", "link_down", "qp_error", "receiver_not_ready"}
)
NEVER = float("inf")
NOBODY = -1
SHORT_STALLS, OFTEN_S = 3, 2.0  # so many that ended by themselves within so long are looked into
SURVEY_S, SURVEY_STEP_S = 0.4, 0.01
MOST = 0.6  # of the looks
# Measured over the window, so that they hold for an operation that ended within it as well. Of a
# sleep, judge_ended() says whether it was long enough by the first look.
LASTING = frozenset(
    {"throttled", "preempted", "stopped", "frozen", "computing", "memory_registration",
     "congestion", "receiver_not_ready", "page_faults"}
)  # fmt: skip


@dataclasses.dataclass
class Survey:
    """Looks at a job whose operations are late for a short while each: who was waited for?"""

    suspects: Counter[int] = dataclasses.field(default_factory=Counter)  # looks, by rank
    # It had posted the operation, or waited in an earlier one itself.
    posted: Counter[int] = dataclasses.field(default_factory=Counter)
    undriven: Counter[int] = dataclasses.field(default_factory=Counter)  # and did not drive it
    seen: dict[tuple[str, int, int, int, str], Late] = dataclasses.field(default_factory=dict)
    took_s: float = 0.0

    def add(self, page: Page, late: Late, has_posted: bool) -> None:
        self.suspects[page.rank] += 1
        self.posted[page.rank] += has_posted
        self.undriven[page.rank] += page.drivers == 0 and has_posted
        self.seen[late.name] = late

    @property
    def most(self) -> tuple[int, int]:
        """The rank that was waited for in most looks, and in how many."""
        return self.suspects.most_common(1)[0] if self.suspects else (NOBODY, 0)


class Watch:
    """One thread. `kernel`: None to go without eBPF."""

    def __init__(self, selection: Selection, kernel: Kernel | None, after_ms: int) -> None:
        self._selection = selection
        self._kernel = kernel
        self._ports = rdma.History()
        self._links = links.History()
        self._after_ns = after_ms * 1_000_000
        self._interval_s = min(0.1, max(0.01, after_ms / 2000))
        self._again: dict[tuple[str, int, int, int, str], float] = {}  # when to judge once more
        # Those, with the pages of when they were late: they may be over before.
        self._open: dict[tuple[str, int, int, int, str], tuple[Late, list[Page]]] = {}
        self._root: tuple[str, int, str] | None = None  # job, rank, cause of the stall under way
        self._root_is_provisional = False
        self._short: deque[float] = deque(maxlen=SHORT_STALLS)  # when those were that soon ended
        self._took_s = 0.0  # the last judgement: seconds, on an emulated machine
        self.seen = 0  # operations that were late

    def verdicts(self, until: float) -> Iterator[Verdict]:
        """As they come, until time.monotonic() is `until`."""
        while (begin := time.monotonic()) < until:
            jobs = self._selection.read()
            self._look_at_networks(jobs)
            if self._kernel is not None:
                self._kernel.watch(page.pid for pages in jobs.values() for page in pages)
            late = [one for pages in jobs.values() for one in find_late(pages, self._after_ns)]
            if not late and begin > self._short_until():
                self._root = None
            yield from filter(self._is_news, self._judge_open({one.name for one in late}))
            for one in late:
                if time.monotonic() < self._again.get(one.name, 0.0):
                    continue
                started = time.monotonic()
                verdict = self._judge(one, jobs[one.job])
                self._took_s = time.monotonic() - started
                if verdict is not None and self._is_news(verdict):
                    yield verdict
            time.sleep(max(0.0, begin + self._interval_s - time.monotonic()))

    def _look_at_networks(self, jobs: dict[str, list[Page]]) -> None:
        """Before anything is late: what they have counted until then."""
        afar = [p.pid for pages in jobs.values() for p in pages if p.ranks > p.node_ranks]
        if afar:
            self._ports.look()
            self._links.look(afar)

    def _is_news(self, verdict: Verdict) -> bool:
        """Not one more operation that the same stall holds up."""
        root = (verdict.job, verdict.rank, verdict.cause)
        final = self._root_is_provisional and not verdict.provisional
        news = root != self._root or final or verdict.cause == "unknown"
        if news:
            self._root, self._root_is_provisional = root, verdict.provisional
        return news

    def _short_until(self) -> float:
        """So long what is late now and then counts as one stall."""
        return self._short[-1] + self._often_s() if self._short else 0.0

    def _often_s(self) -> float:
        """Of those that follow one another as fast as they can be looked at."""
        return max(OFTEN_S, 2 * SHORT_STALLS * self._took_s)

    def _read(self, late: Late) -> list[Page]:
        return self._selection.read().get(late.job, [])

    def _observe(self, late: Late, otherwise: list[Page]) -> Moment:
        if self._kernel is not None:
            self._kernel.next_sample()
        return observe(self._read(late) or otherwise, self._kernel, cores=True)

    def _judge_open(self, late: set[tuple[str, int, int, int, str]]) -> Iterator[Verdict]:
        """What got a provisional verdict or none, and is over before it was judged once more."""
        for name in self._open.keys() - late:
            one, pages = self._open.pop(name)
            self._again[name] = NEVER
            verdict = self._judge_lost(one, pages, self._observe(one, pages))
            if verdict is not None:
                yield verdict

    def _judge_lost(self, late: Late, pages: list[Page], now: Moment) -> Verdict | None:
        was = dataclasses.replace(now, pages={page.rank: page for page in pages})
        return judge_lost(self._collect(was, was), late)

    def _judge(self, late: Late, pages: list[Page]) -> Verdict | None:
        first = late.name not in self._again
        self.seen += first
        self._open.pop(late.name, None)
        before = self._observe(late, pages)
        if not _is_in(before, late, self._after_ns):
            self._again[late.name] = NEVER
            return self._judge_lost(late, pages, before) or self._judge_short(late, before)
        page = suspect(before.pages, late)
        with self._looking_at_syscalls(page is not None and is_running(before, page)):
            evidence, lasts = self._compare(late, before)
        if lasts and self._spends_time_in_kernel(evidence, late):
            evidence, lasts = self._look_into_kernel(evidence, late)
        verdict = judge(evidence, late)
        hindered = verdict.cause in HINDERING and not verdict.provisional
        if is_moving(evidence, late) and not hindered:
            self._open[late.name] = late, pages  # when it is through, something may have been lost
            return None
        again = lasts and verdict.provisional and first
        self._again[late.name] = time.monotonic() + PROVISIONAL_S if again else NEVER
        if again:
            self._open[late.name] = late, pages
        return verdict if lasts else self._judge_ended(late, pages, evidence, verdict)

    def _judge_ended(
        self, late: Late, found: list[Page], evidence: Evidence, verdict: Verdict
    ) -> Verdict | None:
        """It was over by the second look; `verdict` is of what has been since, too."""
        ended = judge_ended(evidence, late)
        if ended is not None:
            self._short.append(time.monotonic())  # the next that soon follows is the same stall
            return ended
        if verdict.cause in LASTING or _was_undriven(verdict, found, evidence.before):
            return verdict
        return judge_lost(evidence, late) or self._judge_short(late, evidence.after)

    def _spends_time_in_kernel(self, evidence: Evidence, late: Late) -> bool:
        """And the system calls that have been seen do not say with what."""
        page = suspect(evidence.after.pages, late)
        if self._kernel is None or page is None or not is_in_kernel(evidence, page):
            return False
        return registrations(evidence, page) is None

    def _look_into_kernel(self, first: Evidence, late: Late) -> tuple[Evidence, bool]:
        """Once more, with system calls from the begin on. `first` holds if it is over by then."""
        with self._looking_at_syscalls(True):
            before = self._observe(late, list(first.after.pages.values()))
            second, lasts = self._compare(late, before)
        page = suspect(second.after.pages, late)
        if lasts or (page is not None and registrations(second, page) is not None):
            return second, lasts
        return dataclasses.replace(first, python_line=_too_late), True

    @contextlib.contextmanager
    def _looking_at_syscalls(self, on: bool) -> Iterator[None]:
        if on and self._kernel is not None:
            self._kernel.look_at_syscalls(True)
        try:
            yield
        finally:
            if on and self._kernel is not None:
                self._kernel.look_at_syscalls(False)

    def _compare(self, late: Late, before: Moment) -> tuple[Evidence, bool]:
        """`before` and a later moment; and whether the operation is still in flight then."""
        time.sleep(WINDOW_S)
        after = self._observe(late, list(before.pages.values()))
        lasts = _is_in(after, late, self._after_ns)
        has_gone_on = not lasts or _has_just_posted(before, after, late)
        if has_gone_on:
            after = dataclasses.replace(after, pages=before.pages)
        evidence = self._collect(before, after)
        if has_gone_on:
            evidence = dataclasses.replace(evidence, python_line=_too_late)
        return evidence, lasts

    def _collect(self, before: Moment, after: Moment) -> Evidence:
        return collect(before, after, self._kernel, self._ports.samples(), self._links.samples())

    def _judge_short(self, late: Late, now: Moment) -> Verdict | None:
        """It was over before it could be looked at. If that happens often: who is it each time?"""
        self._short.append(time.monotonic())
        if len(self._short) < SHORT_STALLS or self._short[-1] - self._short[0] > self._often_s():
            return None
        with self._looking_at_syscalls(True):
            before = self._observe(late, list(now.pages.values()))
            survey = self._survey(late)
            after = self._observe(late, list(now.pages.values()))
        rank, times = survey.most
        if rank not in after.pages or times < MOST * survey.suspects.total():
            return None  # now this one, now that one: of that nobody is the root
        text = (
            f"of {survey.suspects.total()} looks in {1000 * survey.took_s:.0f} ms at which "
            f"somebody waited, {times} found rank {rank} to be waited for, "
            f"in {len(survey.seen)} operations"
        )
        last = list(survey.seen.values())[-1]
        return judge_often(
            self._collect(before, after), last, after.pages[rank], text,
            drives=survey.undriven[rank] < MOST * times,
            posted=survey.posted[rank] >= MOST * times,
        )  # fmt: skip

    def _survey(self, late: Late) -> Survey:
        """Looks again and again, until the suspect is waited for: between two of its stalls a rank
        does something else than in them."""
        survey = Survey()
        least_s = max(SURVEY_S, 4e-9 * self._after_ns)
        begin = time.monotonic()
        while True:
            waited_for = NOBODY
            pages = {page.rank: page for page in self._read(late)}
            for one in find_late(pages.values(), self._after_ns // 2)[:1]:
                page = suspect(pages, one)
                if page is not None:
                    waited_for = page.rank
                    survey.add(page, one, bool(page.waits) or not behind(pages, one))
            survey.took_s = time.monotonic() - begin
            is_held = waited_for == survey.most[0]
            if survey.took_s > 2 * least_s or (survey.took_s > least_s and is_held):
                return survey
            time.sleep(SURVEY_STEP_S)


def _too_late(pid: int, tid: int) -> tuple[str, str]:
    return "", "the Python line: the operation was over before it could be asked for"


def _was_undriven(verdict: Verdict, found: list[Page], before: Moment) -> bool:
    """Of a slow receiver: when the operation was found to be late, and a look later."""
    looks = ({page.rank: page for page in found}, before.pages)
    return verdict.cause == "slow_receiver" and all(
        (page := pages.get(verdict.rank)) is not None and page.drivers == 0 for pages in looks
    )


def _is_in(moment: Moment, late: Late, after_ns: int) -> bool:
    return any(one.name == late.name for one in find_late(moment.pages.values(), after_ns))


def _has_just_posted(before: Moment, after: Moment, late: Late) -> bool:
    """Who was waited for has gone on, but only after most of the time between the two moments: the
    others, who are still in the operation, waited for what held that rank."""
    held = behind(before.pages, late)
    if not held or behind(after.pages, late):
        return False
    page = after.pages[held[0].rank]
    posted_ns = [
        one.begin_ns
        for one in page.operations
        if (one.communicator, one.sequence) == (late.communicator, late.sequence)
    ]
    # Without a record of it: it was over at once, as the others had posted.
    return all(2 * one > before.t_ns + after.t_ns for one in posted_ns if one > 0)


def own_cpu_s(kernel: Kernel | None) -> float:
    """CPU time of this process, of its children that have ended, and of shoal-tracer."""
    times = os.times()
    helper_ns = kernel.next_sample().raw.get("own_cpu_ns", 0) if kernel is not None else 0
    return times.user + times.system + helper_ns / 1e9
