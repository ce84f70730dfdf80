"""Every wait has an end, and every error names a rank."""

from __future__ import annotations

import json
import pathlib

import pytest
from conftest import Checker, Launcher, names_of_checks


@pytest.mark.parametrize("name", names_of_checks("errors.py"))
def test_errors_while_all_ranks_live(check: Checker, name: str) -> None:
    check("errors.py", name, 3)


# Rank 1 dies while the others wait for it in different ways: a blocking call, a future, a receive.
KILLED = """
    import signal, time
    dist.init_process_group("shoal")
    pair = dist.new_group([0, 2])
    dist.all_reduce(torch.ones(1000))
    if RANK == 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    try:
        if RANK == 0:
            dist.all_reduce(torch.ones(1000))
        else:
            dist.all_reduce(torch.ones(1000), async_op=True).wait()
    except dist.DistBackendError as error:
        assert "rank 1" in str(error) and "PeerFailed" in str(error), error
        print("told:", error)
    else:
        raise AssertionError("no error")
    assert time.monotonic() - started < 5, time.monotonic() - started
    # again, at once; and not for ever of a receive
    started = time.monotonic()
    for call in (lambda: dist.all_reduce(torch.ones(3)), lambda: dist.recv(torch.ones(3), 1)):
        try:
            call()
        except dist.DistBackendError as error:
            assert "rank 1" in str(error), error
        else:
            raise AssertionError("no error")
    assert time.monotonic() - started < 5, time.monotonic() - started
    print("ended in order")
"""


def test_a_killed_peer_is_named_within_seconds(launch: Launcher) -> None:
    result = launch(KILLED, ranks=3, limit_s=40, expect=None)
    assert result.returncodes == [0, -9, 0], str(result)
    for rank in (0, 2):
        assert "ended in order" in result.outputs[rank], str(result)


def test_a_rank_that_leaves_too_early_is_named(launch: Launcher) -> None:
    result = launch(
        """
        dist.init_process_group("shoal")
        dist.all_reduce(torch.ones(3))
        if RANK == 1:
            raise SystemExit(0)
        try:
            dist.all_reduce(torch.ones(1000))
        except dist.DistBackendError as error:
            assert "rank 1" in str(error), error
        else:
            raise AssertionError("no error")
        """,
        limit_s=40,
    )
    assert result.seconds < 30, str(result)


def test_a_rank_that_never_comes_is_named(launch: Launcher) -> None:
    result = launch(
        """
        from datetime import timedelta
        store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), SIZE, RANK == 0)
        if RANK == 1:
            store.get("over")
            raise SystemExit(0)
        try:
            dist.init_process_group(
                "shoal", store=store, rank=RANK, world_size=SIZE, timeout=timedelta(seconds=2)
            )
        except dist.DistStoreError as error:
            assert "have not come: 1" in str(error), error
            print("told:", error)
        else:
            raise AssertionError("no error")
        store.set("over", "")
        store.get("over")
        """,
        limit_s=40,
    )
    assert "told:" in result.outputs[0]


# Torch's own check of what the ranks call, which wraps the backend.
DETAIL = """
    import shoal.torch
    dist.init_process_group("shoal")
    x = torch.ones(1000)
    dist.all_reduce(x)
    assert (x == SIZE).all()
    outputs = [torch.empty(5) for _ in range(SIZE)]
    dist.all_gather(outputs, torch.full((5,), float(RANK)))
    assert [int(one[0]) for one in outputs] == list(range(SIZE))
    assert type(shoal.torch.backend()).__name__ == "ProcessGroupShoal"
    with shoal.torch.pool():
        assert shoal.torch.in_pool(torch.empty(1000))
    try:
        dist.all_reduce(torch.ones(1000 + RANK))
    except RuntimeError as error:
        assert "Detected mismatch between collectives on ranks" in str(error), error
        print("told:", error)
    else:
        raise AssertionError("no error")
"""


