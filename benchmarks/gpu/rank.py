"""What one rank of `make bench-gpu` does: a program for `shoal run`. Rank 0 prints JSON lines.

Systems take turns, round by round, so that a machine that changes changes for all; a row is the
median of its rounds. Peers (torch.distributed's gloo and NCCL) are there where torch has CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import shoal
from benchmarks.gpu.driver import Driver

Call = Callable[[], None]
# At most so many calls are under way: fewer than a rank may be ahead of another one.
AHEAD = 32


class Bench:
    """A rank's stream, and how long a number of calls on it takes."""

    def __init__(self, comm: shoal.Communicator) -> None:
        self.comm = comm
        self.device = int(os.environ.get("SHOAL_CUDA_DEVICE") or 0)
        self.driver = Driver(self.device)
        self.stream = self.driver.stream()

    def seconds(self, call: Call, calls: int, finish: Call) -> tuple[float, float]:
        """Of a call: until all of them are over, and until the host has them off its hands."""
        call()
        finish()
        self.comm.barrier()
        hosts = 0.0
        begin = time.perf_counter()
        for done in range(0, calls, AHEAD):
            start = time.perf_counter()
            for _ in range(min(AHEAD, calls - done)):
                call()
            hosts += time.perf_counter() - start
            finish()
        return (time.perf_counter() - begin) / calls, hosts / calls

    def finish(self) -> None:
        self.driver.synchronize(self.stream)


def copy_bandwidth(bench: Bench, count: int, calls: int) -> float:
    """Bytes a second, read and written, of a copy within the device that has it for itself."""
    comm = bench.comm
    rate = np.zeros(1)
    if comm.rank == 0:
        x, y = (comm.empty(count, "uint8", device="cuda") for _ in range(2))
        source, target = (a.__cuda_array_interface__["data"][0] for a in (x, y))
        for i in range(calls + 1):
            if i == 1:
                begin = time.perf_counter()
            bench.driver.copy(target, source, count, bench.stream)
            bench.finish()
        rate[0] = 2 * count * calls / (time.perf_counter() - begin)
    comm.broadcast(rate, root=0)
    return float(rate[0])


def peers(bench: Bench, count: int) -> dict[str, tuple[Call, Call]]:
    """all_reduce of torch's own backends: the call, and what ends it."""
    import torch

    if not torch.cuda.is_available():
        return {}
    import torch.distributed as dist

    if not dist.is_initialized():
        os.environ.setdefault("NCCL_MULTI_RANK_GPU_ENABLE", "1")
        dist.init_process_group("gloo")
    tensor = torch.ones(count, device=f"cuda:{bench.device}")
    calls: dict[str, tuple[Call, Call]] = {}
    for name in ("gloo", "nccl"):
        try:
            group: Any = dist.new_group(backend=name)
            dist.all_reduce(tensor, group=group)
            torch.cuda.synchronize()
        except Exception as error:  # NCCL may refuse ranks that share a GPU
            if bench.comm.rank == 0:
                print(json.dumps({"without": name, "because": str(error)[:200]}), flush=True)
            continue

        def call(group: Any = group) -> None:
            dist.all_reduce(tensor, group=group)

        calls[name] = (call, torch.cuda.synchronize)
    return calls


def systems(bench: Bench, x: Any, with_peers: bool) -> dict[str, tuple[Call, Call]]:
    comm, stream = bench.comm, bench.stream

    def call() -> None:
        comm.all_reduce(x, stream=stream)

    bench.driver.begin_capture(stream)
    call()
    graph = bench.driver.end_capture(stream)
    found: dict[str, tuple[Call, Call]] = {
        "shoal": (call, bench.finish),
        "shoal, graph": (lambda: bench.driver.launch(graph, stream), bench.finish),
    }
    if with_peers:
        found.update(peers(bench, x.shape[0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(shoal.init())
    comm = bench.comm
    bandwidth = copy_bandwidth(bench, max(arguments.bytes), 10)
    for size in arguments.bytes:
        x = comm.empty(max(1, size // 4), "float32", device="cuda")
        x.copy_from_host(np.zeros(x.shape, "float32"))
        calls = max(5, min(arguments.calls, (1 << 30) // size))
        rows: dict[str, list[tuple[float, float]]] = {}
        todo = systems(bench, x, not arguments.no_peers)
        for _ in range(arguments.rounds):
            for name, (call, finish) in todo.items():
                rows.setdefault(name, []).append(bench.seconds(call, calls, finish))
        # Each rank reads its slice of every input and writes it to every output.
        floor = 2 * size * comm.size / bandwidth
        for name, times in rows.items():
            if comm.rank == 0:
                whole, host = (statistics.median(t) for t in zip(*times, strict=True))
                row = {
                    "ranks": comm.size, "bytes": size, "system": name, "us": whole * 1e6,
                    "host_us": host * 1e6, "floor_us": floor * 1e6, "copy_gb_s": bandwidth / 1e9,
                    "rounds": len(times), "calls": calls,
                }  # fmt: skip
                print(json.dumps(row), flush=True)
    comm.barrier()


if __name__ == "__main__":
    main()
