"""The verdict is a pure function: each cause is found in evidence made up for it, and nothing else
than what the evidence carries is said."""

from __future__ import annotations

import dataclasses

import pytest

from shoal.trace.cgroups import Cgroup
from shoal.trace.kernel import KernelLink, Signal, parse_sample
from shoal.trace.late import find_late, suspect
from shoal.trace.links import Sample
from shoal.trace.processes import Process
from shoal.trace.verdict import Verdict, is_moving, judge, judge_ended, judge_lost, judge_often
from tests.trace.made_up import (
    FLOCK,
    FUTEX,
    MS,
    NOW,
    SLEEP,
    WINDOW,
    World,
    kernel_thread,
    link,
    operation,
    page,
    preemptor,
    process,
    row,
    transfer,
    waiting_world,
)  # fmt: skip


def verdict_of(world: World) -> Verdict:
    late = find_late(world.pages.values(), 100 * MS)
    assert late, "nothing is late"
    return judge(world.evidence(), late[0])


def says(verdict: Verdict, *texts: str) -> bool:
    return all(any(text in line for line in verdict.evidence) for text in texts)


def test_nothing_is_late_before_its_time() -> None:
    world = waiting_world()
    assert find_late(world.pages.values(), 501 * MS) == []
    (late,) = find_late(world.pages.values(), 499 * MS)
    assert late.waiting == (0, 1, 3) and late.sequence == 5 and late.name[0] == "job"


def test_who_has_not_posted_is_named_with_its_line() -> None:
    verdict = verdict_of(waiting_world(syscall=SLEEP))
    assert (verdict.rank, verdict.cause, verdict.pid, verdict.host) == (2, "sleeping", 102, "here")
    assert verdict.collective == "all_reduce" and verdict.sequence == 5
    assert verdict.since_ms == 500
    assert says(verdict, "posted #4", "clock_nanosleep", "load (train.py:102)", "rank 0, 1, 3")


@pytest.mark.parametrize(
    ("thread", "cause"),
    [
        ({"syscall": SLEEP}, "sleeping"),
        ({"syscall": 23}, "sleeping"),  # select without descriptors
        ({"syscall": 7, "syscall_arguments": (3,) * 6}, "blocked"),  # poll
        ({}, "blocked"),  # futex
        ({"syscall": FLOCK}, "slow_syscall"),
        ({"state": "R", "syscall": -1, "on_cpu_ns": 90 * MS, "user_ticks": 9}, "computing"),
        ({"state": "R", "syscall": -1, "waiting_ns": 80 * MS}, "preempted"),
        ({"state": "R", "syscall": -1, "on_cpu_ns": 60 * MS}, "computing"),
        (
            {"state": "R", "syscall": -1, "on_cpu_ns": 90 * MS, "system_ticks": 9,
             "minor_faults": 20_000},
            "page_faults",
        ),
        ({"state": "D", "syscall": -1, "major_faults": 50}, "page_faults"),
        ({"state": "T"}, "stopped"),
        ({"state": "Z"}, "died"),
    ],
)  # fmt: skip
def test_what_its_thread_does_is_the_cause(thread: dict[str, object], cause: str) -> None:
    verdict = verdict_of(waiting_world(**thread))
    assert (verdict.rank, verdict.cause) == (2, cause), verdict


def test_a_rank_that_never_gets_a_core_is_seen_although_its_wait_is_not_added_up_yet() -> None:
    world = waiting_world(state="R", syscall=-1, on_cpu_ns=MS)
    world.before[102] = process(102, state="R", syscall=-1)
    verdict = verdict_of(world)
    assert verdict.cause == "preempted" and says(verdict, "99 % of 100 ms, and ran 1 ms")