def test_torch_s_own_debugging_reports_a_mismatched_shape(launch: Launcher) -> None:
    result = launch(DETAIL, limit_s=40, variables={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"})
    assert all("told:" in output for output in result.outputs), str(result)


def test_after_a_timeout_every_rank_writes_down_what_it_did(
    launch: Launcher, tmp_path: pathlib.Path
) -> None:
    prefix = str(tmp_path / "trace_rank_")
    launch(
        """
        import datetime, time
        import shoal.torch
        dist.init_process_group("shoal", timeout=datetime.timedelta(seconds=2))
        dist.broadcast(torch.ones(7, dtype=torch.int32), 0)
        if RANK == 1:
            time.sleep(4)
        try:
            dist.all_reduce(torch.ones(1000))
        except dist.DistBackendError as error:
            assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] + str(RANK) in str(error), error
        else:
            raise AssertionError("no error")
        last = shoal.torch.last_operations()[-1]
        assert (last["operation"], last["elements"]) == ("shoal:all_reduce", 1000), last
        """,
        variables={"TORCH_FR_DUMP_TEMP_FILE": prefix},
        limit_s=40,
    )
    for rank in range(2):
        dump = json.loads(pathlib.Path(prefix + str(rank)).read_text())
        assert dump["rank"] == rank and "rank 1" in dump["reason"], dump
        first, *_, last = dump["operations"]
        assert (first["operation"], first["elements"], first["dtype"], first["state"]) == (
            "shoal:broadcast", 7, "Int", "completed",
        ), dump  # fmt: skip
        assert last["operation"] == "shoal:all_reduce" and last["state"] != "completed", dump


def test_split_sizes_on_some_ranks_only(launch: Launcher) -> None:
    result = launch(
        """
        import datetime
        dist.init_process_group("shoal", timeout=datetime.timedelta(seconds=2))
        x, y = torch.ones(10), torch.empty(10)
        try:
            dist.all_to_all_single(y, x, *([[5, 5], [5, 5]] if RANK == 0 else []))
        except dist.DistBackendError as error:
            print("told:", error)
        """,
        limit_s=40,
    )
    assert any("have to give split sizes, or none" in output for output in result.outputs)
    assert all("told:" in output for output in result.outputs), str(result)


@pytest.mark.parametrize(
    "call",
    [
        "dist.all_reduce(x[0], async_op=True)",
        "dist.gather(mine, x if RANK == 0 else None, async_op=True)",
    ],
)
def test_tensors_whose_pages_were_cut_off_get_pages_of_their_own(
    launch: Launcher, call: str
) -> None:
    """A stopped rank may go on to write into an operation that has failed elsewhere."""
    launch(
        """
        import datetime, signal, time
        import shoal.torch
        dist.init_process_group("shoal", timeout=datetime.timedelta(seconds=2))
        mine, x = torch.ones(300_000), [torch.ones(300_000) for _ in range(SIZE)]
        begin = lambda: CALL
        for _ in range(4):
            begin().wait()
        written = [one for one in x if shoal.torch.in_pool(one)]
        assert RANK == 1 or written
        store = dist.distributed_c10d._get_default_store()
        store.set_timeout(datetime.timedelta(seconds=20))
        if RANK == 1:
            work = begin()  # it has, and may write
            store.set("pid", str(os.getpid()))
            store.get("go on")
        else:
            peer = int(store.get("pid"))
            os.kill(peer, signal.SIGSTOP)
            tasks = [f"/proc/{peer}/task/{task}/stat" for task in os.listdir(f"/proc/{peer}/task")]
            while any(open(task).read().rpartition(")")[2].split()[0] != "T" for task in tasks):
                time.sleep(0.001)  # a thread that runs on another core stops a little later
        try:
            (work if RANK == 1 else begin()).wait()
        except dist.DistBackendError as error:
            print("told:", error)
        else:
            raise AssertionError("no error")
        if RANK == 0:
            assert not any(shoal.torch.in_pool(one) for one in x)
            left = shoal.torch.statistics()["adopted_tensors"]
            assert left == shoal.torch.in_pool(mine), left
            for one in written:
                one.fill_(3)
            os.kill(peer, signal.SIGCONT)
            store.set("go on", "")
            store.get("over")
            assert all((one == 3).all() for one in written)
        else:
            mine.fill_(4)
            x[0].fill_(4)
            store.set("over", "")
        """.replace("CALL", call),
        limit_s=40,
    )
