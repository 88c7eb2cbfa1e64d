"""What the tests of programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sod.records import SodError
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    try:
        local = LocalSandbox(ProgramLimits(memory_mb=256))
    except SodError as error:
        pytest.skip(f"no isolation here: {error}")
    yield local
    local.close()
