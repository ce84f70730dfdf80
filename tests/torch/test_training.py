"""DDP, FSDP2, tensor and pipeline parallel training: as over gloo (programs/training.py)."""

from __future__ import annotations

import pytest
from conftest import Checker, names_of_checks

pytest.importorskip("sklearn", reason="trains on its digits")


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", names_of_checks("training.py"))
def test_training(check: Checker, name: str, ranks: int) -> None:
    check("training.py", name, ranks)
