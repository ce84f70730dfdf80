"""torch.distributed over shoal on CUDA tensors, on ranks that share a GPU: collectives beside the
same ones on CPU tensors, streams, graphs, DDP, FSDP2, and what a rank that dies or is late does.

    python tests/gpu/torch_cuda.py [NAME...]      # of checks; it starts its own ranks
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta

import ranks

LIMIT_S = 90.0
RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if "RANK" in os.environ:  # the parent of the ranks needs none of it
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch import nn
    from torch.distributed.distributed_c10d import _coalescing_manager

    import shoal.torch

    DEVICE = torch.device("cuda", 0)
SUM = float(sum(range(1, SIZE + 1)))
DELAY_MS = 300


def start() -> str | None:
    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} finds no GPU")
    torch.cuda.set_device(DEVICE)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of calls that have new names in torch 2.13
    torch.zeros(1, device=DEVICE)
    dist.init_process_group("shoal", timeout=timedelta(seconds=20))
    return None


def mine(count: int, factor: float = 1) -> torch.Tensor:
    return torch.full((count,), float((RANK + 1) * factor), device=DEVICE)


def require_sum(x: torch.Tensor, factor: float = 1) -> None:
    """Comes after what is on the current stream."""
    host = x.cpu()
    wrong = (host != SUM * factor).sum().item()
    assert wrong == 0, f"{wrong} of {host.numel()} elements are not {SUM * factor}: {host[:4]}"


def through_host() -> int:
    return shoal.torch.statistics()["copied_through_host"]


# --- collectives -------------------------------------------------------------------------------

Put = Callable[["torch.Tensor"], "torch.Tensor"]


def every_call(rows: torch.Tensor, put: Put) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """What each call of torch.distributed has written. `rows`: one for each rank."""
    root, row, dtype = SIZE - 1, rows[0], rows.dtype
    some = dist.ReduceOp
    ops = [some.SUM, some.PRODUCT, some.MIN, some.MAX]
    if dtype.is_floating_point:
        ops.append(some.AVG)
    elif dtype != torch.bool:
        ops += [some.BAND, some.BOR, some.BXOR]

    def room(count: int) -> list[torch.Tensor]:
        return [put(torch.zeros_like(row)) for _ in range(count)]

    for op in ops:
        x = put(row)
        dist.all_reduce(x, op=op)
        yield f"all_reduce {op}", [x]
    x = put(row)
    dist.reduce(x, root)
    yield "reduce", [x] if root == RANK else []
    x = put(row)
    dist.broadcast(x, root)
    yield "broadcast", [x]
    parts = room(SIZE)
    dist.all_gather(parts, put(row))
    yield "all_gather", parts
    whole = put(torch.zeros_like(rows))
    dist.all_gather_into_tensor(whole, put(row))
    yield "all_gather_into_tensor", [whole]
    [part] = room(1)
    dist.reduce_scatter(part, [put(one) for one in rows])
    yield "reduce_scatter", [part]
    [part] = room(1)
    dist.reduce_scatter_tensor(part, put(rows))
    yield "reduce_scatter_tensor", [part]
    parts = room(SIZE)
    dist.all_to_all(parts, [put(one) for one in rows])
    yield "all_to_all", parts
    whole = put(torch.zeros_like(rows))
    dist.all_to_all_single(whole, put(rows))
    yield "all_to_all_single", [whole]
    parts = room(SIZE) if root == RANK else []
    dist.gather(put(row), parts or None, dst=root)
    yield "gather", parts
    [part] = room(1)
    dist.scatter(part, [put(one) for one in rows] if root == RANK else None, src=root)
    yield "scatter", [part]
    [part] = room(1)
    for work in dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, put(row), (RANK + 1) % SIZE),
            dist.P2POp(dist.irecv, part, (RANK - 1) % SIZE),
        ]
    ):
        work.wait()
    yield "batch_isend_irecv", [part]
    parts = [put(one) for one in rows]
    with _coalescing_manager(async_ops=True) as manager:
        for one in parts:
            dist.all_reduce(one)
    manager.wait()
    yield "coalesced", parts
    dist.barrier()


def every_message(row: torch.Tensor, put: Put) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """From each rank to the next, one after the other."""
    x = put(row)
    for rank in range(SIZE - 1):
        if rank == RANK:
            dist.send(x, rank + 1, tag=7)
        elif rank + 1 == RANK:
            dist.recv(x, rank, tag=7)
    yield "send and recv", [x]


def values(dtype: torch.dtype, count: int) -> torch.Tensor:
    """Of this rank: small numbers with a fraction, where there are fractions."""
    generator = torch.Generator().manual_seed(17 * RANK + count)
    whole = torch.randint(0, 9, (SIZE, count), generator=generator)
    if not dtype.is_floating_point:
        return whole.to(dtype)
    return (whole + torch.rand(whole.shape, generator=generator)).to(dtype)


def compare(dtype: torch.dtype, calls: Callable[..., Iterator[tuple[str, list[torch.Tensor]]]],
            x: torch.Tensor) -> int:  # fmt: skip
    compared = 0
    on_host = list(calls(x, torch.clone))
    for (name, want), (_, got) in zip(on_host, calls(x, lambda t: t.to(DEVICE)), strict=True):
        for a, b in zip(want, got, strict=True):
            assert b.is_cuda
            bits_a, bits_b = a.view(torch.uint8), b.cpu().view(torch.uint8)
            wrong = (bits_a != bits_b).sum().item()
            assert wrong == 0, f"{name} of {dtype}, {tuple(x.shape)}: {wrong} bytes differ"
        compared += 1
    return compared


def has_the_bits_of_cpu_tensors(*dtypes: torch.dtype) -> str:
    compared = 0
    for dtype in dtypes:
        for count in (1, 1000, 300_001):
            x = values(dtype, count)
            before = through_host()
            compared += compare(dtype, every_call, x)
            assert through_host() == before, "a collective went through the host"
            compared += compare(dtype, every_message, x[0])
            messages = through_host() - before
            assert messages == (2 if 0 < RANK < SIZE - 1 else 1), messages
    return f"{compared} calls"


def collectives_float32_int64_bool() -> str:
    return has_the_bits_of_cpu_tensors(torch.float32, torch.int64, torch.bool)


def collectives_bfloat16_float16() -> str:
    return has_the_bits_of_cpu_tensors(torch.bfloat16, torch.float16)


def collectives_float8() -> str:
    return has_the_bits_of_cpu_tensors(torch.float8_e4m3fn, torch.float8_e5m2)


# --- streams -----------------------------------------------------------------------------------


def ready_to_sleep(x: torch.Tensor) -> int:
    """The cycles of DELAY_MS. The first calls of a group, and those that need more memory, may
    wait for the device: those of this size are over. `x` is left as it was."""
    before = x.clone()
    dist.all_reduce(x)
    dist.all_reduce(x, async_op=True).wait()
    x.copy_(before)
    cycles: int = ranks.cycles_of(torch, DELAY_MS)
    torch.cuda.synchronize()
    dist.barrier()
    return cycles


def a_blocking_call_is_the_current_streams() -> str:
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            x, source = torch.zeros(30_000, device=DEVICE), mine(30_000)
            cycles = ready_to_sleep(x)
            begin = time.monotonic()
            torch.cuda._sleep(cycles)
            x.copy_(source)
            dist.all_reduce(x)
            ranks.at_once(begin, DELAY_MS)
            assert not stream.query(), "the stream was idle at once"
            require_sum(x * 2, 2)
    return "the host went on; a reader on the stream saw the sum"


def an_asynchronous_call_is_waited_for_by_another_stream() -> str:
    other = torch.cuda.Stream()
    x, source = torch.zeros(30_000, device=DEVICE), mine(30_000)
    cycles = ready_to_sleep(x)
    begin = time.monotonic()
    torch.cuda._sleep(cycles)
    x.copy_(source)
    work = dist.all_reduce(x, async_op=True)
    with torch.cuda.stream(other):
        work.wait()
        ranks.at_once(begin, DELAY_MS)
        assert not work.is_completed()
        require_sum(x * 2, 2)
    until(work.is_completed)
    assert work.is_success()
    return "wait() ordered it and kept no host"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "10 s have passed"
        time.sleep(0.001)


def computation_goes_on_beside() -> str:
    """Rank 1 comes late; the current stream of the others does not wait for it."""
    x, y = mine(3000), torch.ones(3000, device=DEVICE)
    y.copy_(y * 3)
    ready_to_sleep(x)
    if RANK == 1:
        time.sleep(DELAY_MS / 1000)
    work = dist.all_reduce(x, async_op=True)
    y.copy_(y * 3)
    torch.cuda.current_stream().synchronize()
    assert RANK == 1 or not work.is_completed(), "the current stream has waited"
    assert (y.cpu() == 9).all()
    assert work.wait(timedelta(seconds=10))  # with a time-out: the host's
    assert work.is_completed()
    require_sum(x)
    return "and wait(timeout) is the host's"


def futures_are_ordered_by_streams() -> str:
    x, source = torch.zeros(3000, device=DEVICE), mine(3000)
    cycles = ready_to_sleep(x)
    torch.cuda._sleep(cycles)
    x.copy_(source)
    future = dist.all_reduce(x, async_op=True).get_future()
    assert future.done()  # for the host
    then = future.then(lambda done: done.value()[0] * 2)
    [value] = future.wait()
    assert value.data_ptr() == x.data_ptr()
    require_sum(value)
    require_sum(then.wait(), 2)
    return "then() had a stream that came after"


def memory_is_not_used_again_too_early() -> str:
    """Rank 1's stream is late: tensors of works that nobody holds are still read then."""
    cycles = ready_to_sleep(mine(3)) // 4
    count = 2 << 20
    for turn in range(6):
        whole = torch.zeros(SIZE * count, device=DEVICE)
        if RANK == 1:
            torch.cuda._sleep(cycles)
        dist.all_gather_into_tensor(whole, mine(count, turn + 1), async_op=True)
        # As large as what was dropped, so the allocator gives out the same memory if it may.
        garbage = [torch.full((count,), -1.0, device=DEVICE) for _ in range(4)]
        del garbage
        dist.barrier()
        for rank, part in enumerate(whole.chunk(SIZE)):
            wrong = (part != (rank + 1.0) * (turn + 1)).sum().item()
            assert wrong == 0, f"turn {turn}: {wrong} elements of rank {rank} were overwritten"
    return f"6 turns of {count * 4 >> 20} MiB"


