"""What the tests over ranks compare: the same cases in one process, on two ranks and on four, each run once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from long_cases import LONG, everything
from started import on_ranks

from sod.models.ranks import ALONE

CASES = Path(__file__).with_name("long_cases.py")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cases write."""
    directory = tmp_path_factory.mktemp("ranks")
    (directory / LONG).mkdir()
    return directory


@pytest.fixture(scope="session")
def one(place: Path) -> dict[str, Any]:
    """Everything in one process."""
    return everything(ALONE, place)


@pytest.fixture(scope="session")
def two(one: dict[str, Any], place: Path) -> dict[str, Any]:
    """Everything on two ranks; they go on with a run of one process, too."""
    return on_ranks(2, "everything", place, cases=CASES)


@pytest.fixture(scope="session")
def four(two: dict[str, Any], place: Path) -> dict[str, Any]:
    """What four ranks make of the run of two, with rows of their own each and in two teams."""
    return on_ranks(4, "of_four", place, cases=CASES)
