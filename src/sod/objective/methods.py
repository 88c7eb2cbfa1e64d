"""Methods as data: a preset names its parts, and one function computes the advantage from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sod.objective import weights
from sod.objective.advantage import combine, group_advantage
from sod.objective.batch import TokenBatch
from sod.objective.stats import TurnStats, spread, turn_stats
from sod.objective.surrogate import SurrogateTerms, clipped_surrogate

TurnWeights = Callable[[TurnStats], Tensor]


@dataclass(frozen=True)
class Method:
    """An objective: `A_t = kappa * w_k * delta_t + rho * A_grpo` under the clipped surrogate.

    `turn_weights` is None for a method without a teacher; `rho` is 0 for one without rewards.
    """

    name: str
    paper: str
    turn_weights: TurnWeights | None
    kappa: float
    rho: float
    clip_low: float
    clip_high: float

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's log-probabilities enter the advantage."""
        return self.turn_weights is not None

    @property
    def needs_reward(self) -> bool:
        """Whether the reward enters the advantage."""
        return self.rho != 0.0


@dataclass(frozen=True)
class Signal:
    """What the method made of a batch: the advantage, and the per-turn numbers to report."""

    advantage_BT: Tensor
    stats: TurnStats | None
    weight_BK: Tensor | None
    reward_advantage_B: Tensor | None


def advantage(method: Method, batch: TokenBatch) -> Signal:
    """The detached advantage of every token (B x T, 0 at context), before any update of the step.

    Raises ValueError when the method needs log-probabilities that the batch does not have yet.
    """
    if batch.old_BT is None:
        raise ValueError("the old log-probabilities must be scored before the advantage")
    stats = weight_BK = gap_BT = weight_BT = None
    if batch.teacher_BT is not None:
        stats = turn_stats(batch.old_BT, batch.teacher_BT, batch.turn_BT)
    if method.turn_weights is not None:
        if batch.teacher_BT is None or stats is None:
            raise ValueError(f"method {method.name} needs the teacher's log-probabilities")
        weight_BK = method.turn_weights(stats)
        weight_BT = spread(weight_BK, batch.turn_BT)
        gap_BT = batch.teacher_BT - batch.old_BT
    reward_B = _reward_advantage(batch) if method.needs_reward else None
    total_BT = combine(reward_B, gap_BT, weight_BT, batch.turn_BT, method.kappa, method.rho)
    return Signal(total_BT, stats, weight_BK, reward_B)


def _reward_advantage(batch: TokenBatch) -> Tensor:
    """GRPO's advantage among the trajectories that have a reward; 0 for the others. Shape B."""
    rewarded_B = batch.rewarded_B
    if rewarded_B is None:
        return group_advantage(batch.reward_B, batch.group_B)
    advantage_B = torch.zeros_like(batch.reward_B)
    advantage_B[rewarded_B] = group_advantage(batch.reward_B[rewarded_B], batch.group_B[rewarded_B])
    return advantage_B


def surrogate(method: Method, logp_BT: Tensor, micro: TokenBatch, total: float) -> SurrogateTerms:
    """The micro-batch's share of the loss; `total` is the mini-batch's action-token count."""
    if micro.old_BT is None or micro.advantage_BT is None:
        raise ValueError("old log-probabilities and advantage must be set before the loss")
    return clipped_surrogate(
        logp_BT, micro.old_BT, micro.advantage_BT, micro.turn_BT, total, method.clip_low, method.clip_high
    )


def grpo(*, rho: float = 1.0, clip_low: float = 0.2, clip_high: float = 0.28) -> Method:
    """Rewards only (arXiv 2402.03300) with DAPO's clip range."""
    return Method("grpo", "arXiv 2402.03300", None, 0.0, rho, clip_low, clip_high)


def opd(*, kappa: float = 1.0, clip_low: float = 0.2, clip_high: float = 0.28) -> Method:
    """Plain on-policy distillation: the teacher gap is the advantage (Agarwal et al., arXiv 2306.13649)."""
    return Method("opd", "arXiv 2306.13649", weights.uniform, kappa, 0.0, clip_low, clip_high)


def sod(
    *,
    kappa: float = 1.0,
    rho: float = 1.0,
    delta: float = 0.2,
    epsilon: float = 1e-6,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Method:
    """Step-wise on-policy distillation: SOD's turn weights on the gap, plus the reward term."""
    rule = partial(weights.sod, delta=delta, epsilon=epsilon)
    return Method("sod", "arXiv 2605.07725", rule, kappa, rho, clip_low, clip_high)


PRESETS: dict[str, Callable[..., Method]] = {"grpo": grpo, "opd": opd, "sod": sod}
