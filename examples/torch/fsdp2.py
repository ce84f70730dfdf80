"""Sharded training: `torchrun --nproc-per-node 4 examples/torch/fsdp2.py`.

A small transformer learns to read scikit-learn's handwritten digits, row by row. fully_shard()
leaves each rank a part of every parameter, of its gradient and of the optimiser's state; layers
are gathered when they are needed and gradients reduced to the ranks that own them. At the end the
model is saved by all ranks together, and loaded again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

EPOCHS, BATCH, TEST_IMAGES, WIDTH = 8, 32, 360, 64


class Reader(nn.Module):
    """float32 [images, 8 rows, 8 pixels] -> scores [images, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.position = nn.Parameter(torch.randn(8, WIDTH) / 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0, batch_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images) + self.position
        for block in self.blocks:
            x = block(x)
        scores: torch.Tensor = self.head(x.mean(1))
        return scores


def load() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
    return torch.tensor(digits.images / 16, dtype=torch.float32)[order], torch.tensor(
        digits.target
    )[order]


def sharded() -> Reader:
    model = Reader()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for step in range(len(x) // (BATCH * size)):
            mine = order[(step * size + rank) * BATCH :][:BATCH]
            optimizer.zero_grad()
            F.cross_entropy(model(x[mine]), y[mine]).backward()
            optimizer.step()


def saved_and_loaded(model: nn.Module) -> nn.Module:
    """A fresh model with what all ranks have written together."""
    names: list[object] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(names)
    dcp.save(get_model_state_dict(model), checkpoint_id=str(names[0]))
    fresh = sharded()
    state = get_model_state_dict(fresh)
    dcp.load(state, checkpoint_id=str(names[0]))
    set_model_state_dict(fresh, state)
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(str(names[0]))
    return fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="shoal", help="shoal (default) or gloo")
    backend: str = parser.parse_args().backend

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(backend)
    x, y = load()
    model = sharded()
    train(model, x[TEST_IMAGES:], y[TEST_IMAGES:])

    unseen, wanted = x[:TEST_IMAGES], y[:TEST_IMAGES]
    with torch.no_grad():
        scores = model(unseen)
        again = saved_and_loaded(model)(unseen)
    accuracy = float((scores.argmax(1) == wanted).float().mean())
    mine = sum(p.to_local().numel() for p in model.parameters())
    whole = sum(p.numel() for p in model.parameters())
    if dist.get_rank() == 0:
        print(
            f"fsdp2 over {backend}: accuracy {accuracy:.3f}, rank 0 holds {mine} of {whole} "
            f"parameters, checkpoint loads: {torch.equal(scores, again)}"
        )
    assert accuracy > 0.9 and torch.equal(scores, again)
    assert mine < 2 * whole / dist.get_world_size()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
