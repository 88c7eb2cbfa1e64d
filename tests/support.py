"""What several tests make for themselves; importable because `tests` is on pytest's path (pyproject.toml)."""

from __future__ import annotations

from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.judge import VerifierJudge


def math_judge(correct: float = 1.0, wrong: float = -1.0) -> VerifierJudge:
    """The judge of the recipes: boxed answers, no shaping. Its worker processes start only for hard answers."""
    return VerifierJudge(MathVerifier(), {}, Shaping(correct, wrong))
