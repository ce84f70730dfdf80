"""How patient everything is. In the virtual machine of tests/vm, which is emulated, programs take
ten times as long: there, what is late, what a fault lasts and what is waited for is ten times more,
and a job has two ranks, one for each host and processor."""

from __future__ import annotations

import os

IN_VM = os.uname().nodename == "shoal-vm"
SLOWER = 10 if IN_VM else 1
RANKS = 2 if IN_VM else 4
