"""Works, futures, coalescing and memory, on two ranks (programs/works.py, adoption.py)."""

from __future__ import annotations

import pytest
from conftest import Checker, Launcher, names_of_checks


@pytest.mark.parametrize("name", names_of_checks("works.py"))
def test_works(check: Checker, name: str) -> None:
    check("works.py", name, 2)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", names_of_checks("adoption.py"))
def test_adoption(check: Checker, name: str, ranks: int) -> None:
    check("adoption.py", name, ranks)


def test_adoption_can_be_switched_off(launch: Launcher) -> None:
    launch(
        """
        import shoal.torch
        dist.init_process_group("shoal")
        x = torch.zeros(100_000)
        for _ in range(10):
            dist.all_reduce(x)
        assert not shoal.torch.in_pool(x)
        assert shoal.torch.statistics()["adopted_tensors"] == 0
        """,
        variables={"SHOAL_TORCH_ADOPT": "0"},
    )
