"""Two ranks that talk by RDMA and both go on: what lies between them, from made-up evidence."""

from __future__ import annotations

import dataclasses

from shoal.trace.evidence import Evidence
from shoal.trace.late import find_late
from shoal.trace.queues import Queue
from shoal.trace.rdma import Limit, Port, QueuePair, Rdma, Sample
from shoal.trace.verdict import Verdict, judge, judge_lost
from tests.trace.made_up import MS, NOW, SLEEP, WINDOW, World, operation, page, process, thread

HOSTS = (("rxe0", 100, 21, 22), ("rxe1", 101, 22, 21))  # device, pid, queue pair, its peer


def port(device: str, **changes: object) -> Port:
    base = Port(device, 1, "ACTIVE", "LinkUp", "h" + device[-1], True, True, {})
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def completion(device: str, produced: int, consumed: int, number: int = 4) -> Queue:
    return Queue(device, "completion", number << 16, 4096, produced, consumed, number)


def send(device: str, produced: int, consumed: int, number: int) -> Queue:
    return Queue(device, "send", 0x9000, 512, produced, consumed, number)


class Fabric:
    """Ranks 0 and 1, each with a device of its own, both in operation #5 for half a second."""

    def __init__(self) -> None:
        self.world = World(page(0, 5, operation(5, 1), 2), page(1, 5, operation(5, 0), 2))
        self.ports = {device: port(device) for device, *_ in HOSTS}
        self.earlier = dict(self.ports)
        self.states = {pid: "RTS" for _, pid, *_ in HOSTS}
        self.queues: dict[int, tuple[Queue, ...] | None] = {}
        self.queues_before: dict[int, tuple[Queue, ...] | None] = {}
        self.limits: dict[int, tuple[Limit, ...]] = {}

    def count(self, device: str, **counters: int) -> None:
        self.ports[device] = port(device, counters=counters)
        self.earlier[device] = port(device, counters=dict.fromkeys(counters, 0))

    def evidence(self) -> Evidence:
        pairs: dict[int, tuple[QueuePair, ...]] = {
            pid: (QueuePair(device, 1, number, peer, "RC", self.states[pid]),)
            for device, pid, number, peer in HOSTS
        }
        ports = tuple(self.ports.values())
        ev = self.world.evidence()
        # The counters stand still between the two moments: only history tells that they have grown.
        return dataclasses.replace(
            ev,
            before=dataclasses.replace(ev.before, rdma=Rdma(ports, pairs, self.queues_before)),
            after=dataclasses.replace(ev.after, rdma=Rdma(ports, pairs, self.queues, self.limits)),
            rdma_history=(
                Sample(NOW - 900 * MS, tuple(self.earlier.values())),
                Sample(NOW - 300 * MS, ports),
            ),
        )

    def verdict(self) -> Verdict:
        late = find_late(self.world.pages.values(), 100 * MS)
        return judge(self.evidence(), late[0])


def says(verdict: Verdict, *texts: str) -> bool:
    return all(any(text in line for line in verdict.evidence) for text in texts)


def test_without_anything_wrong_nothing_is_said() -> None:
    assert Fabric().verdict().cause == "unknown"


def test_the_end_whose_interface_is_down_is_the_root() -> None:
    fabric = Fabric()
    fabric.ports["rxe0"] = port("rxe0", carrier=False, state="DOWN", physical="Polling")
    fabric.ports["rxe1"] = port("rxe1", up=False, carrier=False, state="DOWN", physical="Disabled")
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (1, "link_down") and says(
        verdict, "h1 of rxe1/1 is down"
    )
    fabric.ports["rxe1"] = port("rxe1")
    fabric.ports["rxe0"] = port("rxe0", state="INIT")
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (0, "link_down") and says(verdict, "rxe0/1 is INIT")


def test_a_port_that_no_rank_talks_by_is_none_of_its_business() -> None:
    fabric = Fabric()
    fabric.ports["rxe2"] = port("rxe2", up=False, state="DOWN")
    assert fabric.verdict().cause == "unknown"


def test_a_queue_pair_in_error_is_named_with_its_peer_and_before_what_was_counted() -> None:
    fabric = Fabric()
    fabric.states[101] = "ERR"
    fabric.count("rxe0", retry_exceeded_err=1)
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (1, "qp_error")
    assert says(verdict, "queue pair 22 of rank 1 to rank 0 (rxe1/1) is in state ERR")


def test_who_has_no_receive_posted_is_the_root_and_not_who_is_refused() -> None:
    fabric = Fabric()
    fabric.count("rxe0", rcvd_rnr_err=40)
    fabric.count("rxe1", send_rnr_err=40)
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (1, "receiver_not_ready")
    assert says(verdict, "rxe1/1 send_rnr_err: 40 more in 900 ms")


def test_of_a_refused_rank_whose_peer_is_elsewhere_that_is_missing() -> None:
    fabric = Fabric()
    fabric.count("rxe0", rnr_nak_retry_err=40)
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (0, "receiver_not_ready")
    assert any("on its host" in line for line in verdict.missing)


def test_who_sends_again_is_named_with_what_is_not_completed() -> None:
    fabric = Fabric()
    fabric.count("rxe0", out_of_seq_request=3)
    fabric.count("rxe1", completer_retry_err=2)
    fabric.queues = {100: (send("rxe0", 7, 7, 21),), 101: (send("rxe1", 9, 4, 22),)}
    fabric.queues_before = dict(fabric.queues)
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause, verdict.provisional) == (1, "packet_loss", False)
    assert says(verdict, "5 sends are posted to queue pair 22 of rxe1")
    assert says(verdict, "completer_retry_err: 2 more", "out_of_seq_request: 3 more")