def memory_under_pressure() -> str:
    """empty_cache() gives memory back to the driver while operations are on their way."""
    for turn in range(8):
        tensors = [mine(1 << 20, turn + i + 1) for i in range(8)]
        works = [dist.all_reduce(x, async_op=True) for x in tensors]
        if turn % 2:
            torch.cuda.empty_cache()
        for work in works:
            work.wait()
        for i, x in enumerate(tensors):
            require_sum(x, turn + i + 1)
        del tensors, works
        torch.cuda.empty_cache()
    return "64 calls, memory given back to the driver between them"


def many_calls_in_flight() -> str:
    tensors = [mine(100 * (1 + i % 50), i + 1) for i in range(600)]
    works = [dist.all_reduce(x, async_op=i % 3 > 0) for i, x in enumerate(tensors)]
    for work in reversed(works):
        if work is not None:
            work.wait()
    for i, x in enumerate(tensors):
        require_sum(x, i + 1)
    return "600 calls, more than the ring holds"


def cpu_and_cuda_take_turns() -> str:
    for i in range(50):
        x, y = torch.full((100,), float(i)), mine(100)
        dist.all_reduce(x)
        dist.all_reduce(y, async_op=True).wait()
        assert (x == SIZE * i).all()
        require_sum(y)
    return "100 calls"