def test_a_wait_that_ebpf_has_counted_is_one_though_proc_has_not_added_it_up_yet() -> None:
    """It had the core for two slices, and waits between hogs since."""
    world = waiting_world(state="R", syscall=-1, on_cpu_ns=30 * MS)
    world.before[102] = process(102, state="R", syscall=-1)
    assert verdict_of(world).cause == "computing"
    world.kernel_before = [kernel_thread(102, state="r", waiting_ns=7 * MS)]
    world.kernel_after = [kernel_thread(102, state="r", waiting_ns=77 * MS)]
    verdict = verdict_of(world)
    assert verdict.cause == "preempted" and says(verdict, "70 % of 100 ms, and ran 30 ms")


def test_who_ran_all_the_time_has_not_waited_for_a_core_whatever_another_moment_saw() -> None:
    world = waiting_world(state="R", syscall=-1, on_cpu_ns=98 * MS, waiting_ns=3 * MS)
    world.kernel_before = [kernel_thread(102, state="r", waiting_ns=7 * MS)]
    world.kernel_after = [kernel_thread(102, state="r", waiting_ns=83 * MS)]
    assert verdict_of(world).cause == "computing"


@pytest.mark.parametrize(
    "now",
    [
        {"state": "R", "syscall": -1, "on_cpu_ns": 2 * MS},  # computes again
        {"state": "S", "syscall": SLEEP},  # sleeps 4 ms in each step
    ],
)
def test_what_a_thread_slept_in_for_most_of_the_time_counts_and_not_what_it_has_begun_since(
    now: dict[str, object],
) -> None:
    world = waiting_world(**now)  # at the first moment it waited for a lock
    world.kernel_before = [kernel_thread(102, since_ns=NOW - 400 * MS)]
    world.kernel_after = [kernel_thread(102, since_ns=NOW - 3 * MS)]
    verdict = verdict_of(world)
    assert verdict.cause == "blocked"
    assert says(verdict, "was asleep (state S) in futex for 300 ms")
    assert any("it has gone on since" in line for line in verdict.missing)
    if now["state"] == "S":
        world.kernel_after = [kernel_thread(102, since_ns=NOW - 60 * MS)]
        assert verdict_of(world).cause == "sleeping"


@pytest.mark.parametrize(
    "sample",
    [
        {"since_ns": NOW - 400 * MS},  # the sleep of the first moment
        {"since_ns": NOW - 8 * MS, "state": "R"},
    ],
)
def test_a_sample_older_than_the_sleep_that_proc_shows_does_not_make_that_one_long(
    sample: dict[str, object],
) -> None:
    """It had the lock between eBPF's second sample and the second look at /proc."""
    world = waiting_world(syscall=SLEEP)
    world.kernel_before = [kernel_thread(102, since_ns=NOW - 400 * MS)]
    world.kernel_after = [kernel_thread(102, **sample)]
    verdict = verdict_of(world)
    assert verdict.cause == "blocked"
    assert says(verdict, "was asleep (state S) in futex for 300 ms")


@pytest.mark.parametrize(
    ("then", "cause"),
    [
        (process(102, Cgroup("/jobs/a", "", True), syscall=SLEEP), "frozen"),
        (process(102, state="T", syscall=-1), "stopped"),
    ],
)
def test_who_goes_on_after_most_of_the_time_was_held_by_what_held_its_process(
    then: Process, cause: str
) -> None:
    world = waiting_world(state="R", syscall=-1)
    world.before[102] = then
    assert verdict_of(world).cause == cause


def _ended_world(asleep_ms: int, *cgroups: Cgroup, **changes: object) -> World:
    """#5 is over by the second moment, and rank 2 computes; at the first it had slept for so long,
    and the others had waited for 400 ms."""
    world = waiting_world(state="R", syscall=-1, on_cpu_ns=20 * MS)
    world.before[102] = process(102, *cgroups, **{"wait_channel": "futex_do_wait"} | changes)
    stack = ("futex_do_wait", "futex_wait")
    world.kernel_before = [kernel_thread(102, since_ns=NOW - WINDOW - asleep_ms * MS, stack=stack)]
    world.kernel_after = [kernel_thread(102, since_ns=NOW - 5 * MS, state="R")]
    return world


