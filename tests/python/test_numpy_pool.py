"""numpy allocates from the pool: an existing program moves its arrays without a copy."""

from __future__ import annotations

from conftest import Runner

PROGRAM = """
    import os
    from shoal import pages
    comm = shoal.init(timeout=20)
    P, r = comm.size, comm.rank

    def train():
        rng = np.random.default_rng(5)
        weights = rng.standard_normal((64, 64))
        for step in range(5):
            x = rng.standard_normal((32, 64)) + r
            gradient = x.T @ (x @ weights) / len(x)
            comm.all_reduce(gradient, op="avg")
            weights = weights - 0.01 * gradient
        return weights, gradient

    plain, gradient = train()
    assert not comm.in_pool(plain) and not comm.in_pool(gradient)
    with shoal.numpy_pool():
        pooled, gradient = train()
    assert comm.in_pool(pooled) and comm.in_pool(gradient)
    assert (pooled == plain).all()
    assert not comm.in_pool(np.ones(10000))

    # What lies in the pool is folded where it lies; what does not takes more steps, which the
    # rank's own progress page has counted.
    files = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    arena = os.open(next(f for f in files if pages.ARENA_NAME in os.path.realpath(f)), os.O_RDONLY)
    slice_bytes = pages.HEADER.unpack(os.pread(arena, pages.HEADER.size, 0))[3]

    def steps(x):
        x[:] = r
        comm.all_reduce(x)
        assert x[0] == x[-1] == sum(range(P))
        page = os.pread(arena, pages.PAGE_BYTES, r * slice_bytes + pages.PAGE_OFFSET)
        places = range(pages.PAGE.size, pages.STAGED_OFFSET, pages.RECORD.size)
        records = [pages.RECORD.unpack_from(page, at) for at in places]
        return max(records)[9]  # of the highest sequence number

    used = comm.pool()["used_bytes"]
    with shoal.numpy_pool():
        x = np.empty(1 << 20, "int64")
    assert comm.pool()["used_bytes"] == used + x.nbytes
    direct, other = steps(x), steps(np.empty(1 << 20, "int64"))
    assert 0 < direct < other, (direct, other)
    y = comm.broadcast(x, root=0, view=True)
    assert y is x or not y.flags.writeable
    comm.barrier()
    print("fine")
"""

MEMORY = """
    import gc, threading
    comm = shoal.init(timeout=20, pool_bytes=64 << 20)
    def blocks():
        return comm.pool()["blocks"]
    before = blocks()
    with shoal.numpy_pool():
        small, large = np.ones(100, "uint8"), np.arange(4096, dtype="uint8")
        zeros = np.zeros((1000, 1000), "float32")
        assert not comm.in_pool(small) and comm.in_pool(large) and comm.in_pool(zeros)
        assert not zeros.any()
        zeros += 1
        del zeros
        again = np.zeros((1000, 1000), "float32")  # the same block, with ones in it
        assert not again.any() and again.ctypes.data % 64 == 0

        # resized in place: from here to there, and within
        large.resize(8192, refcheck=False)
        assert comm.in_pool(large) and (large[:4096] == np.arange(4096) % 256).all()
        large.resize(16, refcheck=False)
        assert not comm.in_pool(large) and large.tolist() == list(range(16))
        small.resize(8192, refcheck=False)
        assert small[:100].all() and not small[100:].any()

        # a full pool is no error
        rest = [np.ones(8 << 20, "uint8") for _ in range(12)]
        assert 0 < sum(comm.in_pool(x) for x in rest) < 12 and all(x.all() for x in rest)
        del rest

        # nested, with another limit, and left by an exception
        try:
            with shoal.numpy_pool(comm, smallest=1 << 20):
                inner = np.ones(1 << 20, "uint8")
                medium = np.ones(8192, "uint8")
                assert comm.in_pool(inner) and comm.in_pool(medium)  # from the outer one
                raise KeyError
        except KeyError:
            pass
        assert comm.in_pool(np.ones(4096, "uint8"))

        # another thread has its own handler, and may free what this one has made
        made = []
        given = [np.ones(1 << 16)]
        def work():
            made.append(np.ones(1 << 16))
            given.clear()
        thread = threading.Thread(target=work)
        held = blocks()
        thread.start()
        thread.join()
        assert not comm.in_pool(made[0]) and blocks() == held - 1
    assert not comm.in_pool(np.ones(8192))
    assert comm.in_pool(inner) and inner.all() and medium.all()
    del again, inner, medium
    gc.collect()
    assert blocks() == before, (blocks(), before)
    print("fine")
"""

OUTLIVES = """
    import gc, os
    comm = shoal.init(timeout=20)
    with shoal.numpy_pool():
        x = np.arange(100000)
        child = os.fork()
        if child == 0:
            y = np.ones(100000)  # the pool is the parent's
            ok = not comm.in_pool(y) and (x == np.arange(100000)).all()
            del x
            os._exit(0 if ok else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        kept = np.arange(100000)
    assert (x == kept).all()
    comm.barrier()
    comm.finalize()
    del comm
    gc.collect()
    assert x.sum() == kept.sum() == 4999950000
    y = x * 2
    del x
    assert (y == 2 * kept).all()
    try:
        with shoal.numpy_pool():
            pass
    except shoal.InvalidArgument as error:
        assert "shoal.init()" in str(error), error
    else:
        raise AssertionError("there is no communicator")
    print("fine")
"""


def test_an_unmodified_program_has_its_arrays_in_the_pool(job: Runner) -> None:
    assert job(PROGRAM, 2).out.count("fine") == 2


def test_memory_is_given_and_taken_back_by_whom_it_came_from(job: Runner) -> None:
    assert job(MEMORY, 1).out.count("fine") == 1


def test_arrays_outlive_the_block_the_communicator_and_a_fork(job: Runner) -> None:
    assert job(OUTLIVES, 2).out.count("fine") == 2
