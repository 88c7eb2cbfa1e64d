"""What several tests make for themselves; importable because `tests` is on pytest's path (pyproject.toml)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.reward import VerifierReward


def math_reward(correct: float = 1.0, wrong: float = -1.0) -> VerifierReward:
    """The reward function of the recipes: boxed answers, no shaping. Worker processes start for hard answers only."""
    return VerifierReward(MathVerifier(), {}, Shaping(correct, wrong))


def descendants(pid: int) -> list[int]:
    """The live child processes of `pid` and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # ended while we looked
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found
