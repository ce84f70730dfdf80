"""All calls of torch.distributed give what each rank works out by itself (programs/collectives.py).

Three ranks: no power of two, and several sources to receive from. Two: the shortest ways.
"""

from __future__ import annotations

import pytest
from conftest import Checker, names_of_checks


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", names_of_checks("collectives.py"))
def test_collective(check: Checker, name: str, ranks: int) -> None:
    check("collectives.py", name, ranks)
