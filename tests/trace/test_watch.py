"""When the watch calls for a verdict and when not: over looks at pages that the test makes up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest

from shoal.pages import Page
from shoal.trace import watch
from shoal.trace.evidence import Evidence, Moment
from shoal.trace.links import Sample
from shoal.trace.verdict import Verdict
from tests.trace.made_up import (
    MS,
    NOW,
    SLEEP,
    WINDOW,
    World,
    kernel_thread,
    link,
    operation,
    page,
    process,
    waiting_world,
)

Look = Callable[[int], World]  # of the number of the look


class Stage:
    """Stands for Selection and for observe(): what is seen is what `look` makes of each look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, look: Look) -> None:
        self._look = look
        self.looks = 0
        monkeypatch.setattr(watch, "observe", self._observe)
        monkeypatch.setattr(watch, "collect", self._collect)
        monkeypatch.setattr(watch, "WINDOW_S", 0.001)
        monkeypatch.setattr(watch, "SURVEY_S", 0.05)

    def read(self) -> dict[str, list[Page]]:
        self.looks += 1
        return {"job": list(self._look(self.looks).pages.values())}

    def _observe(self, pages: list[Page], *_: object, **__: object) -> Moment:
        world = self._look(self.looks)
        return dataclasses.replace(
            world.evidence().after, pages={one.rank: one for one in pages}, t_ns=NOW
        )

    def _collect(self, before: Moment, after: Moment, *_: object) -> Evidence:
        made = self._look(self.looks).evidence()
        first = dataclasses.replace(made.before, pages=before.pages)
        return dataclasses.replace(made, before=first, after=after)


def verdicts(monkeypatch: pytest.MonkeyPatch, look: Look, seconds: float = 0.4) -> list[Verdict]:
    stage = Stage(monkeypatch, look)
    watcher = watch.Watch(stage, None, 100)  # type: ignore[arg-type]
    return list(watcher.verdicts(time.monotonic() + seconds))


def test_one_stall_is_one_verdict_however_long_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (verdict,) = verdicts(monkeypatch, lambda look: waiting_world(syscall=SLEEP))
    assert (verdict.rank, verdict.cause) == (2, "sleeping")


def test_a_job_that_waits_for_nobody_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts(monkeypatch, lambda look: World(*(page(r, 5, None) for r in range(4)))) == []


def _stepping(look: int, **ends: object) -> World:
    world = World(*(page(r, 5, operation(5, 1 - r, step=look), 2) for r in range(2)))
    world.links_before = {100: (link("a:1", "b:2"),)}
    world.links_after = {100: (link("a:1", "b:2", **ends),)}
    return world


def test_what_takes_steps_is_long_and_not_late_unless_its_link_loses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert verdicts(monkeypatch, _stepping) == []
    loses = {"unsent_bytes": 9000, "retransmits": 5, "timeouts": 1}
    (verdict,) = verdicts(monkeypatch, lambda look: _stepping(look, **loses))
    assert verdict.cause == "packet_loss"


