"""Every wait ends and every error has a name, on every rank, within a bounded time."""

from __future__ import annotations

import pytest
from conftest import Runner, TwoHosts

TIMED = """
    import os, signal, sys, time
    def caught(call, kind):
        start = time.monotonic()
        try:
            call()
        except kind as error:
            return str(error), time.monotonic() - start
        raise AssertionError(f"no {kind.__name__}")
"""

# The last rank dies in the midst of all_reduces: what the others are told, and after how long.
KILLED = (
    TIMED
    + """
    comm = shoal.init(timeout=30)
    x = comm.empty(1 << 20, "float32")
    comm.barrier()
    if comm.rank == comm.size - 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    def forever():
        while True:
            comm.all_reduce(x)
    text, seconds = caught(forever, shoal.PeerFailed)
"""
)

KILL = (
    KILLED
    + """
    assert seconds < 5, seconds
    assert f"rank {comm.size - 1} (" in text, text
    assert "killed by signal 9 during all_reduce #" in text, text
    print("named")
"""
)

STOP = (
    TIMED
    + """
    comm = shoal.init(timeout=1.5)
    x = comm.empty(1 << 22, "float32")
    x[:] = 1
    pids = comm.all_gather(np.array([os.getpid()]))
    if comm.rank == comm.size - 1:
        # In the middle of a collective: stopped by rank 0 while it folds and stores.
        caught(lambda: [comm.all_reduce(x) for _ in range(100000)], shoal.Timeout)
        print("woke")
        sys.exit(0)
    if comm.rank == 0:
        import threading
        threading.Timer(0.4, os.kill, (int(pids[-1]), signal.SIGSTOP)).start()
    text, seconds = caught(lambda: [comm.all_reduce(x) for _ in range(100000)], shoal.Timeout)
    assert f"rank {comm.size - 1} (" in text and "no heartbeat" in text, text
    x[:] = 7
    time.sleep(0.3)
    if comm.rank == 0:
        os.kill(int(pids[-1]), signal.SIGCONT)
    time.sleep(1.0)
    assert (x == 7).all(), "a stopped rank wrote after the time-out"
    print("clean")
"""
)

MISMATCH = (
    TIMED
    + """
    comm = shoal.init(timeout=10)
    odd = comm.rank == 1
    x = np.ones(66, "float32")
    cases = [
        lambda: comm.barrier() if odd else comm.all_reduce(x),
        lambda: comm.all_reduce(x[:32] if odd else x),
        lambda: comm.all_reduce(x.astype("int32") if odd else x.copy()),
        lambda: comm.all_reduce(x, op="max" if odd else "sum"),
        # Small: a root waits for nobody, and hears of it at the next call.
        lambda: (comm.broadcast(x, root=1 if odd else 0), comm.barrier()),
        lambda: comm.all_gather(x) if odd else comm.all_to_all(x),
    ]
    case = int(sys.argv[1])
    text, seconds = caught(cases[case], shoal.MismatchError)
    assert "rank 0 called" in text and "rank 1 called" in text, text
    assert seconds < 5, seconds
    print("named")
"""
)

ABORT = (
    TIMED
    + """
    comm = shoal.init(timeout=20)
    if comm.rank == 0:
        time.sleep(0.3)
        comm.abort("the loss is NaN")
    text, _ = caught(comm.barrier, shoal.Aborted)
    assert "the loss is NaN" in text, text
    print("named")
"""
)

INTERRUPT = (
    TIMED
    + """
    comm = shoal.init(timeout=20)
    if comm.rank == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            comm.barrier()
        except KeyboardInterrupt:
            print("interrupted")
    else:
        time.sleep(1)
        caught(comm.barrier, shoal.Aborted)
"""
)

