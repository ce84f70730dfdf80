"""Views: what others see without a copy, how long it is safe, and who is told when it is not."""

from __future__ import annotations

import pytest
from conftest import CAUGHT, Runner, TwoHosts

TOOLS = (
    CAUGHT
    + """
    import gc, os, signal, sys, time
    comm = shoal.init(timeout=20)
    P, r = comm.size, comm.rank

    def mine(value, n=10000):
        x = comm.empty(n, "int64")
        x[:] = value
        return x

    def soon(condition):
        for _ in range(1000):
            if condition():
                return True
            time.sleep(0.01)
        return False
"""
)

SEES = (
    TOOLS
    + """
    x = mine(r).reshape(100, 100)
    comm.barrier()
    used = comm.pool()["used_bytes"]
    parts = comm.all_gather(x, view=True)
    assert comm.pool()["used_bytes"] - used <= 4096  # an account of leases, no data
    assert len(parts) == P and parts[r] is x
    for q, part in enumerate(parts):
        assert part.shape == x.shape and part.dtype == x.dtype and (part == q).all(), q
        assert not part.flags.writeable or P == 1
        assert q == r or not comm.in_pool(part)
    root = P - 1
    like = x if r == root else np.empty((100, 100), "int64")
    y = comm.broadcast(like, root=root, view=True)
    assert (y == root).all() and (y is x) == (r == root)
    for n in (0, 1, 3, 4097):
        got = comm.all_gather(mine(r, n), view=True)
        assert [part.tolist() for part in got] == [[q] * n for q in range(P)]
    comm.barrier()
    print("fine")
"""
)

FLAGS = (
    TOOLS
    + """
    x = mine(7)
    before = x[:10]
    view = comm.broadcast(x, root=0, view=True)
    if r == 0:
        assert view is x and not x.flags.writeable
        assert before.flags.writeable  # documented: other arrays keep their flags
        text = caught(lambda: comm.all_reduce(x), shoal.BufferInUse)
        assert "all_reduce: output is in use: rank 1 (" in text and "and 1 more" in text, text
        caught(lambda: comm.all_reduce(before), shoal.BufferInUse)
        caught(lambda: comm.recv(x, 1), BufferError)
        caught(lambda: comm.all_gather(mine(0, 1), out=x[: P].view()), shoal.Error)
        assert comm.holders(x) == [1, 2] and comm.holders(x[5:6]) == [1, 2]
    else:
        caught(lambda: view.setflags(write=True), ValueError)
        caught(lambda: view.__setitem__(0, 1), ValueError)
        assert "read-only" in caught(lambda: comm.all_reduce(view), shoal.InvalidArgument)
        assert "itself a view" in caught(
            lambda: comm.all_gather(view, view=True), shoal.InvalidArgument
        )
        # views of views hold on
        piece = memoryview(view.reshape(100, 100)[3:, ::2])
        whole = view[::-1]
        del view
    comm.broadcast(x if r == 0 else mine(0), root=0)  # its owner may read it
    comm.barrier()
    if r == 1:
        del piece
        assert (whole == 7).all()
        del whole
    comm.barrier()
    if r == 0:
        assert comm.holders(x) == [2]
        assert "rank 2 (" in caught(lambda: comm.all_reduce(x), shoal.BufferInUse)
        assert not x.flags.writeable
    comm.barrier()
    if r == 2:
        del whole
        comm.barrier()
        cycle = [piece]
        cycle.append(cycle)
        del piece, cycle
        gc.collect()
    else:
        comm.barrier()
    comm.barrier()
    if r == 0:
        assert comm.holders(x) == [] and x.flags.writeable
    comm.all_reduce(x)
    assert x[0] == 21
    comm.barrier()

    # the flag comes back with the call that wants to write, without asking
    for turn in range(3):
        parts = comm.all_gather(x, view=True)
        again = comm.all_gather(x, view=True)
        assert not x.flags.writeable
        comm.barrier()
        del parts, again
        comm.barrier()
        comm.all_reduce(x, op="max")
        assert x.flags.writeable

    # an array that was read-only before stays so
    fixed = mine(1)
    fixed.flags.writeable = False
    parts = comm.all_gather(fixed, view=True)
    comm.barrier()
    del parts
    comm.barrier()
    assert comm.holders(fixed) == [] and not fixed.flags.writeable
    print("fine")
"""
)