# --- graphs ------------------------------------------------------------------------------------


def replay(mode: str) -> str:
    x = shoal.torch.backend().allocate_tensor(3000, dtype=torch.float32, device=DEVICE)
    x.zero_()
    y, source = torch.zeros(3000, device=DEVICE), mine(3000)
    dist.all_reduce(x)
    torch.cuda.synchronize()
    dist.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        x.copy_(source)
        dist.all_reduce(x)
        dist.all_reduce(x, async_op=True).wait()
        y.copy_(x)
    for turn in range(1, 6):
        source.copy_(mine(3000, turn))
        graph.replay()
        require_sum(y, SIZE * turn)
    dist.all_reduce(mine(10))  # an ordinary call between
    for turn in range(1, 6):
        source.copy_(mine(3000, turn))
        graph.replay()
    require_sum(y, SIZE * 5)
    return "10 replays"


def graph_capture() -> str:
    return replay("global")


def graph_capture_thread_local() -> str:
    return replay("thread_local")


def graph_needs_pool_memory() -> str:
    x = mine(3000)
    dist.all_reduce(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            dist.all_reduce(x)
    except RuntimeError as error:
        assert "pool" in str(error), error
    else:
        raise AssertionError("torch's own memory was captured")
    torch.cuda.synchronize()
    x = mine(10)
    dist.all_reduce(x)
    require_sum(x)
    return "torch's own memory is refused, and the group goes on"


# --- training ----------------------------------------------------------------------------------

WORDS, WIDTH, LENGTH, BATCH = 128, 64, 32, 8


def transformer() -> nn.Module:
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 128, dropout=0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), body, nn.Linear(WIDTH, WORDS)).to(DEVICE)