def test_what_was_lost_long_ago_is_no_cause() -> None:
    fabric = Fabric()
    fabric.count("rxe1", completer_retry_err=2)
    fabric.earlier["rxe1"] = fabric.ports["rxe1"]
    assert fabric.verdict().cause == "unknown"


def test_a_send_that_nobody_acknowledges_is_provisional_until_it_would_be_sent_again() -> None:
    fabric = Fabric()
    fabric.queues = {100: (send("rxe0", 9, 4, 21),)}
    fabric.queues_before = dict(fabric.queues)
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause, verdict.provisional) == (0, "congestion", True)
    fabric.queues_before = {100: (send("rxe0", 9, 3, 21),)}  # one was completed in between
    fabric.count("rxe0", np_ecn_marked_roce_packets=90, duplicate_request=2)
    assert fabric.verdict().cause == "unknown"  # whatever was counted, it went through
    fabric.queues = {}  # as with mlx5
    fabric.count("rxe0", np_ecn_marked_roce_packets=90)
    verdict = fabric.verdict()
    assert (verdict.cause, verdict.provisional) == ("congestion", False)


def _undriven() -> Fabric:
    fabric = Fabric()
    fabric.world = World(
        page(0, 5, operation(5, 1), 2), page(1, 5, operation(5, 0), 2, drivers=0)
    )  # fmt: skip
    fabric.world.after[101] = process(101, syscall=SLEEP)
    fabric.queues = {101: (completion("rxe1", 9, 4), completion("rxe1", 3, 3, 5))}
    fabric.queues_before = {101: (completion("rxe1", 8, 4), completion("rxe1", 3, 3, 5))}
    return fabric


def test_sends_that_take_long_though_the_queue_moves_are_congestion() -> None:
    fabric = Fabric()
    fabric.queues_before[100] = (send("rxe0", 40, 10, 21),)
    fabric.queues[100] = (send("rxe0", 42, 12, 21),)  # 2 of 30 in 100 ms
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause, verdict.provisional) == (0, "congestion", False)
    assert says(
        verdict, "a send of queue pair 21 of rxe0 takes 1.5 s", "nothing has been sent again"
    )
    fabric.queues[100] = (send("rxe0", 50, 20, 21),)
    assert fabric.verdict().cause == "unknown", "0.3 s"
    fabric.queues[100] = (send("rxe0", 42, 12, 21),)
    fabric.count("rxe0", completer_retry_err=2)
    assert fabric.verdict().cause == "packet_loss"


def test_an_operation_that_is_through_is_judged_by_what_was_counted() -> None:
    fabric = Fabric()
    (late, *_) = find_late(fabric.world.pages.values(), 100 * MS)
    assert judge_lost(fabric.evidence(), late) is None
    fabric.queues_before[100] = fabric.queues[100] = (send("rxe0", 30, 30, 21),)  # all is sent
    fabric.count("rxe0", completer_retry_err=2)
    verdict = judge_lost(fabric.evidence(), late)
    assert verdict is not None and (verdict.rank, verdict.cause) == (0, "packet_loss")
    assert fabric.verdict().cause == "unknown", "it goes on, and not for what was counted"
    fabric.count("rxe1", send_rnr_err=7)
    verdict = judge_lost(fabric.evidence(), late)
    assert verdict is not None and (verdict.rank, verdict.cause) == (1, "receiver_not_ready")


def test_completions_that_a_rank_does_not_take_are_evidence_of_a_slow_receiver() -> None:
    fabric = _undriven()
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (1, "slow_receiver")
    assert says(verdict, "5 completions wait in completion queue 4 of rxe1, none has been taken")
    fabric.queues_before = {101: (completion("rxe1", 8, 3),)}
    assert not says(fabric.verdict(), "completions wait")


def test_a_receiver_that_refuses_is_more_than_slow() -> None:
    fabric = _undriven()
    fabric.count("rxe1", send_rnr_err=12)
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (1, "receiver_not_ready")
    assert says(verdict, "completions wait", "send_rnr_err: 12 more")


def test_a_queue_pair_in_error_is_named_though_its_rank_does_not_look() -> None:
    fabric = _undriven()
    fabric.states[101] = "ERR"
    verdict = fabric.verdict()
    assert (verdict.rank, verdict.cause) == (1, "qp_error")
    assert says(verdict, "queue pair 22 of rank 1", "completions wait", "no thread of it waits")


def test_a_core_would_not_mend_a_queue_pair_but_would_receive() -> None:
    fabric = _undriven()
    fabric.world.after[101] = process(101, state="R", syscall=-1, waiting_ns=80 * MS)
    fabric.count("rxe1", send_rnr_err=12)
    assert fabric.verdict().cause == "preempted"
    fabric.states[101] = "ERR"
    assert fabric.verdict().cause == "qp_error"


def test_a_limit_that_is_reached_is_told_with_what_is_wrong() -> None:
    fabric = Fabric()
    fabric.states[101] = "ERR"
    fabric.limits = {101: (Limit("/jobs/a", "rxe1", "hca_object", 20, 20),
                           Limit("/jobs", "rxe1", "hca_object", 20, 21))}  # fmt: skip
    verdict = fabric.verdict()
    assert says(verdict, "cgroup /jobs/a lets it have 20 hca_object of rxe1")
    assert not says(verdict, "cgroup /jobs lets")


def test_what_holds_the_host_comes_before_its_queues() -> None:
    fabric = Fabric()
    fabric.states[101] = "ERR"
    fabric.world.after[101] = dataclasses.replace(
        process(101), threads={101: thread(101, state="T")}
    )  # fmt: skip
    assert fabric.verdict().cause == "stopped"
    assert fabric.evidence().window_ns == WINDOW