def _judge_ended(world: World) -> Verdict | None:
    (late,) = find_late(world.pages.values(), 100 * MS)
    return judge_ended(world.evidence(), late)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [({"syscall": FUTEX}, "blocked"), ({"syscall": SLEEP}, "sleeping"), ({"state": "T"}, "stopped"),
     ({"syscall": FLOCK, "state": "D"}, "slow_syscall")],
)  # fmt: skip
def test_one_sleep_for_most_of_the_wait_is_the_cause_of_what_ended_after_one_look(
    changes: dict[str, object], cause: str
) -> None:
    verdict = _judge_ended(_ended_world(210, **changes))
    assert verdict is not None and (verdict.rank, verdict.cause) == (2, cause)
    assert verdict.since_ms == 500, "until now: when it ended is not known"
    if cause != "stopped":
        assert says(verdict, "posted #4", "was asleep", "for 210 ms")


def test_a_frozen_rank_is_named_although_it_is_thawed_and_through_by_the_second_look() -> None:
    verdict = _judge_ended(_ended_world(390, Cgroup("/jobs/a", "", True)))
    assert verdict is not None and (verdict.rank, verdict.cause) == (2, "frozen")


@pytest.mark.parametrize(
    ("asleep_ms", "changes"),
    [
        (4, {}),  # between two steps: something else has made it late
        (190, {}),
        (390, {"wait_channel": "hrtimer_nanosleep"}),  # it had gone on from the sleep of the sample
        (390, {"wait_channel": ""}),  # not known
        (390, {"state": "R", "syscall": -1}),
    ],
)
def test_what_ended_after_one_look_has_no_cause_that_this_look_does_not_bear_out(
    asleep_ms: int, changes: dict[str, object]
) -> None:
    assert _judge_ended(_ended_world(asleep_ms, **changes)) is None


def test_what_ended_after_one_look_has_no_cause_without_ebpf() -> None:
    world = _ended_world(390)
    world.kernel_before = []
    assert _judge_ended(world) is None


def test_the_sender_of_a_stop_is_named_if_it_was_seen_and_missing_if_not() -> None:
    world = waiting_world(state="T")
    verdict = verdict_of(world)
    assert any("who stopped it" in line for line in verdict.missing)
    world.signals = (Signal(NOW - 300 * MS, 102, 19, "SIGSTOP", 77, "bash"),)
    verdict = verdict_of(world)
    assert says(verdict, "signal 19 (SIGSTOP) from pid 77 (bash), 300 ms ago")
    assert verdict.missing == []


def test_a_stopped_rank_is_named_that_has_posted_what_the_others_wait_for() -> None:
    world = World(*(page(r, 5, operation(5, 1)) for r in range(4)))
    world.after[101] = process(101, state="T")
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (1, "stopped") and says(verdict, "is not through")


def test_throttling_is_told_with_the_quota() -> None:
    group = Cgroup("/jobs/a", "", False, 1000, 10, 2000, 100_000)
    world = waiting_world(state="R", syscall=-1)
    world.before[102] = process(102, group)
    late = dataclasses.replace(group, throttled_us=96_000, throttled_periods=11)
    world.after[102] = process(102, late, state="R", syscall=-1)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (2, "throttled")
    assert says(verdict, "/jobs/a", "95 ms in 100 ms", "2000 us of CPU in 100000 us")


def test_a_quota_that_does_not_hold_it_up_is_no_cause() -> None:
    group = Cgroup("/jobs/a", "", False, 1000, 10, 2000, 100_000)
    world = waiting_world(syscall=SLEEP)
    world.before[102] = process(102, group)
    world.after[102] = process(102, group, syscall=SLEEP)
    assert verdict_of(world).cause == "sleeping"


def test_a_frozen_cgroup_is_the_cause_although_its_threads_seem_to_sleep() -> None:
    world = waiting_world()
    world.after[102] = process(102, Cgroup("/jobs/a", "", True))
    assert verdict_of(world).cause == "frozen"


