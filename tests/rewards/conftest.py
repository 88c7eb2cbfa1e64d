"""What the tests of programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sod.records import SodError
from sod.rewards.math_verifier import MathVerifier
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox


@pytest.fixture(scope="session")
def math_verifier() -> Iterator[MathVerifier]:
    """One for all: its interpreter takes seconds to start."""
    # Time limits far above what the cases need: other work on the machine must not fail a test.
    built = MathVerifier(seconds=30)
    yield built
    built.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    try:
        local = LocalSandbox(ProgramLimits(memory_mb=256))
    except SodError as error:
        pytest.skip(f"no isolation here: {error}")
    yield local
    local.close()
