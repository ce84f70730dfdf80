"""A rank of tests/vm/rails.sh: works on while one of its two rails goes down.

After half of the rounds rank 0 asks for that by a file, and goes on when it has happened.
"""

import pathlib
import sys
import time

import numpy as np

import shoal

ASKED, DONE = pathlib.Path(sys.argv[1], "asked"), pathlib.Path(sys.argv[1], "done")
ROUNDS = 8

comm = shoal.init(timeout=100, init_timeout=100)
said = comm.explain("all_reduce", nbytes=4 << 20)
assert "2 rails" in said and said.count("RoCE on h") == 2, said
assert "dropped" not in said, said
large, small = comm.empty(1 << 20, "float32"), comm.empty(2, "float64")
for i in range(ROUNDS):
    if i == ROUNDS // 2 and comm.rank == 0 and len(sys.argv) > 2:
        ASKED.touch()
        while not DONE.exists():
            time.sleep(0.05)
    large[:] = np.arange(large.size, dtype="float32") % 1000 + comm.rank + i
    small[:] = comm.rank + i
    begin = time.monotonic()
    total, two = comm.all_reduce(large), comm.all_reduce(small)
    print(f"rank {comm.rank} round {i}: {time.monotonic() - begin:.2f} s", flush=True)
    assert (two == 2 * i + 1).all(), two
    assert (total == np.arange(large.size) % 1000 * 2 + 2 * i + 1).all(), f"round {i}"
print("explain:", comm.explain("all_reduce", nbytes=4 << 20), flush=True)
