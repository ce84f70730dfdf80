"""Works, futures, coalescing and the pool, on two ranks (programs/works.py)."""

from __future__ import annotations

import pytest
from conftest import Checker, names_of_checks


@pytest.mark.parametrize("name", names_of_checks("works.py"))
def test_works(check: Checker, name: str) -> None:
    check("works.py", name, 2)
