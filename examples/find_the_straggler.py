"""One of four ranks is slow. Which, and why? `python examples/find_the_straggler.py`

The network of train_digits.py is trained by four ranks. After a while one of them, drawn by lot,
becomes slow: its data loader sleeps, or spends its time in Python, or waits for a locked file, or
somebody stops its process. Rank 0 then starts `shoal trace` beside the job, which knows nothing of
the draw, and compares what it says. Exits with 0 if it named the right rank.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
from train_digits import Data, Network, load

import shoal

RANKS, BATCH = 4, 128
HEALTHY_STEPS, MOST_STEPS = 30, 2000
SLOW_S = 0.4  # what a slow step takes
STOP_S = 3.0
PATIENCE_S = 20.0  # with the tracer


# ---- four ways to be slow


def read_from_slow_disk() -> None:
    time.sleep(SLOW_S)


def augment_images_in_python() -> None:
    """What a data loader should not do."""
    end = time.monotonic() + SLOW_S
    while time.monotonic() < end:
        sum(pixel * pixel for pixel in range(1000))


def wait_for_locked_file() -> None:
    """Another process has the file locked."""
    with tempfile.NamedTemporaryFile() as file:
        holder = subprocess.Popen(["flock", file.name, "sh", "-c", f"echo; sleep {SLOW_S}"],
                                  stdout=subprocess.PIPE)  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()  # now it has it
        fcntl.flock(file, fcntl.LOCK_EX)
        holder.communicate()


def be_stopped() -> None:
    """By another process, and let go on a while later."""
    pid = os.getpid()
    subprocess.run(["sh", "-c", f"(kill -STOP {pid}; sleep {STOP_S}; kill -CONT {pid}) &"],
                   check=True)  # fmt: skip
    time.sleep(0.1)


# What is done, the causes that the tracer may name, and how often: in each step, or once.
FAULTS = {
    "a slow disk": (read_from_slow_disk, {"sleeping"}, True),
    "long Python": (augment_images_in_python, {"computing"}, True),
    "a locked file": (wait_for_locked_file, {"slow_syscall", "blocked"}, True),
    "SIGSTOP": (be_stopped, {"stopped"}, False),
}


# ---- the training


def draw(comm: shoal.Communicator, options: argparse.Namespace) -> tuple[int, str]:
    """Rank 0 draws who will be slow and how, for all."""
    lot = random.Random(options.seed)
    rank, fault = lot.randrange(comm.size), lot.randrange(len(FAULTS))
    if options.fault is not None:
        fault = list(FAULTS).index(options.fault)
    drawn = comm.broadcast(np.array([rank, fault]), root=0)
    return int(drawn[0]), list(FAULTS)[int(drawn[1])]


class Step:
    """One step of training; the last element of what is summed says that rank 0 has its answer."""

    def __init__(self, comm: shoal.Communicator, data: Data) -> None:
        self._comm, self._x, self._y = comm, data.train_x, data.train_y
        self._sums = comm.empty(Network.SIZE + 2, "float32")
        self.network = Network(self._sums[:-1])
        self._order = np.random.default_rng(0).permutation(len(self._x))

    def __call__(self, step: int, answered: bool) -> bool:
        """Returns, on all ranks alike, whether rank 0 has its answer."""
        begin = step * BATCH % (len(self._order) - BATCH)
        share = np.array_split(self._order[begin : begin + BATCH], self._comm.size)[self._comm.rank]
        self.network.compute_gradient(self._x[share], self._y[share], BATCH)
        self._sums[-1] = answered
        self._comm.all_reduce(self._sums)
        self.network.step()
        return bool(self._sums[-1] > 0)


def start_tracer(comm: shoal.Communicator) -> subprocess.Popen[str]:
    print(f"$ shoal trace --job {comm.job} --once")
    return subprocess.Popen(
        [sys.executable, "-m", "shoal.cli", "trace", "--job", comm.job, "--once", "--json",
         "--seconds", str(PATIENCE_S)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def is_right(tracer: subprocess.Popen[str], rank: int, fault: str) -> bool:
    """Prints what the tracer said, and whether it is so."""
    said, _ = tracer.communicate()
    verdict = json.loads(said.splitlines()[-1])
    if verdict["cause"] == "none":
        print("the tracer found nothing late: WRONG")
        return False
    print(f"rank {verdict['rank']} (pid {verdict['pid']}): {verdict['cause']}")
    for line in verdict["evidence"]:
        print(f"    {line}")
    right = verdict["rank"] == rank
    # On a busy machine a rank that computes may be late for want of a core, and the tracer says so.
    cause = "the right cause" if verdict["cause"] in FAULTS[fault][1] else "another cause"
    print(f"the slow one was rank {rank}, by {fault}: {'right' if right else 'WRONG'}, {cause}")
    return right


def train(comm: shoal.Communicator, rank: int, fault: str) -> bool:
    """Trains until rank 0 has its answer. True, at rank 0, if the tracer found the slow rank."""
    data = load()
    step = Step(comm, data)
    slow_down, _, in_each_step = FAULTS[fault]
    tracer: subprocess.Popen[str] | None = None
    try:
        for number in range(MOST_STEPS):
            slow = number >= HEALTHY_STEPS if in_each_step else number == HEALTHY_STEPS
            if comm.rank == 0 and number == HEALTHY_STEPS:
                tracer = start_tracer(comm)
            if comm.rank == rank and slow:
                slow_down()
            if step(number, tracer is not None and tracer.poll() is not None):
                break
        if comm.rank != 0:
            return True
        accuracy = step.network.accuracy(data.test_x, data.test_y)
        print(f"{comm.size} ranks trained {number} steps, test accuracy {accuracy:.2f}")
        return tracer is not None and is_right(tracer, rank, fault)
    finally:
        if tracer is not None:
            tracer.kill()
            tracer.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, help="draws the same again")
    parser.add_argument("--fault", choices=list(FAULTS), help="do not draw this")
    options = parser.parse_args()
    if "SHOAL_RANK" not in os.environ:
        command = [sys.executable, "-m", "shoal.cli", "run", "-n", str(RANKS), "--no-prefix"]
        os.execv(sys.executable, [*command, sys.executable, *sys.argv])
    comm = shoal.init()
    rank, fault = draw(comm, options)
    return 0 if train(comm, rank, fault) else 1


if __name__ == "__main__":
    sys.exit(main())
