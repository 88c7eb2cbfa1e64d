"""Methods as data: a preset (`presets.py`) names its parts, and one function computes the advantage from them.

Legend: B trajectories, T tokens, K turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from sod.objective.advantage import combine, group_advantage
from sod.objective.aggregation import LossAggregation
from sod.objective.alignments import Alignment
from sod.objective.batch import TokenBatch
from sod.objective.divergence import Divergence
from sod.objective.episodes import WHOLE_EPISODES, EpisodeStrategy
from sod.objective.needs import Need
from sod.objective.schedules import Schedule, constant
from sod.objective.scores import Level, ScoreNeed
from sod.objective.spans import by_token
from sod.objective.stats import TurnStats, per_token, turn_stats
from sod.objective.surrogate import SurrogateTerms, clipped_surrogate

TurnWeights = Callable[[TurnStats], Tensor]
"""Stats to `weight_BK`."""
Gate = Callable[[Tensor], Tensor]
"""Group advantages (B) to factors on the teacher's signal (B)."""
Context = Literal["ground_truth", "hint"]
"""What a self-teacher finds in its prompt that the student does not."""
CONTEXT_NEEDS: dict[Context, Need] = {"ground_truth": Need.GROUND_TRUTH, "hint": Need.HINT}
Scope = Literal["trajectory", "batch"]
"""What turn weights are a function of: their own trajectory, or all trajectories of the step."""
ONE, ZERO = constant(1.0), constant(0.0)


@final
@dataclass(frozen=True)
class TeacherRule:
    """How a self-teacher follows the student: never, as a copy every `every` steps, or as a moving average."""

    kind: Literal["frozen", "every", "ema"] = "frozen"
    every: int = 10
    decay: float = 0.99

    def __post_init__(self) -> None:
        if self.kind not in ("frozen", "every", "ema"):
            raise ValueError(f"teacher rule {self.kind!r} does not exist; frozen, every and ema do")
        if self.every < 1 or not 0.0 <= self.decay < 1.0:
            raise ValueError(f"a teacher follows every n >= 1 steps, or with a decay in [0, 1); got {self}")

    def pull(self, step: int) -> float:
        """How far the teacher moves towards the student after step `step`: 0 not at all, 1 all the way."""
        if self.kind == "frozen":
            return 0.0
        if self.kind == "every":
            return 1.0 if step % self.every == 0 else 0.0
        return 1.0 - self.decay


@final
@dataclass(frozen=True)
class Method:
    """An objective: `A_t = kappa(s) * g * w_k * delta_t + rho(s) * A_grpo` under the clipped surrogate.

    `turn_weights` (w) is None for a method without a teacher; `rho` is 0 for one without rewards; `gate` (g) makes
    the teacher's signal depend on the group advantage. With `divergence` the teacher's part is not in the advantage:
    the loss gets `kappa(s) * g * w_k * D_t`, the dense divergence at the sampled positions; likewise with a dense
    `alignment`, which is how a teacher of another tokenizer gives its signal (None: as `chunk`). With `context` the
    teacher is the student's own copy, which follows it by `teacher_rule`. `episodes` says who plays which turns.
    `asks` holds needs that do not follow from the other parts, such as what turn weights read of the teacher.
    With scope `trajectory` the weights of a micro-batch can be computed from it alone (rewards apart, see `rated`), so
    that with one update a step they come from the update's own forward.
    """

    name: str
    paper: str
    turn_weights: TurnWeights | None = None
    kappa: Schedule = ONE
    rho: Schedule = ZERO
    gate: Gate | None = None
    divergence: Divergence | None = None
    alignment: Alignment | None = None
    context: Context | None = None
    teacher_rule: TeacherRule = TeacherRule()
    episodes: EpisodeStrategy = WHOLE_EPISODES
    asks: frozenset[Need] = frozenset()
    scope: Scope = "trajectory"
    loss_aggregation: LossAggregation = "token-mean"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """Everything that a run must have for this method."""
        needs = {*self.asks, *self.episodes.needs}
        if self.turn_weights is not None:
            needs.add(Need.TEACHER)
        if self.divergence is not None and self.turn_weights is not None:
            needs.add(Need.TOP_K if self.divergence.from_choices else Need.FULL)
        if self.over_spans and self.turn_weights is not None:
            needs.add(Need.FULL)
        if not self.rho.never or self.gate is not None:
            needs |= {Need.REWARD, Need.GROUP}
        if self.context is not None:
            needs.add(CONTEXT_NEEDS[self.context])
        return frozenset(needs)

    @property
    def over_spans(self) -> bool:
        """Whether the teacher's part is a loss over spans of two tokenizers' tokens."""
        return self.alignment is not None and self.alignment.dense

    @property
    def dense(self) -> bool:
        """Whether the teacher's part is a loss of its own, beside the advantage."""
        return self.divergence is not None or self.over_spans

    @property
    def silent(self) -> bool:
        """Whether nothing could ever change a weight: every factor on the teacher's and the reward's part is 0."""
        if Need.DEMONSTRATIONS in self.asks or not self.rho.never:
            return False
        shut = self.gate is not None and not self.gate(torch.tensor([-50.0, 0.0, 50.0])).any()
        return self.turn_weights is None or self.kappa.never or shut

    @property
    def level(self) -> Level | None:
        """How much of the teacher's distribution is needed at each position; None without a teacher."""
        needs = self.needs
        if Need.TEACHER not in needs:
            return None
        if Need.FULL in needs:
            return "full"
        if Need.TOP_K in needs:
            return "topk"
        return "top1" if needs & {Need.TOP1, Need.ENTROPY} else "sampled"

    @property
    def score_need(self) -> ScoreNeed:
        """What is asked of the teacher's scoring beside the sampled log-probabilities; a dense loss asks for none, with
        the teacher's model in the update.
        """
        asks = self.needs
        return ScoreNeed(top1=Need.TOP1 in asks, entropy=Need.ENTROPY in asks, rendering=self.over_spans)

    @property
    def choices(self) -> int:
        """How many of the teacher's most probable tokens a dense loss reads; 0 where it reads none, or more than these.

        They are asked for where the update has no teacher's model.
        """
        return self.divergence.top_k if Need.TOP_K in self.needs and self.divergence is not None else 0