@pytest.mark.parametrize("lost", [0, 3])
def test_one_that_took_steps_in_each_look_and_is_through_was_held_up_if_something_was_lost(
    monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    def look(number: int) -> World:
        if number <= 6:  # three in each round
            return _stepping(number)
        world = World(*(page(r, 5, None, 2) for r in range(2)))
        world.links_before = world.links_after = {100: (link("a:1", "b:2", retransmits=lost),)}
        world.links_history = (Sample(NOW - 900 * MS, {100: (link("a:1", "b:2"),)}),)
        return world

    causes = [one.cause for one in verdicts(monkeypatch, look, 1.0)]
    assert causes == ["packet_loss"] * (lost > 0)


def test_one_that_a_loss_held_up_is_judged_although_it_is_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is late at the first look and over at the second."""

    def look(number: int) -> World:
        waits = operation(5, 1) if number == 1 else None
        world = World(*(page(r, 5, waits and operation(5, 1 - r), 2) for r in range(2)))
        world.links_before = {100: (link("a:1", "b:2", retransmits=2),)}
        world.links_after = {100: (link("a:1", "b:2", retransmits=3),)}
        world.links_history = (Sample(NOW - 900 * MS, {100: (link("a:1", "b:2"),)}),)
        return world

    (verdict,) = verdicts(monkeypatch, look)
    assert verdict.cause == "packet_loss"
    assert any("3 lost segments" in line for line in verdict.evidence)


@pytest.mark.parametrize("lasts", [True, False])
def test_a_provisional_verdict_is_followed_by_another_whether_the_operation_lasts_or_not(
    monkeypatch: pytest.MonkeyPatch, lasts: bool
) -> None:
    """The first is made of the first three looks: bytes under way, and nothing sent again yet."""
    monkeypatch.setattr(watch, "PROVISIONAL_S", 0.2 if lasts else 60)
    silent = link("a:1", "b:2", unsent_bytes=9000, unacked=1)

    def look(number: int) -> World:
        is_in = number <= 3 or lasts
        world = World(*(page(r, 5, operation(5, 1 - r) if is_in else None, 2) for r in range(2)))
        now = silent
        if number > 3:
            now = dataclasses.replace(silent, retransmits=1, timeouts=1)
        if not is_in:
            now = link("a:1", "b:2", retransmits=1)
        world.links_before = {100: (silent,)}
        world.links_after = {100: (now,)}
        world.links_history = (Sample(NOW - 900 * MS, {100: (link("a:1", "b:2"),)}),)
        return world

    found = verdicts(monkeypatch, look, 0.8)
    assert [(one.cause, one.provisional) for one in found] == [
        ("packet_loss", True), ("packet_loss", False),
    ]  # fmt: skip


def test_stalls_that_are_over_before_they_can_be_looked_at_are_judged_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each look sees the next operation late by rank 2, which never gets a core."""

    def look(number: int) -> World:
        pages = [page(r, 5 + number, operation(5 + number, 2)) for r in (0, 1, 3)]
        pages.insert(2, page(2, 4 + number, None))
        world = World(*pages)
        world.after[102] = process(102, state="R", syscall=-1, waiting_ns=90 * MS)
        return world

    found = verdicts(monkeypatch, look, 1.0)
    assert [(one.rank, one.cause) for one in found] == [(2, "preempted")]
    assert any("found rank 2 to be waited for" in line for line in found[0].evidence)


def test_who_waits_itself_in_most_looks_is_no_root_because_it_sleeps_in_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 2 waits in #N-1, whose answer was lost on its way, while the others wait in #N."""

    def look(number: int) -> World:
        pages = [page(r, 5 + number, operation(5 + number, 2)) for r in (0, 1, 3)]
        pages.insert(2, page(2, 4 + number, operation(4 + number, 0, begin_ns=NOW - MS)))
        world = World(*pages)
        world.after[102] = process(102, syscall=SLEEP)
        return world

    def at_last(number: int) -> World:
        world = look(number)
        world.pages[2] = page(2, 4 + number, None)
        return world

    assert [one.cause for one in verdicts(monkeypatch, at_last, 1.0)] == ["sleeping"]
    assert verdicts(monkeypatch, lambda n: look(n) if n % 4 else at_last(n), 1.0) == []


def test_a_rank_that_posts_each_operation_and_then_drives_none_is_a_slow_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(number: int) -> World:
        pages = [page(r, 5 + number, operation(5 + number, 2)) for r in (0, 1, 3)]
        pages.insert(2, page(2, 5 + number, operation(5 + number, 0), drivers=0))
        world = World(*pages)
        world.after[102] = process(102, state="R", syscall=-1, on_cpu_ns=95 * MS, user_ticks=9)
        return world

    found = verdicts(monkeypatch, look, 1.5)
    assert [(one.rank, one.cause) for one in found] == [(2, "slow_receiver")]


@pytest.mark.parametrize(("drivers", "causes"), [(0, ["slow_receiver"]), (1, [])])
def test_a_slow_receiver_is_named_if_two_looks_saw_it_though_it_is_through_by_the_third(
    monkeypatch: pytest.MonkeyPatch, drivers: int, causes: list[str]
) -> None:
    def look(number: int) -> World:
        if number > 2:
            return World(*(page(r, 5, None, 2) for r in range(2)))
        late = page(1, 5, operation(5, 0), 2, drivers=drivers if number == 1 else 0)
        world = World(page(0, 5, operation(5, 1), 2), late)
        world.after[101] = process(101, state="R", syscall=-1, on_cpu_ns=20 * MS, user_ticks=2)
        return world

    assert [one.cause for one in verdicts(monkeypatch, look)] == causes


@pytest.mark.parametrize(("asleep_ms", "causes"), [(300, ["sleeping"]), (4, [])])
def test_a_sleep_that_made_it_late_by_the_first_look_is_named_though_it_is_through_by_the_second(
    monkeypatch: pytest.MonkeyPatch, asleep_ms: int, causes: list[str]
) -> None:
    """The others had waited for 400 ms. By the second look it is through, and computes a little."""

    def look(number: int) -> World:
        world = waiting_world(state="R", syscall=-1, on_cpu_ns=20 * MS)
        if number > 2:
            world.pages = {r: page(r, 5, None) for r in range(4)}
        world.before[102] = process(102, syscall=SLEEP, wait_channel="do_nanosleep")
        since_ns = NOW - WINDOW - asleep_ms * MS
        world.kernel_before = [kernel_thread(102, since_ns=since_ns)]
        return world

    found = verdicts(monkeypatch, look)
    assert [(one.rank, one.cause) for one in found] == [(2, cause) for cause in causes]


def test_sleeps_that_follow_one_another_are_one_stall_though_each_is_over_by_the_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of four looks one finds it late, one sees the sleep, and at two nobody waits."""

    def look(number: int) -> World:
        sequence = 5 + number // 4
        pages = [page(r, sequence, operation(sequence, 2)) for r in (0, 1, 3)]
        pages.insert(2, page(2, sequence - 1, None))
        world = World(*(pages if number % 4 in (1, 2) else (page(r, 5, None) for r in range(4))))
        world.before[102] = process(102, syscall=SLEEP, wait_channel="do_nanosleep")
        world.kernel_before = [kernel_thread(102)]
        return world

    assert [one.cause for one in verdicts(monkeypatch, look, 0.6)] == ["sleeping"]


@pytest.mark.parametrize(("posted_ns", "cause"), [(NOW + MS, "sleeping"), (NOW - MS, "unknown")])
def test_a_rank_that_posts_when_it_has_been_looked_at_is_still_the_one_that_was_waited_for(
    monkeypatch: pytest.MonkeyPatch, posted_ns: int, cause: str
) -> None:
    """The others are in the operation at the second moment too, and so is it. Not so if it posted
    at the first of them: then they have waited for something else since."""

    def look(number: int) -> World:
        if number <= 2:
            return waiting_world(syscall=SLEEP)
        pages = [page(r, 5, operation(5, 2)) for r in (0, 1, 3)]
        world = World(*pages, page(2, 5, operation(5, 0, begin_ns=posted_ns)))
        world.after[102] = process(102, syscall=SLEEP)
        return world

    found = verdicts(monkeypatch, look, 0.05)
    assert [one.cause for one in found] == [cause]
    assert found[0].rank == (2 if cause == "sleeping" else -1)