def text(step: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randint(0, WORDS, (BATCH, LENGTH + 1), generator=generator).to(DEVICE)


def loss_of(model: nn.Module, words: torch.Tensor) -> torch.Tensor:
    said = model(words[:, :-1])
    return F.cross_entropy(said.reshape(-1, WORDS), words[:, 1:].reshape(-1))


def trained_alone(steps: int) -> dict[str, torch.Tensor]:
    """By one process, with the batches of all ranks."""
    model = transformer()
    before = [value.detach().clone() for value in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        for rank in range(SIZE):
            (loss_of(model, text(step, rank)) / SIZE).backward()
        optimizer.step()
        optimizer.zero_grad()
    pairs = zip(before, model.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs), "some weights have not been trained"
    return {name: value.detach() for name, value in model.named_parameters()}


def train(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        loss_of(model, text(step, RANK)).backward()
        optimizer.step()
        optimizer.zero_grad()


def require_close(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> float:
    """The largest difference."""
    assert got.keys() == want.keys(), (got.keys(), want.keys())
    for name, value in want.items():
        torch.testing.assert_close(got[name].cpu(), value.cpu(), rtol=1e-3, atol=2e-5)
    return float(max((got[name].cpu() - x.cpu()).abs().max() for name, x in want.items()))


def ddp() -> str:
    from torch.nn.parallel import DistributedDataParallel

    steps, before = 5, through_host()
    model = DistributedDataParallel(transformer(), device_ids=[0], bucket_cap_mb=0.1)
    train(model, steps)
    weights = {name: value.detach() for name, value in model.module.named_parameters()}
    assert through_host() == before
    flat = torch.cat([value.flatten() for value in weights.values()])
    all_of_them = torch.empty(SIZE, flat.numel())
    dist.all_gather_into_tensor(all_of_them, flat.cpu())
    assert all(torch.equal(one, all_of_them[0]) for one in all_of_them), "ranks differ"
    worst = require_close(weights, trained_alone(steps))
    return f"{steps} steps, ranks equal to the bit, {worst:.1e} off one process"


def fsdp2(*, in_pool: bool) -> str:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    steps, before = 3, through_host()
    mesh = init_device_mesh("cuda", (SIZE,))
    model = transformer()
    for layer in model[1].layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if in_pool:
        model.set_allocate_memory_from_process_group_for_comm(True)
    train(model, steps)
    weights = {name: value.full_tensor().detach() for name, value in model.named_parameters()}
    assert through_host() == before
    worst = require_close(weights, trained_alone(steps))
    return f"{steps} steps, {worst:.1e} off one process"


def fsdp2_with_torchs_memory() -> str:
    return fsdp2(in_pool=False)


def fsdp2_with_pool_memory() -> str:
    return fsdp2(in_pool=True)


# --- when it goes wrong ------------------------------------------------------------------------


def kill_9_of_a_rank() -> str:
    x = mine(100_000)
    dist.all_reduce(x)
    torch.cuda.synchronize()
    dist.barrier()
    if RANK == 1:
        time.sleep(0.3)
        os.kill(os.getpid(), 9)
    begin = time.monotonic()
    dist.all_reduce(x)  # nobody waits for it
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    torch.cuda.synchronize()
    released_s = time.monotonic() - begin
    assert released_s < 10, f"the streams were let go after {released_s:.1f} s"
    until(work.is_completed)
    for call in (lambda: dist.all_reduce(x), work.wait, dist.barrier):
        ranks.raises(dist.DistBackendError, call, "rank 1", "PeerFailed")
    assert not work.is_success()
    return f"named; streams let go {released_s - 0.3:.2f} s after it"


def a_rank_that_never_calls() -> str:
    group = dist.new_group(timeout=timedelta(seconds=2))
    x = mine(1000)
    dist.all_reduce(x, group=group)
    torch.cuda.synchronize()
    dist.barrier()
    if RANK == 1:
        time.sleep(5)
        return "late"
    begin = time.monotonic()
    dist.all_reduce(x, group=group)  # nobody waits for this one
    torch.cuda.synchronize()
    took_s = time.monotonic() - begin
    assert 1.5 < took_s < 8, took_s
    ranks.raises(
        dist.DistBackendError, lambda: dist.all_reduce(x, group=group), "Timeout", "rank 1"
    )
    return f"named after {took_s:.2f} s; the deadline is 2 s"


def cpu_and_cuda_in_one_call() -> str:
    group = dist.new_group()
    x = mine(100).cpu() if RANK == 1 else mine(100)
    ranks.raises(
        dist.DistBackendError,
        lambda: dist.all_reduce(x, group=group, async_op=True).wait(timedelta(seconds=10)),
        "Mismatch", "CUDA",
    )  # fmt: skip
    dist.barrier()
    return "a mismatch, on both ranks"


CHECKS = [
    ranks.Check(collectives_float32_int64_bool),
    ranks.Check(collectives_bfloat16_float16),
    ranks.Check(collectives_float8),
    ranks.Check(a_blocking_call_is_the_current_streams),
    ranks.Check(an_asynchronous_call_is_waited_for_by_another_stream),
    ranks.Check(computation_goes_on_beside),
    ranks.Check(futures_are_ordered_by_streams),
    ranks.Check(memory_is_not_used_again_too_early),
    ranks.Check(memory_under_pressure),
    ranks.Check(many_calls_in_flight),
    ranks.Check(cpu_and_cuda_take_turns),
    ranks.Check(graph_capture),
    ranks.Check(graph_capture_thread_local),
    ranks.Check(graph_needs_pool_memory),
    ranks.Check(ddp),
    ranks.Check(fsdp2_with_torchs_memory),
    ranks.Check(fsdp2_with_pool_memory),
    ranks.Check(cpu_and_cuda_in_one_call),
    ranks.Check(a_rank_that_never_calls, ends_job=True),
    ranks.Check(kill_9_of_a_rank, ends_job=True, dies=(1,)),
]

if __name__ == "__main__":
    sys.exit(ranks.main(CHECKS, start, LIMIT_S))
