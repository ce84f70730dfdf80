"""Tensor parallelism with DTensor: `torchrun --nproc-per-node 4 examples/torch/tensor_parallel.py`.

Ranks form a mesh of 2 x N/2. Along one dimension they share the matrices of a network (columns of
the first, rows of the second, so that one all_reduce a block puts the result together); along the
other they share each batch. At the end rank 0 compares with a network trained by itself.
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

STEPS, BATCH, TEST_IMAGES, WIDTH = 150, 128, 360, 256


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(F.relu(self.up(x)))
        return x + y


def network() -> nn.Sequential:
    return nn.Sequential(Block(), Block(), nn.Linear(64, 10))


def parallelize(model: nn.Sequential, over: DeviceMesh) -> None:
    for block in model:
        if isinstance(block, Block):
            parallelize_module(block, over, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def load() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    order = torch.randperm(len(digits.data), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    return x[order], torch.tensor(digits.target)[order]


def train(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, data: DeviceMesh | None = None
) -> None:
    """`data`: the ranks among which each batch is shared; without it this rank takes all of it."""
    part, parts = (data.get_local_rank(), data.size()) if data is not None else (0, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        begin = step * BATCH % (len(x) - BATCH)
        mine = slice(begin + part * BATCH // parts, begin + (part + 1) * BATCH // parts)
        optimizer.zero_grad()
        F.cross_entropy(model(x[mine]), y[mine]).backward()
        if data is not None:
            for parameter in model.parameters():
                average(parameter.grad, data)
        optimizer.step()


def average(gradient: torch.Tensor | None, data: DeviceMesh) -> None:
    assert gradient is not None
    mine = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    dist.all_reduce(mine, group=data.get_group())
    mine /= data.size()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="shoal", help="shoal (default) or gloo")
    backend: str = parser.parse_args().backend

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(backend)
    size = dist.get_world_size()
    shape = (2, size // 2) if size % 2 == 0 else (1, size)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "model"))
    x, y = load()
    train_x, train_y, unseen, wanted = (
        x[TEST_IMAGES:], y[TEST_IMAGES:], x[:TEST_IMAGES], y[:TEST_IMAGES],
    )  # fmt: skip
    model = network()
    alone = copy.deepcopy(model)
    parallelize(model, mesh["model"])
    train(model, train_x, train_y, mesh["data"])

    with torch.no_grad():
        scores = model(unseen)
        accuracy = float((scores.argmax(1) == wanted).float().mean())
        up = model[0].up.weight
        mine = f"{tuple(up.to_local().shape)} of {tuple(up.shape)}"
    if dist.get_rank() == 0:
        train(alone, train_x, train_y)
        with torch.no_grad():
            difference = float((alone(unseen) - scores).abs().max())
        print(
            f"tensor parallel over {backend}, {shape[0]} x {shape[1]} ranks: accuracy "
            f"{accuracy:.3f}, each holds {mine}, {difference:.1e} from one rank's scores"
        )
        assert difference < 1e-3
    assert accuracy > 0.9
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
