"""Receiving from whoever sends: each message comes once, in its sender's order, with its name."""

from __future__ import annotations

import pytest
from conftest import Runner, TwoHosts

# Rank 0 receives from all others, which send at their own pace: short and long messages (other tags
# each), by recv, by recv that is waited for later, and by batch.
GATHER = """
    import random, time
    comm = shoal.init(timeout=30)
    COUNT, SIZES = 30, (1, 1000, 50_000)
    if comm.rank > 0:
        own, sends = random.Random(comm.rank), []
        for i in range(COUNT):
            if own.random() < 0.1:
                time.sleep(own.random() * 0.02)
            for tag, n in enumerate(SIZES):
                x = np.full(n, comm.rank * 1000 + i)
                sends.append(comm.send(x, to=0, tag=tag, async_op=True))
        for work in sends:
            work.wait()
    else:
        def expect(work, got, following):
            work.wait()
            r = work.source
            assert work.exception() is None and 1 <= r < comm.size, r
            assert (got == r * 1000 + following[r]).all(), (got[0], r, following)
            following[r] += 1
        for tag, n in enumerate(SIZES):
            following = [0] * comm.size
            outs = [comm.empty(n, "int64") for _ in range(COUNT)]
            works = [comm.recv(out, tag=tag, async_op=True) for out in outs]
            for _ in range(COUNT * (comm.size - 3)):
                got = np.empty(n, "int64")
                works.append(comm.recv(got, source=None, tag=tag, async_op=True))
                outs.append(got)
            last = [np.empty(n, "int64") for _ in range(COUNT)]
            works += comm.batch([("recv", out, None, tag) for out in last], async_op=True)
            outs += last
            for work, out in zip(works, outs, strict=True):
                expect(work, out, following)
            assert following[1:] == [COUNT] * (comm.size - 1), following
    comm.barrier()
    print("all came")
"""

# A receiver that sleeps is woken by a rank of its node and by one of another.
LATE = """
    import time
    comm = shoal.init(timeout=30)
    for sender in range(1, comm.size):
        if comm.rank == sender:
            time.sleep(0.3)
            comm.send(np.array([sender]), to=0)
        if comm.rank == 0:
            work = comm.recv(np.empty(1, "int64"), async_op=True)
            assert work.source is None
            assert work.wait().tolist() == [sender] and work.source == sender
        comm.barrier()
    print("woken")
"""

PLACE = """
    comm = shoal.init(timeout=30)
    if comm.rank == 0:
        outs = [np.empty(1, "int64") for _ in range(3)]
        works = comm.batch(
            [("recv", outs[0], 1, 0), ("recv", outs[1], None, 0), ("recv", outs[2], 1, 0)],
            async_op=True,
        )
        comm.barrier()
        assert [int(work.wait()[0]) for work in works] == [0, 1, 2]
        assert [work.source for work in works] == [1, 1, 1]
        assert comm.barrier(async_op=True).source is None
    else:
        comm.barrier()
        if comm.rank == 1:
            for i in range(3):
                work = comm.send(np.array([i]), to=0, async_op=True)
                work.wait()
                assert work.source is None
        comm.barrier()
    print("in place")
"""

KILL = """
    import os, signal, time
    comm = shoal.init(timeout=30)
    comm.barrier()
    if comm.rank == comm.size - 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        comm.recv(np.empty(10))
    except shoal.PeerFailed as error:
        assert f"rank {comm.size - 1} (" in str(error) and "signal 9" in str(error), error
        assert time.monotonic() - start < 5
        print("named")
"""

# Workers that have sent their result may leave while the others still work.
LEAVE = """
    import time
    comm = shoal.init(timeout=30)
    if comm.rank > 0:
        time.sleep(0.3 * comm.rank)
        comm.send(np.full(5000, comm.rank), to=0)
        comm.finalize()
    else:
        order = []
        for _ in range(comm.size - 1):
            work = comm.recv(np.empty(5000, "int64"), async_op=True)
            assert (work.wait() == work.source).all()
            order.append(work.source)
        assert sorted(order) == list(range(1, comm.size)), order
    print("received")
"""

ERRORS = """
    comm = shoal.init(timeout=30)
    x = np.zeros(3)
    def refused(call, words):
        try:
            call()
        except shoal.InvalidArgument as error:
            assert words in str(error), error
            return
        raise AssertionError("nothing was raised")
    refused(lambda: comm.recv(x, source=-1), "give None")
    refused(lambda: comm.recv(x, source=comm.size), f"rank {comm.size} is not in")
    refused(lambda: comm.batch([("send", x, None, 0)]), "a send needs the rank")
    refused(lambda: comm.send(x, to=-1), "rank -1")
    comm.barrier()
    try:
        comm.recv(x, tag=3, timeout=0.3 if comm.rank == 0 else 20)
    except shoal.Timeout as error:
        assert "recv from any source, tag 3" in str(error), error
        print("named")
"""


@pytest.mark.parametrize(
    ("source", "word"),
    [(GATHER, "all came"), (LATE, "woken"), (PLACE, "in place"), (LEAVE, "received")],
    ids=["gather", "late", "place", "leave"],
)
def test_in_a_node(job: Runner, source: str, word: str) -> None:
    assert job(source, 4).out.count(word) == 4


@pytest.mark.parametrize("network", ["tcp", "ucx"])
@pytest.mark.parametrize(
    ("source", "word"),
    [(GATHER, "all came"), (LATE, "woken"), (PLACE, "in place"), (LEAVE, "received")],
    ids=["gather", "late", "place", "leave"],
)
def test_between_hosts(
    job: Runner, two_hosts: TwoHosts, network: str, source: str, word: str
) -> None:
    options = two_hosts.options(2, network)
    assert job(source, launcher=two_hosts.launcher, options=options).out.count(word) == 4


def test_a_death_ends_it_and_is_named(job: Runner) -> None:
    assert job(KILL, 4, expect=137).out.count("named") == 3


def test_a_death_on_another_host_ends_it_and_is_named(job: Runner, two_hosts: TwoHosts) -> None:
    result = job(KILL, expect=137, launcher=two_hosts.launcher, options=two_hosts.options(2))
    assert result.out.count("named") == 3


def test_wrong_arguments_and_time_outs_say_what_was_asked(job: Runner) -> None:
    assert job(ERRORS, 3).out.count("named") == 3
