"""Data-parallel training: `torchrun --nproc-per-node 4 examples/torch/ddp.py`.

Every rank trains a copy of one network on its share of scikit-learn's handwritten digits;
DistributedDataParallel averages the gradients. With --backend gloo it is the same program: only
the lines about shoal's pool are skipped.
"""

from __future__ import annotations

import argparse
import contextlib

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

EPOCHS, BATCH, TEST_IMAGES = 12, 32, 360


def load() -> tuple[TensorDataset, TensorDataset]:
    """Images to train with, and others to test with."""
    digits = load_digits()
    order = torch.randperm(len(digits.data), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    train = TensorDataset(x[TEST_IMAGES:], y[TEST_IMAGES:])
    return train, TensorDataset(x[:TEST_IMAGES], y[:TEST_IMAGES])


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def train(model: nn.Module, images: TensorDataset) -> None:
    sampler = DistributedSampler(images, shuffle=True, seed=1)
    loader = DataLoader(images, batch_size=BATCH, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def are_equal_everywhere(model: nn.Module) -> bool:
    mine = nn.utils.parameters_to_vector(model.parameters()).detach()
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return all(torch.equal(mine, other) for other in everyone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="shoal", help="shoal (default) or gloo")
    backend: str = parser.parse_args().backend

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(backend)
    images, unseen = load()
    if backend == "shoal":
        import shoal.torch

        # Gradients and parameters that are made in this block lie where all ranks of the node see
        # them: nothing is copied to be sent.
        place: contextlib.AbstractContextManager[None] = shoal.torch.pool()
    else:
        place = contextlib.nullcontext()
    with place:
        model = DistributedDataParallel(network())
        train(model, images)
    if backend == "shoal":
        done = shoal.torch.statistics()

    x, y = unseen.tensors
    accuracy = float((model(x).argmax(1) == y).float().mean())
    equal = are_equal_everywhere(model)
    if dist.get_rank() == 0:
        print(f"ddp over {backend}: accuracy {accuracy:.3f}, equal on all ranks: {equal}", end="")
        if backend == "shoal":
            staged = f"{done['staged_bytes']} bytes of gradients staged"
            print(f", {done['operations']} operations, {staged}", end="")
        print()
    assert accuracy > 0.9 and equal
    if backend == "shoal":
        assert done["staged_bytes"] == 0, done
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
