"""Data-parallel training on real data: `shoal run -n 4 python examples/train_digits.py`.

A two-layer network learns scikit-learn's handwritten digits (1,797 images of 8 x 8 pixels), numpy
only. Every rank computes the gradients of its share of each global batch; one all_reduce per step
sums them, in place, in pool memory. All ranks then take the same optimiser step, so their
parameters stay bitwise equal. At the end rank 0 trains alone on the same global batches and
compares.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from tqdm import tqdm

import shoal

Array = npt.NDArray[np.float32]

INPUTS, HIDDEN, CLASSES = 64, 128, 10
TEST_IMAGES = 360
LEARNING_RATE, MOMENTUM = 0.1, 0.9
LOSS_TOLERANCE = 1e-4  # relative, between N ranks and one


@dataclass
class Data:
    train_x: Array
    train_y: npt.NDArray[np.int64]
    test_x: Array
    test_y: npt.NDArray[np.int64]


def load() -> Data:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x = (digits.data[order] / 16.0).astype(np.float32)
    y = digits.target[order].astype(np.int64)
    return Data(x[TEST_IMAGES:], y[TEST_IMAGES:], x[:TEST_IMAGES], y[:TEST_IMAGES])


class Network:
    """Parameters as views of one flat array, so that one all_reduce moves all gradients."""

    SHAPES = ((INPUTS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
    SIZE = sum(int(np.prod(shape)) for shape in SHAPES)

    def __init__(self, gradient: Array) -> None:
        """`gradient`: float32 [SIZE + 1], where gradients go; its last element is the loss."""
        generator = np.random.default_rng(1)
        self.parameters = np.zeros(self.SIZE, np.float32)
        self.velocity = np.zeros(self.SIZE, np.float32)
        self.gradient = gradient
        self.w1, self.b1, self.w2, self.b2 = self.split(self.parameters)
        self.gw1, self.gb1, self.gw2, self.gb2 = self.split(gradient[: self.SIZE])
        self.w1[:] = generator.standard_normal(self.w1.shape) * np.sqrt(2 / INPUTS)
        self.w2[:] = generator.standard_normal(self.w2.shape) * np.sqrt(2 / HIDDEN)

    def split(self, flat: Array) -> list[Array]:
        parts, begin = [], 0
        for shape in self.SHAPES:
            end = begin + int(np.prod(shape))
            parts.append(flat[begin:end].reshape(shape))
            begin = end
        return parts

    def forward(self, x: Array) -> tuple[Array, Array]:
        hidden = np.maximum(x @ self.w1 + self.b1, 0)
        scores = hidden @ self.w2 + self.b2
        scores -= scores.max(axis=1, keepdims=True)
        probabilities = np.exp(scores)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return hidden, probabilities

    def compute_gradient(self, x: Array, y: npt.NDArray[np.int64], batch: int) -> None:
        """This share's part of the gradient of the mean loss over a global batch of `batch`."""
        hidden, probabilities = self.forward(x)
        rows = np.arange(len(y))
        self.gradient[-1] = -np.log(probabilities[rows, y] + 1e-12).sum() / batch
        error = probabilities
        error[rows, y] -= 1
        error /= batch
        np.matmul(hidden.T, error, out=self.gw2)
        self.gb2[:] = error.sum(axis=0)
        back = (error @ self.w2.T) * (hidden > 0)
        np.matmul(x.T, back, out=self.gw1)
        self.gb1[:] = back.sum(axis=0)

    def step(self) -> None:
        self.velocity *= MOMENTUM
        self.velocity -= LEARNING_RATE * self.gradient[: self.SIZE]
        self.parameters += self.velocity

    def accuracy(self, x: Array, y: npt.NDArray[np.int64]) -> float:
        return float((self.forward(x)[1].argmax(axis=1) == y).mean())


@dataclass
class History:
    losses: list[float] = field(default_factory=list)
    total_s: float = 0.0
    communication_s: float = 0.0


def train(
    network: Network, data: Data, comm: shoal.Communicator | None, epochs: int, batch: int
) -> History:
    """Trains with all ranks of `comm`, or alone (None) on the same global batches."""
    rank, size = (comm.rank, comm.size) if comm is not None else (0, 1)
    history = History()
    start = time.perf_counter()
    steps = len(data.train_x) // batch
    for epoch in range(epochs):
        order = np.random.default_rng(100 + epoch).permutation(len(data.train_x))
        loss = 0.0
        shown = tqdm(
            range(steps),
            desc=f"epoch {epoch + 1:2d}/{epochs}",
            disable=comm is None or rank != 0,
            ascii=True,
            ncols=72,
            mininterval=0.2,
            file=sys.stdout,
            leave=False,
        )
        for step in shown:
            chosen = order[step * batch : (step + 1) * batch]
            share = np.array_split(chosen, size)[rank]
            network.compute_gradient(data.train_x[share], data.train_y[share], batch)
            if comm is not None:
                before = time.perf_counter()
                comm.all_reduce(network.gradient)
                history.communication_s += time.perf_counter() - before
            loss += float(network.gradient[-1])
            network.step()
        history.losses.append(loss / steps)
        if comm is not None and rank == 0:
            accuracy = network.accuracy(data.test_x, data.test_y)
            print(f"epoch {epoch + 1:2d}  loss {loss / steps:.4f}  test accuracy {accuracy:.3f}")
    history.total_s = time.perf_counter() - start
    return history


def parameters_equal(comm: shoal.Communicator, network: Network) -> bool:
    """True on every rank if all ranks hold the same bits."""
    everyone = comm.all_gather(network.parameters.view(np.int32)).reshape(comm.size, -1)
    return bool((everyone == everyone[0]).all())


def losses_agree(several: History, alone: History) -> bool:
    return all(
        abs(a - b) <= LOSS_TOLERANCE * abs(b)
        for a, b in zip(several.losses, alone.losses, strict=True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128, help="images of one global batch")
    options = parser.parse_args()

    comm = shoal.init()
    data = load()
    network = Network(comm.empty(Network.SIZE + 1, "float32"))
    if comm.rank == 0:
        print(f"{comm.size} ranks on {comm.nodes} node(s), {Network.SIZE} parameters")
        print(comm.explain("all_reduce", Network.SIZE + 1))
    history = train(network, data, comm, options.epochs, options.batch)

    equal = parameters_equal(comm, network)
    accuracy = network.accuracy(data.test_x, data.test_y)
    agree = True
    if comm.rank == 0:
        alone = Network(np.zeros(Network.SIZE + 1, np.float32))
        agree = losses_agree(history, train(alone, data, None, options.epochs, options.batch))
    verdict = comm.all_reduce(np.array([equal and agree and accuracy > 0.9], np.int32), op="min")
    ok = bool(verdict[0])
    if comm.rank == 0:
        share = history.communication_s / history.total_s
        print(f"losses within {LOSS_TOLERANCE} of the one-rank run: {'yes' if agree else 'NO'}")
        print(
            f"shoal demo: {'ok' if ok else 'FAILED'}, test accuracy {accuracy:.3f}, "
            f"communication {share:.1%} of {history.total_s:.2f} s, "
            f"parameters bitwise equal: {'yes' if equal else 'NO'}"
        )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