def test_who_had_the_core_comes_from_the_kernel_or_else_from_proc() -> None:
    world = waiting_world(state="R", syscall=-1, waiting_ns=80 * MS)
    assert any("who had the core" in line for line in verdict_of(world).missing)
    world.cores_before = {55: ("hog", 0, 0), 56: ("elsewhere", 1, 0)}
    world.cores_after = {55: ("hog", 0, 70 * MS), 56: ("elsewhere", 1, 90 * MS)}
    verdict = verdict_of(world)
    assert says(verdict, "hog (tid 55) 70 ms") and not says(verdict, "elsewhere")
    earlier = preemptor("old", 500, 998)
    world.kernel_before = [kernel_thread(102, preempted_by=(earlier,))]
    world.kernel_after = [kernel_thread(102, preempted_by=(earlier, preemptor("stress", 75)))]
    verdict = verdict_of(world)
    assert says(verdict, "stress (pid 999) 75 ms") and not says(verdict, "old")


def test_who_never_gets_the_core_is_preempted_although_the_kernel_has_counted_no_wait() -> None:
    world = waiting_world(state="R", syscall=-1)
    world.before[102] = process(102, state="R", syscall=-1)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (2, "preempted"), verdict


def test_who_is_preempted_in_an_operation_that_the_others_have_done_is_named() -> None:
    world = World(*(page(r, 5, operation(5, 1) if r == 2 else None) for r in range(4)))
    for moment in (world.before, world.after):
        for rank in (1, 2):  # 2 says that it waits for 1, but 1 is through
            moment[100 + rank] = process(100 + rank, state="R", syscall=-1)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (2, "preempted"), verdict


def test_who_began_to_wait_first_is_named_if_the_others_wait_for_it_since() -> None:
    """Rank 2 was the first to wait, for one who had not come; now it has no core to look."""
    pages = [page(r, 5, operation(5, 0 if r == 2 else 2)) for r in range(4)]
    world = World(*pages)
    for moment in (world.before, world.after):
        moment[102] = process(102, state="R", syscall=-1)
    late = find_late([pages[2]], MS)[0]
    assert (late.waiting, late.awaited) == ((2,), (0,))
    verdict = judge(world.evidence(), late)
    assert (verdict.rank, verdict.cause) == (2, "preempted"), verdict


def test_registering_memory_is_told_from_other_time_in_the_kernel() -> None:
    world = waiting_world(state="R", syscall=-1, on_cpu_ns=90 * MS, system_ticks=9)
    world.kernel_before = [kernel_thread(102, syscalls={"mlock": (10, 5 * MS)})]
    world.kernel_after = [kernel_thread(102, syscalls={"mlock": (40, 75 * MS)})]
    verdict = verdict_of(world)
    assert verdict.cause == "memory_registration" and says(verdict, "30 calls of mlock: 70 %")
    world.kernel_after = [kernel_thread(102, syscalls={"mlock": (11, 6 * MS)})]
    assert verdict_of(world).cause == "computing"


def test_the_walk_goes_on_where_the_late_rank_waits_itself() -> None:
    """Rank 2 is a victim: it waits for rank 3 in a communicator of the two."""
    pages = [page(r, 5, operation(5, 2)) for r in (0, 1)]
    inner = operation(9, 3, communicator=1)
    both = {2: (row(4, 2), row(9, 0, 2, 1, 2)), 3: (row(4, 3), row(8, 1, 2, 1, 2))}
    pages.append(page(2, 4, inner, communicators=both[2]))
    pages.append(page(3, 4, None, communicators=both[3]))
    world = World(*pages)
    world.after[103] = process(103, syscall=SLEEP)
    late = next(one for one in find_late(world.pages.values(), MS) if one.communicator == 0)
    verdict = judge(world.evidence(), late)
    assert (verdict.rank, verdict.cause, verdict.sequence) == (3, "sleeping", 5), verdict


