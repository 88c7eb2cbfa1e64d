"""Dense distillation losses: a divergence between two next-token distributions at every position.

Forward KL, reverse KL and the generalised Jensen-Shannon divergence of GKD (Agarwal et al., arXiv 2306.13649), over
the whole vocabulary or over k chosen tokens and one tail event that holds the rest of each model's mass. Merging
events never raises any of the three, so the top-k value is a lower bound of the full one.

Legend: N positions, V vocabulary, E events (V tokens, or k tokens and the tail).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

Kind = Literal["forward_kl", "reverse_kl", "jsd"]
Chooser = Literal["teacher", "student"]

# A probability below e^-10000 counts as that much: a logit of minus infinity gives a large finite value and no NaN.
# Gaps between the logits of real models are far below 10,000 nats.
LOG_FLOOR = -1e4
LEAST_TAIL = 2.0**-24


@final
@dataclass(frozen=True)
class Divergence:
    """Which divergence.

    `beta` is the teacher's share of the jsd's mixture, in (0, 1); the other kinds do not read it. `top_k` 0 means the
    full vocabulary; else the `top_k` most probable tokens of `chosen_by`, and a tail. Raises ValueError where a value
    is none of these.
    """

    kind: Kind
    beta: float = 0.5
    top_k: int = 0
    chosen_by: Chooser = "teacher"

    @property
    def from_choices(self) -> bool:
        """Whether the teacher's most probable tokens are all that it reads of the teacher."""
        return self.top_k > 0 and self.chosen_by == "teacher"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"divergence kind {self.kind!r} is none of {', '.join(get_args(Kind))}")
        if self.kind == "jsd" and not 0.0 < self.beta < 1.0:
            raise ValueError(f"beta of the jsd must lie between 0 and 1 (exclusive), not {self.beta}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (the full vocabulary) or more, not {self.top_k}")
        if self.chosen_by not in get_args(Chooser):
            raise ValueError(f"chosen_by {self.chosen_by!r} is none of {', '.join(get_args(Chooser))}")


def divergence(
    student_logits_NV: Tensor, teacher_logits_NV: Tensor, spec: Divergence, temperature: float = 1.0
) -> Tensor:
    """The divergence at each position, in nats. Shape N; float64 where the logits are, else float32.

    With teacher p, student q and m = beta p + (1 - beta) q: forward KL is KL(p || q), reverse KL is KL(q || p), the
    jsd is beta KL(p || m) + (1 - beta) KL(q || m); jsd / beta goes to the forward KL as beta goes to 0,
    jsd / (1 - beta) to the reverse KL as beta goes to 1. Both distributions are taken at `temperature`, and nothing is
    multiplied by its square. Differentiable in the student's logits; the teacher, and the choice of the top-k tokens,
    are constants. Rounding can leave a value of zero slightly negative. NaN in, NaN out. Raises ValueError where the
    shapes differ or the temperature is not positive.
    """
    if student_logits_NV.dim() != 2 or student_logits_NV.shape != teacher_logits_NV.shape:
        shapes = f"{tuple(student_logits_NV.shape)} and {tuple(teacher_logits_NV.shape)}"
        raise ValueError(f"the logits of student and teacher must be two N x V matrices of one shape, not {shapes}")
    if not temperature > 0.0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    student_NE = _at_temperature(student_logits_NV, temperature)
    teacher_NE = _at_temperature(teacher_logits_NV.detach(), temperature)
    if 0 < spec.top_k < student_NE.shape[1]:
        chooser_NV = teacher_NE if spec.chosen_by == "teacher" else student_NE.detach()
        index_NK = chooser_NV.topk(spec.top_k, dim=1).indices
        student_NE, teacher_NE = _with_tail(student_NE, index_NK), _with_tail(teacher_NE, index_NK)
    logq_NE = student_NE.log_softmax(1).clamp_min(LOG_FLOOR)
    logp_NE = teacher_NE.log_softmax(1).clamp_min(LOG_FLOOR)
    return _between(logp_NE, logq_NE, spec)


def divergence_from_choices(
    student_logits_NV: Tensor, id_NK: Tensor, teacher_logp_NK: Tensor, spec: Divergence, temperature: float = 1.0
) -> Tensor:
    """`divergence` over the teacher's most probable tokens, where only these and their log-probabilities are known.

    `id_NK` (int64) and `teacher_logp_NK` (nats, at `temperature`) have at least `spec.top_k` columns, the most probable
    first. What the others have together is one minus these, which float32 log-probabilities know to `LEAST_TAIL`: a
    smaller rest counts as that. Shape N. Raises ValueError where there are fewer columns, or the student chooses.
    """
    if spec.chosen_by != "teacher" or not 0 < spec.top_k <= id_NK.shape[1]:
        raise ValueError(f"{spec} cannot be had of the teacher's {id_NK.shape[1]} most probable tokens")
    index_NK = id_NK[:, : spec.top_k]
    logp_NE = teacher_logp_NK[:, : spec.top_k].detach().double()
    student_NE = _at_temperature(student_logits_NV, temperature)
    if spec.top_k < student_NE.shape[1]:
        student_NE = _with_tail(student_NE, index_NK)
        rest_N1 = (1.0 - logp_NE.exp().sum(1, keepdim=True)).clamp_min(LEAST_TAIL)
        logp_NE = torch.cat([logp_NE, rest_N1.log()], dim=1)
    else:
        student_NE = student_NE.gather(1, index_NK)
    logq_NE = student_NE.log_softmax(1).clamp_min(LOG_FLOOR)
    return _between(logp_NE.log_softmax(1).clamp_min(LOG_FLOOR).to(logq_NE.dtype), logq_NE, spec)


def _between(logp_NE: Tensor, logq_NE: Tensor, spec: Divergence) -> Tensor:
    """The divergence between the teacher's p and the student's q over the same events. Shape N."""
    if spec.kind == "forward_kl":
        return _kl(logp_NE, logq_NE)
    if spec.kind == "reverse_kl":
        return _kl(logq_NE, logp_NE)
    logm_NE = torch.logaddexp(logp_NE + math.log(spec.beta), logq_NE + math.log1p(-spec.beta))
    return spec.beta * _kl(logp_NE, logm_NE) + (1.0 - spec.beta) * _kl(logq_NE, logm_NE)


def _kl(log_left_NE: Tensor, log_right_NE: Tensor) -> Tensor:
    return (log_left_NE.exp() * (log_left_NE - log_right_NE)).sum(1)


def _at_temperature(logits_NV: Tensor, temperature: float) -> Tensor:
    exact_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return exact_NV if temperature == 1.0 else exact_NV / temperature


def _with_tail(logits_NV: Tensor, index_NK: Tensor) -> Tensor:
    """The chosen tokens' logits and, as one more, that of all others together.

    The tail is a sum over the others, not one minus the chosen: where the chosen tokens hold all but 1e-9 of the mass,
    the difference would be rounding. The chosen tokens' places are filled with the floor instead of minus infinity,
    because the gradient of logsumexp is NaN where it has nothing finite to sum.
    """
    floor_N1 = logits_NV.detach().amax(1, keepdim=True) + LOG_FLOOR
    rest_NV = logits_NV.scatter(1, index_NK, floor_N1.expand_as(index_NK))
    return torch.cat([logits_NV.gather(1, index_NK), rest_NV.logsumexp(1, keepdim=True)], dim=1)
