"""Estimates against what real runs take."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.build.recipe import read_recipe
from sod.preflight.estimate import estimated, readable
from sod.preflight.parts import SAMPLING, UPDATE

WITHIN = 0.15
GROUP = {"prompts": 1}
"""Fills one micro-batch: a second one takes time and no memory."""
QWEN = {"family": "qwen3", "layers": 6, "hidden": 256, "ffn": 768}
LLAMA = {"family": "llama", "layers": 4, "hidden": 512, "ffn": 1408, "tied": False}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "float32, the update": (
        UPDATE,
        {"student": QWEN, "teacher": LLAMA, "response": 400, "rollout": GROUP, "optim": {"micro_batch_tokens": 4096}},
    ),
    "bfloat16, recomputed, dense": (
        UPDATE,
        {
            "student": LLAMA | {"dtype": "bfloat16"},
            "teacher": QWEN,
            "response": 300,
            "method": {"name": "opd", "divergence": "jsd"},
            "optim": {"micro_batch_tokens": 2048, "recompute": True},
        },
    ),
    "a loss over spans": (
        UPDATE,
        {
            "student": QWEN | {"words": 0},
            "teacher": LLAMA | {"words": 1},
            "response": 400,
            "method": {"name": "opd", "alignment": {"min_coverage": 0.0}},
            "rollout": GROUP,
            "optim": {"micro_batch_tokens": 4096},
        },
    ),
    "float32, sampling": (
        SAMPLING,
        {
            "student": {"family": "qwen3", "layers": 24, "hidden": 128, "ffn": 64},  # little to compute, much to keep
            "teacher": None,
            "response": 160,
            "method": "grpo",
            "rollout": {"samples": 32},
            "optim": {"micro_batch_tokens": 256},
        },
    ),
}


@pytest.mark.slow
def test_what_plays_while_the_student_learns_is_there_in_the_update(make_recipe: Callable[..., Path]) -> None:
    """The student's weights once more, and the engine's cache beside the update's activations."""
    asked = {"student": QWEN, "teacher": None, "response": 400, "method": "grpo"}
    found = []
    for staleness in (0, 1):
        file = make_recipe(**asked, rollout=GROUP | {"max_staleness": staleness})
        found.append(estimated(readable(read_recipe(file, (), print), False, print)))
    alone, beside = found
    sizes = [{part.name: part.bytes for part in estimate.parts} for estimate in found]
    assert sizes[1]["student: weights that play"] == sizes[0]["student: weights"]
    assert beside.taken("cpu", UPDATE) == (
        alone.taken("cpu", UPDATE)
        + sizes[0]["student: weights"]
        + sum(part.bytes for part in alone.parts if part.phases == (SAMPLING,))
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_peak_of_a_run(
    shape: str,
    make_recipe: Callable[..., Path],
    job_in_a_process: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Two real steps, so that moments and a second rollout are in it; what counts is what glibc has given out."""
    phase, asked = SHAPES[shape]
    file = make_recipe(**asked)
    estimate = estimated(readable(read_recipe(file, (), print), False, print))
    peak = estimate.peak("cpu")
    ended = job_in_a_process(file, "train")
    assert ended.returncode == 0, ended.stderr
    measured, resident = map(int, ended.stdout.splitlines()[-1].split())
    print(f"{shape}: {peak.bytes >> 20} MiB in {peak.phase}, measured {measured >> 20}, resident {resident >> 20}")
    assert peak.phase == phase
    assert measured > 2**28, "too small to tell"
    assert abs(peak.bytes - measured) <= WITHIN * measured