def test_ranks_that_wait_for_one_another_are_a_deadlock() -> None:
    world = World(page(0, 4, transfer("recv", 1), 2), page(1, 4, transfer("recv", 0), 2))
    verdict = verdict_of(world)
    assert verdict.cause == "deadlock" and says(verdict, "wait for one another")


def test_a_receive_waits_for_a_rank_that_does_not_send() -> None:
    world = World(page(0, 4, transfer("recv", 1), 2), page(1, 4, None, 2))
    world.after[101] = process(101, syscall=SLEEP)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause, verdict.collective) == (1, "sleeping", "recv")


def test_who_posts_and_then_drives_nothing_is_a_slow_receiver() -> None:
    world = World(
        page(0, 5, operation(5, 1), 2), page(1, 5, operation(5, 0), 2, drivers=0)
    )  # fmt: skip
    world.after[101] = process(101, state="R", syscall=-1, on_cpu_ns=95 * MS, user_ticks=9)
    world.links_after = {101: (link("b:2", "a:1", unread_bytes=65536),)}
    world.links_before = dict(world.links_after)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (1, "slow_receiver")
    assert says(verdict, "no thread of it waits", "65536 bytes have come", "load (train.py:101)")


def test_who_posts_and_is_then_held_by_a_system_call_is_that() -> None:
    world = World(
        page(0, 5, operation(5, 1), 2), page(1, 5, operation(5, 0), 2, drivers=0)
    )  # fmt: skip
    world.after[101] = process(101, state="D", syscall=28)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (1, "slow_syscall")
    assert says(verdict, "no thread of it waits", "is asleep (state D) in madvise")


def _two_hosts() -> World:
    world = World(page(0, 5, operation(5, 1), 2), page(1, 5, operation(5, 0), 2))
    world.links_before = {100: (link("a:1", "b:2"),), 101: (link("b:2", "a:1"),)}
    world.links_after = dict(world.links_before)
    return world


def test_a_lossy_link_is_named_by_its_two_ends() -> None:
    world = _two_hosts()
    world.links_after[100] = (link("a:1", "b:2", unsent_bytes=9000, retransmits=4, timeouts=2),)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause, verdict.provisional) == (0, "packet_loss", False)
    assert says(verdict, "link of rank 0 to rank 1 (a:1 - b:2)", "4 segments sent again")


def test_before_anything_is_sent_again_a_link_is_only_suspected() -> None:
    world = _two_hosts()
    world.links_after[100] = (link("a:1", "b:2", unsent_bytes=9000),)
    verdict = verdict_of(world)
    assert verdict.cause == "packet_loss" and verdict.provisional and verdict.missing


def _sent_again(before: int, now: int, needless: int = 0) -> World:
    """It has been late for 500 ms, and nothing waits for the other side now. `before`: what had
    been sent again 700 ms ago."""
    world = _two_hosts()
    earlier = (link("a:1", "b:2", retransmits=before),)
    present = (link("a:1", "b:2", retransmits=now, needless=needless),)
    world.links_history = (
        Sample(NOW - 2000 * MS, {100: (link("a:1", "b:2"),)}),
        Sample(NOW - 700 * MS, {100: earlier}),
        Sample(NOW - 200 * MS, {100: present}),
    )
    world.links_before[100] = world.links_after[100] = present
    return world


def test_what_was_sent_again_since_it_is_waited_for_counts_when_it_has_got_through() -> None:
    verdict = verdict_of(_sent_again(3, 5))
    assert (verdict.rank, verdict.cause, verdict.provisional) == (0, "packet_loss", False)
    assert says(verdict, "2 lost segments sent again in the last 700 ms", "rank 0 to rank 1")


