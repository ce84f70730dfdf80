"""Collectives from Python agree with numpy: in one node and between two."""

from __future__ import annotations

import pytest
from conftest import Runner, TwoHosts

EVERY_DTYPE = """
    import ml_dtypes
    comm = shoal.init(timeout=30)
    P, r = comm.size, comm.rank
    EVERY = {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}
    BITS = EVERY | {"band": np.bitwise_and, "bor": np.bitwise_or, "bxor": np.bitwise_xor}
    FLOAT8 = (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
    FLOATS = ("float32", "float64", "float16", ml_dtypes.bfloat16, *FLOAT8)
    INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]

    def array(values):
        x = (comm.empty if len(values) % 2 else np.empty)(len(values), values.dtype)
        x[:] = values
        return x

    def data(q, n, dtype):  # of integers all bits, so that they wrap around
        if dtype in FLOAT8:  # has few whole numbers: sums of four ranks are among them
            return ((np.arange(n) + q) % 2 + 1).astype(dtype)
        if dtype in FLOATS:
            return ((np.arange(n) + q) % 3 + 1).astype(dtype)
        if dtype == "bool":
            return (np.arange(n) >> q) % 2 == 1
        limits, random = np.iinfo(dtype), np.random.default_rng(n * 10 + q)
        return random.integers(limits.min, limits.max, n, dtype, endpoint=True)

    def same(got, want):
        assert got.dtype == want.dtype and (got == want).all(), (dtype, op, n, got, want)

    for dtype in (*FLOATS, *INTEGERS, "bool"):
        for op, function in (EVERY if dtype in FLOATS else BITS).items():
            for n in (1, 5, 4099):
                all_data = [data(q, n * P, dtype) for q in range(P)]
                want = all_data[0]
                for one in all_data[1:]:
                    want = function(want, one)
                x = array(all_data[r])
                out = comm.empty(n * P, dtype)
                same(comm.all_reduce(x, op=op, out=out, deterministic=n == 5), want)
                same(x, all_data[r])
                same(comm.reduce_scatter(x, op=op), want[r * n : r * n + n])
                got = comm.reduce(x, op=op, root=P - 1)
                assert (got is not None) == (r == P - 1)
                if got is not None:
                    same(got, want)

        op, n = "moved", 33
        wide, root = [data(q, n * P, dtype) for q in range(P)], P // 2
        x, mine = array(wide[r]), slice(r * n, r * n + n)
        same(comm.broadcast(x.copy(), root=root), wide[root])
        same(comm.all_gather(x), np.concatenate(wide))
        same(comm.all_to_all(x), np.concatenate([one[mine] for one in wide]))
        same(comm.scatter(x, root=root, out=comm.empty(n, dtype)), wide[root][mine])
        got = comm.gather(x, root=root)
        if got is not None:
            same(got, np.concatenate(wide))
        sent = ("send", x, (r + 1) % P, 3), ("recv", np.empty_like(x), (r - 1) % P, 3)
        same(comm.batch(sent)[1], wide[(r - 1) % P])
        shown = comm.empty(n * P, dtype)
        shown[:] = wide[r]
        for q, part in enumerate(comm.all_gather(shown, view=True)):
            same(part, wide[q])
        comm.barrier()
    mean = comm.all_reduce(np.full(7, float(r), "float32"), op="avg")
    assert np.allclose(mean, (P - 1) / 2)
    x = np.array([1.0, np.nan if r == 1 else 2.0, 3.0], "float32")
    low = comm.all_reduce(x.copy(), op="min")
    assert (P == 1 or np.isnan(low[1])) and low[0] == 1 and low[2] == 3
    for op in ("sum", "bor"):  # two trues are true, and not 2
        assert comm.all_reduce(np.ones(3, "?"), op=op).view("uint8").tolist() == [1, 1, 1]
    assert "all_reduce" in comm.explain("all_reduce", 8, "bool")
    print("fine")
"""