@final
@dataclass(frozen=True)
class Signal:
    """What the method made of a batch: the advantage, and the per-turn numbers to report.

    `distil_BT` is the factor of a dense divergence, None where the teacher's part is in the advantage. `teacher_BT` are
    the teacher's log-probabilities token by token (`spans.by_token`), None without a teacher.
    """

    advantage_BT: Tensor
    stats: TurnStats | None
    weight_BK: Tensor | None
    reward_advantage_B: Tensor | None
    distil_BT: Tensor | None = None
    teacher_BT: Tensor | None = None


def advantage(method: Method, batch: TokenBatch, step: int = 1) -> Signal:
    """The detached advantage of every token (B x T, 0 at context), before any update of step `step`.

    A part of a step's batch must be `rated` with all of it. Raises ValueError when the method needs log-probabilities
    that the batch does not have, and for those that are NaN or +inf (naming trajectory, turn and position).
    """
    if batch.scores is None or batch.scores.old_BT is None:
        raise ValueError("the old log-probabilities must be scored before the advantage")
    old_BT, teacher = batch.scores.old_BT, batch.scores.teacher
    stats = weight_BK = gap_BT = weight_BT = distil_BT = None
    if teacher is not None:
        teacher = by_token(teacher, old_BT)
        stats = turn_stats(old_BT, teacher, batch.turn_BT, batch.error_BK)
    reward_B = rated(method, batch).reward_advantage_B
    if method.turn_weights is not None:
        if teacher is None or stats is None:
            raise ValueError(f"method {method.name} needs the teacher's log-probabilities")
        weight_BK = method.turn_weights(stats)
        if method.gate is not None and reward_B is not None:
            weight_BK = weight_BK * method.gate(reward_B)[:, None]
        if teacher.weight_B is not None:
            weight_BK = weight_BK * teacher.weight_B[:, None]
        weight_BT = per_token(weight_BK, batch.turn_BT)
        gap_BT = (teacher.logp_BT - old_BT).masked_fill(~teacher.scored_at(batch.turn_BT), 0.0)
    kappa, rho = method.kappa(step), method.rho(step)
    if method.dense and weight_BT is not None:
        # The teacher's part goes into the loss as a divergence of its own, so it leaves the advantage.
        distil_BT, gap_BT = (kappa * weight_BT).detach(), None
    total_BT = combine(reward_B, gap_BT, weight_BT, batch.turn_BT, kappa, rho)
    return Signal(total_BT, stats, weight_BK, reward_B, distil_BT, None if teacher is None else teacher.logp_BT)


def rated(method: Method, batch: TokenBatch) -> TokenBatch:
    """A copy whose trajectories know their reward advantage: GRPO's among those that have a reward, 0 for the others.

    It is relative to other trajectories, so it is computed before a batch is split, and kept where it is known. The
    batch as it is where the method reads no reward.
    """
    if Need.REWARD not in method.needs or batch.reward_advantage_B is not None:
        return batch
    rewarded_B = batch.rewarded_B
    advantage_B = torch.zeros_like(batch.reward_B)
    advantage_B[rewarded_B] = group_advantage(batch.reward_B[rewarded_B], batch.group_B[rewarded_B])
    return batch.filled(reward_advantage_B=advantage_B)


def surrogate(method: Method, logp_BT: Tensor, micro: TokenBatch) -> SurrogateTerms:
    """The micro-batch's part of the loss but for a dense divergence.

    Raises ValueError where old log-probabilities, advantage or loss weights are not set.
    """
    old_BT = None if micro.scores is None else micro.scores.old_BT
    if old_BT is None or micro.targets is None or micro.loss_weight_BT is None:
        raise ValueError("old log-probabilities, advantage and loss weights must be set before the loss")
    return clipped_surrogate(
        logp_BT,
        old_BT,
        micro.targets.advantage_BT,
        micro.turn_BT,
        micro.loss_weight_BT,
        method.clip_low,
        method.clip_high,
        method.dual_clip,
    )


def distillation_loss(divergence_BT: Tensor, micro: TokenBatch) -> Tensor:
    """`sum_t s_t * kappa * w_k * D_t`: the micro-batch's part of the dense loss, `s_t` the loss weight. Differentiable.

    Raises ValueError where factors or loss weights are not set.
    """
    if micro.targets is None or micro.targets.distil_BT is None or micro.loss_weight_BT is None:
        raise ValueError("distillation factors and loss weights must be set before the loss")
    factor_BT = micro.targets.distil_BT * micro.loss_weight_BT
    live_BT = factor_BT != 0.0
    return (factor_BT[live_BT] * divergence_BT[live_BT]).sum()