def test_the_end_that_sends_again_is_looked_at_also_where_its_rank_is_through() -> None:
    """Ranks 0 and 1 wait for each other in one host; what rank 0 needs comes from rank 2."""
    waits = {0: operation(5, 1), 1: operation(5, 0)}
    world = World(*(page(r, 5, waits.get(r), 4) for r in range(4)))
    lossy = link("c:3", "a:1", retransmits=4, timeouts=2, unsent_bytes=700)
    world.links_before = {100: (link("a:1", "c:3"),), 102: (link("c:3", "a:1", unsent_bytes=700),)}
    world.links_after = {100: (link("a:1", "c:3"),), 102: (lossy,)}
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (2, "packet_loss") and says(verdict, "rank 2 to rank 0")
    world.links_after[102] = (dataclasses.replace(lossy, remote="d:9"),)
    assert verdict_of(world).cause == "unknown", "a link between others holds nobody up"


@pytest.mark.parametrize(
    ("before", "now", "needless"),
    [(0, 0, 0), (3, 3, 0), (3, 5, 2)],  # the last: the other side had had them all
)
def test_nothing_lost_since_then_is_no_loss(before: int, now: int, needless: int) -> None:
    assert verdict_of(_sent_again(before, now, needless)).cause == "unknown"


def test_the_kernels_events_say_whether_a_loss_falls_into_the_wait() -> None:
    world = _sent_again(3, 5)
    world.kernel_links = {("a:1", "b:2"): KernelLink(5, NOW - 300 * MS)}
    assert says(verdict_of(world), "the last of them 300 ms ago")
    world.kernel_links = {("a:1", "b:2"): KernelLink(5, NOW - 600 * MS)}
    assert verdict_of(world).cause == "unknown", "it was over before"


def test_an_operation_that_is_through_was_held_up_by_a_loss_only_if_all_had_posted_it() -> None:
    world = _sent_again(3, 5)
    (late, *_) = find_late(world.pages.values(), 100 * MS)
    verdict = judge_lost(world.evidence(), late)
    assert verdict is not None and (verdict.rank, verdict.cause) == (0, "packet_loss")
    assert judge_lost(_sent_again(3, 3).evidence(), late) is None
    world.pages[1] = page(1, 4, None, 2)
    assert judge_lost(world.evidence(), late) is None


@pytest.mark.parametrize(("again", "cause"), [(3, "packet_loss"), (0, None)])
def test_who_is_waited_for_often_and_had_posted_is_held_by_its_link_and_not_by_its_own_code(
    again: int, cause: str | None
) -> None:
    """At the second moment it sleeps between two steps, as it does in each."""
    world = World(*(page(r, 5, operation(5, 1 - r), 2) for r in range(2)))
    (late,) = find_late(world.pages.values(), 100 * MS)
    world.pages[1] = page(1, 5, None, 2)
    world.after[101] = process(101, syscall=SLEEP)
    world.links_before = {101: (link("b:2", "a:1"),)}
    world.links_after = {101: (link("b:2", "a:1", retransmits=again),)}
    world.links_history = (Sample(NOW - 900 * MS, {101: (link("b:2", "a:1"),)}),)
    verdict = judge_often(world.evidence(), late, world.pages[1], "looks", posted=True)
    assert (verdict and verdict.cause) == cause
    verdict = judge_often(world.evidence(), late, world.pages[1], "looks", posted=False)
    assert verdict is not None and (verdict.rank, verdict.cause) == (1, "sleeping")


def test_events_of_one_connection_are_read_from_the_tracers_lines() -> None:
    event = {"local": "a:1", "remote": "b:2", "retransmits": 2, "lost_at_ns": 70, "netns": 1}
    sample = parse_sample({"t_ns": 90, "links": [event, event | {"netns": 2, "lost_at_ns": 60}]})
    assert sample.links == {("a:1", "b:2"): KernelLink(4, 70)}


