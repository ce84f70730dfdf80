"""Groups, meshes and the end of a job, on four ranks (programs/groups.py)."""

from __future__ import annotations

import pytest
from conftest import Checker, names_of_checks


@pytest.mark.parametrize("name", names_of_checks("groups.py"))
def test_groups(check: Checker, name: str) -> None:
    check("groups.py", name, 4)
