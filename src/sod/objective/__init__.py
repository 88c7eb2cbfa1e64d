"""Objectives as pure functions over log-probabilities and turn ids. Torch only."""

from sod.objective import weights
from sod.objective.advantage import combine, group_advantage
from sod.objective.batch import TokenBatch, aligned, pack, supervised_batch, with_prompts
from sod.objective.divergence import Divergence, divergence
from sod.objective.methods import Curriculum, Method, Signal, TeacherRule, advantage, distillation_loss, surrogate
from sod.objective.normalise import token_shares
from sod.objective.presets import PRESETS, knobs, make
from sod.objective.schedules import Schedule, constant, linear
from sod.objective.stats import TurnStats, spread, turn_stats
from sod.objective.surrogate import SurrogateTerms, clipped_surrogate

__all__ = [
    "PRESETS",
    "Curriculum",
    "Divergence",
    "Method",
    "Schedule",
    "Signal",
    "SurrogateTerms",
    "TeacherRule",
    "TokenBatch",
    "TurnStats",
    "advantage",
    "aligned",
    "clipped_surrogate",
    "combine",
    "constant",
    "distillation_loss",
    "divergence",
    "group_advantage",
    "knobs",
    "linear",
    "make",
    "pack",
    "spread",
    "supervised_batch",
    "surrogate",
    "token_shares",
    "turn_stats",
    "weights",
    "with_prompts",
]
