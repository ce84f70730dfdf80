"""What torch.distributed's nccl backend is asked in tests/gpu/nccl_users.py; each part beside the
same by torch on the CPU. A program for `shoal run`: `nccl_users_program.py PART...`; a line
`PART: right` or `PART: wrong` for each. Where there is no GPU it asks gloo, to be tried itself.
"""

from __future__ import annotations

import datetime
import os
import sys
import traceback
from collections.abc import Callable

import torch
import torch.distributed as dist

COUNTS = (1, 1000, 65_537, 1_000_003)
DTYPES = (torch.float32, torch.int64, torch.bfloat16)
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
TIMEOUT = datetime.timedelta(seconds=20)


def contents(count: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """Every rank's input, on the CPU. Small integers: sums are exact in any order."""
    made = []
    for rank in range(dist.get_world_size()):
        random = torch.Generator().manual_seed(1000 * seed + rank)
        made.append(torch.randint(1, 5, (count,), generator=random).to(dtype))
    return made


def expect(name: str, got: torch.Tensor, want: torch.Tensor) -> None:
    here = got.cpu()
    if torch.equal(here, want):
        return
    at = int((here != want).nonzero()[0][0])
    raise AssertionError(
        f"{name}, {want.dtype}, {want.numel()}: element {at} is {here[at]}, not {want[at]}"
    )


def collectives() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    root = size - 1
    for dtype in DTYPES:
        for count in COUNTS:
            inputs = contents(count, dtype)
            stack = torch.stack(inputs)
            sums = stack.sum(0, dtype=dtype)

            def mine(inputs: list[torch.Tensor] = inputs) -> torch.Tensor:
                return inputs[rank].to(DEVICE, copy=True)

            x = mine()
            dist.all_reduce(x)
            expect("all_reduce", x, sums)
            x = mine()
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
            expect("all_reduce max", x, stack.amax(0))
            x = mine()
            dist.broadcast(x, src=root)
            expect("broadcast", x, inputs[root])
            x = mine()
            dist.reduce(x, dst=root)
            if rank == root:
                expect("reduce", x, sums)
            whole = torch.empty(size * count, dtype=dtype, device=DEVICE)
            dist.all_gather_into_tensor(whole, mine())
            expect("all_gather_into_tensor", whole, stack.flatten())
            parts = [torch.empty(count, dtype=dtype, device=DEVICE) for _ in range(size)]
            dist.all_gather(parts, mine())
            expect("all_gather", torch.stack(parts).flatten(), stack.flatten())
            wide = torch.stack(contents(size * count, dtype, seed=1))
            part = torch.empty(count, dtype=dtype, device=DEVICE)
            if ON_GPU:  # not every gloo has it
                dist.reduce_scatter_tensor(part, wide[rank].to(DEVICE))
                want = wide.sum(0, dtype=dtype)[rank * count : (rank + 1) * count]
                expect("reduce_scatter_tensor", part, want)
            out = torch.empty(size * count, dtype=dtype, device=DEVICE)
            dist.all_to_all_single(out, wide[rank].to(DEVICE))
            want = torch.cat([w[rank * count : (rank + 1) * count] for w in wide])
            expect("all_to_all_single", out, want)


def average() -> None:
    for count in COUNTS:
        inputs = contents(count, torch.float32)
        x = inputs[dist.get_rank()].to(DEVICE, copy=True)
        dist.all_reduce(x, op=dist.ReduceOp.AVG)
        expect("all_reduce avg", x, torch.stack(inputs).sum(0) / dist.get_world_size())


def messages() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    after, before = (rank + 1) % size, (rank - 1) % size
    for count in COUNTS:
        inputs = contents(count, torch.float32)
        x, y = inputs[rank].to(DEVICE), torch.zeros(count, device=DEVICE)
        batch = [dist.P2POp(dist.isend, x, after), dist.P2POp(dist.irecv, y, before)]
        for work in dist.batch_isend_irecv(batch):
            work.wait()
        expect("batch_isend_irecv", y, inputs[before])
        y = torch.zeros(count, device=DEVICE)
        if rank == 0:
            dist.send(x, after)
        elif rank == 1:
            dist.recv(y, 0)
            expect("send, recv", y, inputs[0])


def streams() -> None:
    """A call waits for what is before it on its stream, and what is behind it for the call."""
    if not ON_GPU:
        return
    size = dist.get_world_size()
    side = torch.cuda.Stream()
    x = torch.zeros(1 << 20, device=DEVICE)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # 10 ms
        x += 1
        work = dist.all_reduce(x, async_op=True)
        work.wait()
        x *= 2
    side.synchronize()
    expect("all_reduce on a stream", x, torch.full((1 << 20,), 2.0 * size))


def groups() -> None:
    """ncclCommSplit, where the group was connected by init_process_group(device_id=...)."""
    rank, size = dist.get_rank(), dist.get_world_size()
    everyone, alone = dist.new_group(range(size)), dist.new_group([0])
    x = torch.full((1000,), float(rank + 1), device=DEVICE)
    dist.all_reduce(x, group=everyone)
    expect("all_reduce of a new group", x, torch.full((1000,), size * (size + 1) / 2))
    if rank == 0:
        dist.all_reduce(x, group=alone)
        expect("all_reduce of one", x, torch.full((1000,), size * (size + 1) / 2))


def ddp() -> None:
    """Three steps beside the same model without DDP on the whole batch."""
    rank, size = dist.get_rank(), dist.get_world_size()

    def model() -> torch.nn.Module:
        torch.manual_seed(7)
        layers = torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8)
        return torch.nn.Sequential(*layers).to(DEVICE)

    alone, shared = model(), torch.nn.parallel.DistributedDataParallel(model())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (alone, shared)]
    for step in range(3):
        random = torch.Generator().manual_seed(step)
        batch = torch.randn(size * 16, 64, generator=random).to(DEVICE)
        inputs = batch, batch[rank * 16 : (rank + 1) * 16]
        for net, optimizer, x in zip((alone, shared), optimizers, inputs, strict=True):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def premultiplied() -> None:
    """ncclRedOpCreatePreMulSum: what shoal's own libnccl.so.2 passes on for CUDA memory."""
    if not ON_GPU:
        return
    inputs = contents(1000, torch.float32)
    x = inputs[dist.get_rank()].to(DEVICE, copy=True)
    dist.all_reduce(x, op=dist._make_nccl_premul_sum(0.5))
    expect("all_reduce premul_sum", x, torch.stack(inputs).sum(0) * 0.5)


PARTS: dict[str, Callable[[], None]] = {
    part.__name__: part
    for part in (collectives, average, messages, streams, groups, ddp, premultiplied)
}


def libraries() -> str:
    with open("/proc/self/maps") as maps:
        return " ".join(sorted({line.split()[-1] for line in maps if "/libnccl.so" in line}))


def main() -> None:
    rank = int(os.environ["RANK"])
    os.environ.setdefault("NCCL_HOSTID", f"rank-{rank}")  # or NCCL refuses two ranks on one GPU
    eager, parts = "--eager" in sys.argv, [p for p in sys.argv[1:] if not p.startswith("-")]
    if ON_GPU:
        torch.cuda.set_device(DEVICE)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=DEVICE if eager else None)
        version = ".".join(map(str, torch.cuda.nccl.version()))
        print(f"NCCL {version} from {libraries()}", flush=True)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    wrong = 0
    for name in parts:
        try:
            PARTS[name]()
            if ON_GPU:
                torch.cuda.synchronize()
            print(f"{name}: right", flush=True)
        except Exception:
            wrong += 1
            traceback.print_exc()
            print(f"{name}: wrong", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    print(f"the end: {'wrong' if wrong else 'right'}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