FREED = (
    TOOLS
    + """
    x = mine(r + 1)
    nbytes = x.nbytes
    parts = comm.all_gather(x, view=True)
    comm.barrier()
    used = comm.pool()["used_bytes"]
    del x
    parts[r] = None
    assert comm.pool()["used_bytes"] == used  # not freed under the others' eyes
    y = mine(99)
    comm.barrier()
    for q, part in enumerate(parts):
        assert q == r or (part == q + 1).all()
    del y, part
    comm.barrier()
    order = range(P) if r % 2 else reversed(range(P))
    for q in order:
        parts[q] = None
    comm.barrier()
    assert comm.pool()["used_bytes"] <= used - nbytes
    print("fine")
"""
)

INPUT = (
    TOOLS
    + """
    x = mine(r)
    parts = comm.all_gather(x, view=True)
    other = parts[(r + 1) % P]
    total = sum(range(P))
    assert (comm.all_reduce(other, out=comm.empty(10000, "int64")) == total).all()
    assert (comm.all_reduce(other, out=np.empty(10000, "int64")) == total).all()
    gathered = comm.all_gather(other[:7]).reshape(P, 7)
    assert gathered[:, 0].tolist() == [(q + 1) % P for q in range(P)]
    out = np.zeros(10000, "int64")
    comm.batch([("send", other, (r + 1) % P, 0), ("recv", out, (r - 1) % P, 0)])
    assert (out == r).all()
    got = comm.broadcast(other if r == 0 else np.empty_like(other), root=0, out=mine(0))
    assert (got == 1 % P).all()
    comm.barrier()
    print("fine")
"""
)

WRITES = (
    TOOLS
    + """
    import ctypes
    x = mine(3)
    view = comm.broadcast(x, root=0, view=True)
    if r == 1:
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            ctypes.memset(view.ctypes.data, 0, 8)  # as a library that knows no flags
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV, status
    comm.barrier()
    assert (view == 3).all()
    print("fine")
"""
)

FORK = (
    TOOLS
    + """
    x = mine(3)
    view = comm.broadcast(x, root=0, view=True)
    if r == 1:
        child = os.fork()
        if child == 0:
            ok = (view == 3).all()
            del view
            gc.collect()
            ok = ok and "forked child" in caught(lambda: comm.empty(3), shoal.InvalidArgument)
            ok = ok and not any(comm.pool().values())  # whose lock may be held by nobody
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
    comm.barrier()
    if r == 0:
        assert comm.holders(x) == [1]  # the child's end has given nothing back
    comm.barrier()
    assert (view == 3).all()
    print("fine")
"""
)

HOLDER_DIES = (
    TOOLS
    + """
    x = mine(5)
    rest = comm.split(r % 2)  # ranks 0 and 2 go on in it
    view = comm.broadcast(x, root=0, view=True)
    comm.barrier()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's: there is more to do
    if r == 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    assert r != 0 or comm.holders(x) == [1, 2]
    caught(lambda: [comm.barrier() for _ in range(1000000)], shoal.PeerFailed)
    assert r != 0 or soon(lambda: comm.holders(x) == [2])  # the other may have seen it first
    assert (view == 5).all()
    rest.barrier()
    if r == 2:
        del view
    rest.barrier()
    assert comm.holders(x) == [] and x.flags.writeable
    print("fine")
"""
)

OWNER_DIES = (
    TOOLS
    + """
    x = mine(5)
    view = comm.broadcast(x, root=1, view=True)
    comm.barrier()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's: there is more to do
    if r == 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    caught(lambda: [comm.barrier() for _ in range(1000000)], shoal.PeerFailed)
    assert (view == 5).all()
    del view
    gc.collect()
    print("fine")
"""
)

