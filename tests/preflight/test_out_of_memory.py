"""A real lack of memory ends in one line that names the phase and `sod plan`."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.models.architecture import in_one_line
from sod.models.load import one_line
from sod.models.memory import OutOfMemoryError, naming_phase, short_of_memory
from warm import run_warm

PROGRAM = Path(__file__).with_name("measured_job.py")
SMALL = {"family": "qwen3", "layers": 2, "hidden": 64, "ffn": 128}
DEEP = {"family": "qwen3", "layers": 16, "hidden": 128, "ffn": 128}
WIDE = {"family": "qwen3", "layers": 1, "hidden": 256, "ffn": 8192}
PHASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "sampling": (
        "train",
        "sampling",
        32,
        {"student": DEEP, "teacher": SMALL, "response": 200, "rollout": {"samples": 32}},
    ),
    "scoring": (
        "train",
        "scoring by the teacher",
        256,
        {"student": SMALL, "teacher": WIDE, "response": 600, "optim": {"micro_batch_tokens": 100_000}},
    ),
    "update": (
        "train",
        "the update",
        256,
        {"student": WIDE, "teacher": SMALL, "response": 100, "optim": {"micro_batch_tokens": 100_000}},
    ),
    "sft": (
        "sft",
        "the update",
        256,
        {"student": WIDE, "teacher": None, "response": 100, "sft": {"optim": {"micro_batch_tokens": 100_000}}},
    ),
}
"""By name: the command, the phase, the MiB that may be mapped once the run is ready, and the recipe."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PHASES)
def test_one_line_names_the_phase(
    name: str,
    make_recipe: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The limit is the kernel's (RLIMIT_AS), what fails is PyTorch's own allocation in the middle of the phase."""
    kind, phase, limit, asked = PHASES[name]
    ended = run_warm([PROGRAM, make_recipe(**asked), tmp_path / "run", kind, limit])
    assert ended.returncode == 1, ended.stdout
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: out of memory in {phase}; ")
    assert "`sod plan RECIPE`" in last
    assert "Traceback" not in ended.stderr


def test_what_a_lack_of_memory_looks_like() -> None:
    """PyTorch says it in a RuntimeError; no context on the way makes something else of it."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert short_of_memory(raised.value)
    assert short_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert short_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    for other in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(errno.ENOSPC, ""), KeyError("x")):
        assert not short_of_memory(other)
    for context in (in_one_line(None, "", ""), one_line("")):
        with pytest.raises(MemoryError), context:
            raise MemoryError


def test_other_errors_pass_a_phase_as_they_are() -> None:
    with pytest.raises(ValueError, match="its own"), naming_phase("sampling"):
        raise ValueError("its own")
    with pytest.raises(OutOfMemoryError, match="sampling"), naming_phase("the update"), naming_phase("sampling"):
        raise MemoryError
