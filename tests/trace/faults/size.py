"""How many ranks the disturbed job has: in the virtual machine of tests/vm, one for each of its two
emulated processors."""

from __future__ import annotations

import os

IN_VM = os.uname().nodename == "shoal-vm"
RANKS = 2 if IN_VM else 4