LEAVES = (
    TOOLS
    + """
    x = mine(5)
    view = comm.broadcast(x, root=0, view=True)
    comm.barrier()
    if r == 1:
        assert (view == 5).all()
        comm.finalize()
        assert view[0] in (5, 6)  # readable; from now on the owner may change it
        print("fine")
        sys.exit(0)
    assert soon(lambda: comm.holders(x) == [])
    x[:] = 6
    print("fine")
"""
)

REFUSED = (
    TOOLS
    + """
    x = np.ones(100)
    text = caught(lambda: comm.all_gather(x, view=True), shoal.InvalidArgument)
    assert "comm.empty()" in text and "numpy_pool" in text, text
    pooled = comm.empty(100, "float64")
    caught(lambda: comm.broadcast(pooled, view=True, async_op=True), shoal.InvalidArgument)
    caught(lambda: comm.all_gather(pooled, view=True, out=x), shoal.InvalidArgument)
    odd = comm.empty(50 if r == 1 else 100, "float64")
    text = caught(lambda: comm.all_gather(odd, view=True), shoal.MismatchError)
    assert "count 50" in text and "count 100" in text, text
    text = caught(lambda: comm.all_gather(odd, view=r != 1), shoal.MismatchError)
    assert "view=True" in text, text
    assert odd.flags.writeable and comm.holders(odd) == []
    comm.all_reduce(pooled)
    print("fine")
"""
)

BETWEEN_HOSTS = (
    TOOLS
    + """
    x = mine(r)
    parts = comm.all_gather(x, view=True)
    assert parts[r] is x and [int(p[-1]) for p in parts] == list(range(P))
    view = comm.broadcast(x, root=2, view=True)
    assert (view == 2).all() and (view is x) == (r == 2)
    for q, part in enumerate(parts):
        assert part.flags.writeable == (q == r)
    comm.all_reduce(x)  # copies were made: x is not lent
    assert [int(p[0]) for q, p in enumerate(parts) if q != r] == [q for q in range(P) if q != r]
    comm.barrier()
    print("fine")
"""
)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rank_sees_the_others_arrays(job: Runner, ranks: int) -> None:
    assert job(SEES, ranks).out.count("fine") == ranks


def test_flags_and_buffer_in_use_follow_the_views(job: Runner) -> None:
    assert job(FLAGS, 3).out.count("fine") == 3


def test_a_block_waits_for_its_views(job: Runner) -> None:
    assert job(FREED, 3).out.count("fine") == 3


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_view_is_an_input_like_any_other(job: Runner, ranks: int) -> None:
    assert job(INPUT, ranks).out.count("fine") == ranks


def test_a_write_through_a_view_is_sigsegv(job: Runner) -> None:
    assert job(WRITES, 2).out.count("fine") == 2


def test_a_forked_child_reads_and_gives_nothing_back(job: Runner) -> None:
    assert job(FORK, 2).out.count("fine") == 2


def test_the_leases_of_a_dead_holder_end(job: Runner) -> None:
    result = job(HOLDER_DIES, 3, expect=137)
    assert result.out.count("fine") == 2, result.err


def test_views_of_a_dead_owner_stay(job: Runner) -> None:
    assert job(OWNER_DIES, 3, expect=137).out.count("fine") == 2


def test_who_leaves_gives_everything_back(job: Runner) -> None:
    assert job(LEAVES, 2).out.count("fine") == 2


def test_what_cannot_be_shown_is_refused(job: Runner) -> None:
    assert job(REFUSED, 2).out.count("fine") == 2


def test_between_hosts_they_are_read_only_copies(job: Runner, two_hosts: TwoHosts) -> None:
    result = job(BETWEEN_HOSTS, launcher=two_hosts.launcher, options=two_hosts.options(2))
    assert result.out.count("fine") == 4