ARGUMENTS = (
    TIMED
    + """
    comm = shoal.init(timeout=10)
    fixed = np.ones(4)
    fixed.flags.writeable = False
    ones = np.ones(8, "float32")
    cases = [
        (lambda: comm.all_reduce(np.ones((4, 4))[:, 1]), "ascontiguousarray"),
        (lambda: comm.all_reduce(np.ones(4, "complex64")), "complex64 is not supported"),
        (lambda: comm.all_reduce(np.ones(4, "int32"), op="avg"), "avg of int32"),
        (lambda: comm.all_reduce(np.ones(4, "uint16"), op="avg"), "avg of uint16"),
        (lambda: comm.all_reduce(ones, op="bxor"), "bxor of float32"),
        (lambda: comm.reduce(np.ones(4, "?"), op="avg"), "reduce: avg of bool"),
        (lambda: comm.all_reduce(np.ones(8, "?"), out=np.ones(8, "B")), "bool, out is uint8"),
        (lambda: comm.all_reduce(ones, op="mean"), "sum, prod, min, max, avg, band, bor and bxor"),
        (lambda: comm.all_reduce(ones, out=np.ones(7, "float32")), "needs 8"),
        (lambda: comm.all_reduce(ones, out=np.ones(8)), "must be the same"),
        (lambda: comm.all_reduce(fixed), "read-only"),
        (lambda: comm.all_reduce(ones[:4], out=ones[2:6]), "overlap"),
        (lambda: comm.reduce_scatter(np.ones(2 * comm.size + 1)), "not divisible"),
        (lambda: comm.broadcast(ones, root=9), "root 9"),
        (lambda: comm.send(ones, 9), "rank 9"),
        (lambda: comm.send(ones, 0, tag=1 << 24), "tag"),
        (lambda: comm.all_reduce(ones, timeout=-1), "positive"),
        (lambda: comm.all_reduce("text"), "expected an array"),
    ]
    for call, words in cases:
        text, _ = caught(call, shoal.InvalidArgument)
        assert words in text, (words, text)
    assert comm.all_reduce(ones)[0] == comm.size  # nothing was posted before
    print("named")
"""
)


def test_kill_9_is_named_on_every_rank(job: Runner) -> None:
    result = job(KILL, 4, expect=137)
    assert result.out.count("named") == 3
    assert result.report["first_failure"]["signal"] == "SIGKILL"


@pytest.mark.parametrize("network", ["tcp", "ucx"])
def test_kill_9_on_another_host_is_named(job: Runner, two_hosts: TwoHosts, network: str) -> None:
    options = two_hosts.options(2, network)
    result = job(KILL, expect=137, launcher=two_hosts.launcher, options=options)
    assert result.out.count("named") == 3


def test_a_stopped_rank_is_named_and_writes_nothing_after_the_timeout(job: Runner) -> None:
    result = job(STOP, 3)
    assert result.out.count("clean") == 2
    assert result.out.count("woke") == 1


@pytest.mark.parametrize("case", range(6))
def test_mismatch_in_a_node(job: Runner, case: int) -> None:
    assert job(MISMATCH, 3, arguments=(str(case),)).out.count("named") == 3


@pytest.mark.parametrize("case", [0, 1, 2, 3])
def test_mismatch_between_hosts(job: Runner, two_hosts: TwoHosts, case: int) -> None:
    result = job(
        MISMATCH, launcher=two_hosts.launcher, options=two_hosts.options(1), arguments=(str(case),)
    )
    assert result.out.count("named") == 2


def test_abort_reaches_everybody(job: Runner) -> None:
    assert job(ABORT, 3).out.count("named") == 3


def test_ctrl_c_ends_a_wait(job: Runner) -> None:
    assert "interrupted" in job(INTERRUPT, 2).out


def test_wrong_arguments_say_what_to_do(job: Runner) -> None:
    assert job(ARGUMENTS, 2).out.count("named") == 2


def test_a_rank_that_has_left_is_not_waited_for(job: Runner) -> None:
    """It ends in order while the others still want something of it."""
    result = job(
        """
        import sys, time
        comm = shoal.init()
        x = np.ones(5000)
        comm.all_reduce(x)
        if comm.rank == 1:
            comm.send(x, 0, tag=3)
            sys.exit(0)
        time.sleep(1.5)
        y = np.empty(5000)
        if comm.rank == 0:
            comm.recv(y, 1, tag=3)  # it was sent before
            assert y[0] == 3
        began = time.monotonic()
        try:
            comm.all_reduce(x)
        except shoal.PeerFailed as error:
            assert "rank 1" in str(error) and "has left the job" in str(error), error
            assert time.monotonic() - began < 20
            print("named")
        """,
        ranks=3,
    )
    assert result.lines(0) == ["named"] and result.lines(2) == ["named"]