def test_a_round_trip_that_has_become_long_is_congestion_and_a_long_way_is_none() -> None:
    world = _two_hosts()
    world.links_after[100] = (link("a:1", "b:2", rtt_us=90_000, least_rtt_us=40),)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (0, "congestion")
    assert says(verdict, "takes 90.0 ms", "has taken 0.040 ms") and not verdict.provisional
    slow = link("a:1", "b:2", rtt_us=90_000, least_rtt_us=40, retransmits=4, needless=4)
    world.links_after[100] = (slow,)
    verdict = verdict_of(world)
    assert (verdict.cause, verdict.provisional) == ("congestion", True), "or lost acknowledgements"
    world.links_after[100] = (link("a:1", "b:2", rtt_us=90_000, least_rtt_us=80_000),)
    assert verdict_of(world).cause == "unknown"


def test_what_this_host_drops_itself_is_seen_by_what_waits_while_nothing_is_under_way() -> None:
    world = _two_hosts()
    waits = link("a:1", "b:2", unsent_bytes=50_000, acknowledged_bytes=1000)
    world.links_before[100] = (waits,)
    world.links_after[100] = (dataclasses.replace(waits, acknowledged_bytes=2000),)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause, verdict.provisional) == (0, "packet_loss", False)
    assert says(verdict, "50000 bytes wait to be sent and no segment is under way")
    world.links_after[100] = (dataclasses.replace(waits, acknowledged_bytes=2000, unacked=3),)
    assert verdict_of(world).cause == "unknown", "it moves"
    full = dataclasses.replace(waits, receiver_full_us=90_000)
    world.links_after[100] = (full,)
    assert verdict_of(world).cause == "receiver_not_ready"


def test_the_end_that_is_down_is_the_root_and_not_the_one_without_carrier() -> None:
    world = _two_hosts()
    world.links_after[100] = (link("a:1", "b:2", interface="eth0", carrier=False),)
    world.links_after[101] = (link("b:2", "a:1", interface="eth1", up=False, carrier=False),)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (1, "link_down") and says(verdict, "eth1 is down")


def test_what_cannot_be_seen_is_missing_and_not_guessed() -> None:
    world = World(page(0, 5, operation(5, 1), 2, node_ranks=1))
    world.missing = ("signals and their senders: CAP_BPF is not held; run as root",)
    verdict = verdict_of(world)
    assert (verdict.rank, verdict.cause) == (-1, "unknown")
    assert any("rank 1" in line and "another host" in line for line in verdict.missing)
    assert any("CAP_BPF" in line for line in verdict.missing)


def test_a_long_operation_that_takes_steps_is_not_late() -> None:
    world = World(*(page(r, 5, operation(5, 1, step=90), 2) for r in range(2)))
    late = find_late(world.pages.values(), 100 * MS)[0]
    assert not is_moving(world.evidence(), late)
    world.earlier_pages = {r: page(r, 5, operation(5, 1, step=40), 2) for r in range(2)}
    assert is_moving(world.evidence(), late)
    assert not is_moving(waiting_world().evidence(), late)


def test_the_suspect_is_who_is_behind_else_whom_most_name() -> None:
    world = waiting_world(3)
    late = find_late(world.pages.values(), 100 * MS)[0]
    assert suspect(world.pages, late) is world.pages[3]
    posted = {r: page(r, 5, operation(5, 1 if r != 1 else 0)) for r in range(4)}
    late = find_late(posted.values(), 100 * MS)[0]
    assert suspect(posted, late) is posted[1]


def test_who_waits_itself_is_no_suspect_while_somebody_does_not() -> None:
    """Ranks 1 and 3 have not posted #5: rank 1 waits for 3 elsewhere."""
    inner = operation(9, 3, communicator=1)
    rows = {1: (row(4, 1), row(9, 0, 2, 1, 1)), 3: (row(4, 3), row(8, 1, 2, 1, 1))}
    pages = {r: page(r, 5, operation(5, 1)) for r in (0, 2)}
    pages[1] = page(1, 4, inner, communicators=rows[1])
    pages[3] = page(3, 4, None, communicators=rows[3])
    late = next(one for one in find_late(pages.values(), 100 * MS) if one.communicator == 0)
    assert suspect(pages, late) is pages[3]