# 1,000 operations: kind, size and dtype from one seed shared by all; memory, offsets and delays of
# each rank's own.
SOAK = """
    import sys, time
    comm = shoal.init(timeout=60)
    count = int(sys.argv[1])
    P, r = comm.size, comm.rank
    other = comm.split(0, -r)
    shared, own = np.random.default_rng(5), np.random.default_rng(100 + r)
    KINDS = ("all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter", "all_to_all",
             "gather", "scatter", "barrier", "exchange")
    DTYPES = (
        "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
        "uint64",
    )

    def array(values):
        if own.integers(2):
            x = comm.empty(values.shape, values.dtype)
        else:
            skew = int(own.integers(8))
            x = np.empty(values.size + skew, values.dtype)[skew:].reshape(values.shape)
        x[:] = values
        return x

    def one(on, kind, n, dtype, root):
        S, me = on.size, on.rank
        def data(q, size):
            return ((np.arange(size) * 7 + q * 3) % 11).astype(dtype)
        mine, wide = data(me, n), data(me, n * S)
        total = sum(data(q, n).astype("float64") for q in range(S)).astype(dtype)
        if kind == "all_reduce":
            return on.all_reduce(array(mine), async_op=True), total
        if kind == "broadcast":
            return on.broadcast(array(mine), root=root, async_op=True), data(root, n)
        if kind == "reduce":
            want = total if me == root else None
            return on.reduce(array(mine), root=root, async_op=True), want
        if kind == "all_gather":
            want = np.concatenate([data(q, n) for q in range(S)])
            return on.all_gather(array(mine), async_op=True), want
        if kind == "reduce_scatter":
            want = sum(data(q, n * S).astype("float64") for q in range(S)).astype(dtype)
            return on.reduce_scatter(array(wide), async_op=True), want[me * n : me * n + n]
        if kind == "all_to_all":
            want = np.concatenate([data(q, n * S)[me * n : me * n + n] for q in range(S)])
            return on.all_to_all(array(wide), async_op=True), want
        if kind == "gather":
            want = np.concatenate([data(q, n) for q in range(S)]) if me == root else None
            return on.gather(array(mine), root=root, async_op=True), want
        if kind == "scatter":
            out = None if me == root else array(np.zeros(n, dtype))
            want = data(root, n * S)[me * n : me * n + n]
            return on.scatter(array(wide), root=root, out=out, async_op=True), want
        if kind == "barrier":
            return on.barrier(async_op=True), None
        into = array(np.zeros(n, dtype))
        sent, received = on.batch(
            [("send", array(mine), (me + 1) % S, 3), ("recv", into, (me - 1) % S, 3)], async_op=True
        )
        pending.append((sent, None, kind))
        return received, data((me - 1) % S, n)

    pending = []
    def drain(limit):
        while len(pending) > limit:
            work, want, kind = pending.pop(0)
            got = work.wait()
            if want is not None:
                assert got.shape == want.shape and (got == want).all(), (kind, got, want)

    for i in range(count):
        kind = KINDS[shared.integers(len(KINDS))]
        n = int((1, 2, 33, 1000, 20000)[shared.integers(5)])
        dtype = DTYPES[shared.integers(len(DTYPES))]
        on = other if shared.integers(3) == 0 else comm
        work, want = one(on, kind, n, dtype, int(shared.integers(P)))
        pending.append((work, want, kind))
        if own.integers(100) == 0:
            time.sleep(float(own.random()) * 0.01)
        drain(8)
    drain(0)
    comm.barrier()
    print("agreed", count)
"""

ASYNCIO = """
    import asyncio
    comm = shoal.init(timeout=20)

    async def main():
        works = [comm.all_reduce(np.full(10, i, "int64"), async_op=True) for i in range(4)]
        return [await work for work in works]

    for i, x in enumerate(asyncio.run(main())):
        assert (x == i * comm.size).all()
    work = comm.barrier(async_op=True)
    work.wait()
    assert work.test() and work.exception() is None
    print("fine")
"""

MEMORY = """
    comm = shoal.init(timeout=20, pool_bytes=64 << 20)
    a = comm.empty((4, 8), "float64")
    assert a.ctypes.data % 64 == 0 and comm.in_pool(a) and not comm.in_pool(np.empty(4))
    before = comm.pool()["used_bytes"]
    b = comm.empty(1 << 20, "uint8")
    assert comm.pool()["used_bytes"] >= before + (1 << 20)
    del b
    assert comm.pool()["used_bytes"] == before
    try:
        comm.empty(128 << 20, "uint8")
    except shoal.OutOfMemory as error:
        assert "128.0 MiB" in str(error) and "64.0 MiB" in str(error), error
        assert isinstance(error, MemoryError)
    else:
        raise AssertionError("no limit")
    x = bytearray(b"\\x01" * 16)
    comm.all_reduce(memoryview(x))
    assert x == bytes([comm.size] * 16)
    comm.barrier()
    print("fine")
"""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_dtype_and_op(job: Runner, ranks: int) -> None:
    assert job(EVERY_DTYPE, ranks).out.count("fine") == ranks


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_thousand_random_collectives_agree_with_numpy(job: Runner, ranks: int) -> None:
    result = job(SOAK, ranks, limit_s=120, arguments=("1000",))
    assert result.out.count("agreed 1000") == ranks


@pytest.mark.parametrize("network", ["tcp", "ucx"])
def test_random_collectives_between_two_hosts(
    job: Runner, two_hosts: TwoHosts, network: str
) -> None:
    result = job(
        SOAK, limit_s=120, launcher=two_hosts.launcher, options=two_hosts.options(2, network),
        arguments=("300",),
    )  # fmt: skip
    assert result.out.count("agreed 300") == 4


def test_work_is_awaitable(job: Runner) -> None:
    assert job(ASYNCIO, 2).out.count("fine") == 2


def test_pool_arrays_and_their_limit(job: Runner) -> None:
    assert job(MEMORY, 2).out.count("fine") == 2
