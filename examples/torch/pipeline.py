"""Pipeline parallelism: `torchrun --nproc-per-node 4 examples/torch/pipeline.py`.

Each rank has one stage of a network and passes its activations on by send and recv; gradients come
back the same way. torch.distributed.pipelining cuts each batch into micro-batches and keeps all
stages busy: one forwards, one backwards (1F1B). The first step's gradients are compared with those
of the whole network in one process.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

EPOCHS, BATCH, MICROBATCHES, TEST_IMAGES, WIDTH = 10, 64, 8, 360, 128


def stage_of(rank: int, size: int) -> nn.Sequential:
    torch.manual_seed(rank)
    layers = [nn.Linear(64 if rank == 0 else WIDTH, WIDTH), nn.ReLU()]
    if rank == size - 1:
        layers.append(nn.Linear(WIDTH, 10))
    return nn.Sequential(*layers)


def load() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    order = torch.randperm(len(digits.data), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    return x[order], torch.tensor(digits.target)[order]


def step(schedule: Schedule1F1B, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
    """Forwards and backwards over all ranks; the last one has the scores."""
    rank, size = dist.get_rank(), dist.get_world_size()
    inputs = (x,) if rank == 0 else ()
    scores: torch.Tensor | None = schedule.step(*inputs, target=y if rank == size - 1 else None)
    return scores


def difference_from_one_process(stage: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Of the gradients that `stage` has, relative to their size."""
    rank, size = dist.get_rank(), dist.get_world_size()
    stages = [stage_of(r, size) for r in range(size)]
    F.cross_entropy(nn.Sequential(*stages)(x), y).backward()
    pairs = zip(stage.parameters(), stages[rank].parameters(), strict=True)
    return max(float((a.grad - b.grad).abs().max() / b.grad.abs().max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="shoal", help="shoal (default) or gloo")
    backend: str = parser.parse_args().backend

    torch.set_num_threads(1)
    dist.init_process_group(backend)
    rank, size = dist.get_rank(), dist.get_world_size()
    x, y = load()
    module = stage_of(rank, size)
    stage = PipelineStage(module, rank, size, torch.device("cpu"))
    schedule = Schedule1F1B(stage, n_microbatches=MICROBATCHES, loss_fn=F.cross_entropy)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)

    step(schedule, x[:BATCH], y[:BATCH])
    difference = torch.tensor(difference_from_one_process(module, x[:BATCH], y[:BATCH]))
    dist.all_reduce(difference, dist.ReduceOp.MAX)

    train_x, train_y = x[TEST_IMAGES:], y[TEST_IMAGES:]
    for _ in range(EPOCHS):
        for begin in range(0, len(train_x) - BATCH, BATCH):
            optimizer.zero_grad()
            step(schedule, train_x[begin : begin + BATCH], train_y[begin : begin + BATCH])
            optimizer.step()

    # Batches have one size in a pipeline.
    right, seen = torch.zeros(1), TEST_IMAGES // BATCH * BATCH
    for begin in range(0, seen, BATCH):
        scores = step(schedule, x[begin : begin + BATCH], y[begin : begin + BATCH])
        if scores is not None:
            right += (scores.argmax(1) == y[begin : begin + BATCH]).sum()
    dist.broadcast(right, size - 1)
    accuracy = float(right) / seen
    if rank == 0:
        print(
            f"pipeline over {backend}, {size} stages, {MICROBATCHES} micro-batches: accuracy "
            f"{accuracy:.3f}, gradients {float(difference):.1e} from one process's"
        )
    assert accuracy > 0.9 and float(difference) < 1e-4
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
