"""Objectives as pure functions over log-probabilities and turn ids. Torch only."""

from sod.objective import weights
from sod.objective.advantage import combine, group_advantage
from sod.objective.batch import TokenBatch, pack, supervised_batch
from sod.objective.methods import PRESETS, Method, Signal, advantage, surrogate
from sod.objective.stats import TurnStats, spread, turn_stats
from sod.objective.surrogate import SurrogateTerms, clipped_surrogate

__all__ = [
    "PRESETS",
    "Method",
    "Signal",
    "SurrogateTerms",
    "TokenBatch",
    "TurnStats",
    "advantage",
    "clipped_surrogate",
    "combine",
    "group_advantage",
    "pack",
    "spread",
    "supervised_batch",
    "surrogate",
    "turn_stats",
    "weights",
]
