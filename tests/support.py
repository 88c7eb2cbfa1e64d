"""What several tests make for themselves; importable because `tests` is on pytest's path (pyproject.toml)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from torch import Tensor

from sod.objective.batch import TokenBatch
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.reward import VerifierReward


def math_reward(correct: float = 1.0, wrong: float = -1.0) -> VerifierReward:
    """The reward function of the recipes: boxed answers, no shaping. Worker processes start for hard answers only."""
    return VerifierReward(MathVerifier(), {}, Shaping(correct, wrong))


def with_token_columns(batch: TokenBatch, change: Callable[[str, Tensor], Tensor]) -> TokenBatch:
    """The batch with `change(name, column)` in place of every B x T column, those of scores and targets included."""

    def changed(record: object) -> dict[str, object]:
        found: dict[str, object] = {}
        for known in fields(record):  # type: ignore[arg-type]
            value = getattr(record, known.name)
            if isinstance(value, Tensor) and known.name.endswith("_BT"):
                found[known.name] = change(known.name, value)
            elif value is not None and known.name in ("scores", "targets", "teacher"):
                found[known.name] = replace(value, **changed(value))
        return found

    return replace(batch, **changed(batch))  # type: ignore[arg-type]
