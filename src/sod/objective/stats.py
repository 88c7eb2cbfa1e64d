"""Per-turn statistics of the teacher's signal.

Legend: B trajectories, T tokens, K turns (K = the largest turn id in the batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sod.objective.scores import TeacherScores


@dataclass(frozen=True)
class TurnStats:
    """What a turn-weight rule may look at; column `k - 1` is turn k. Absent turns hold 0 everywhere.

    turn_gap_BK     d_k: mean absolute teacher gap over the turn's scored tokens (nats/token)
    nll_BK          h_k: mean of `-log pi_student` over the turn's action tokens (nats/token)
    tokens_BK       int64: scored tokens of the turn: its action tokens, of which a teacher of another tokenizer scores
                    the aligned ones alone. A turn that has none of them counts as absent
    error_BK        bool: a tool call of the turn ended in a tool error
    confidence_BK   mean top-1 probability of the teacher over the turn; None where it was not asked for
    entropy_BK      mean entropy of the teacher's distribution over the turn (nats); None where it was not asked for
    """

    turn_gap_BK: Tensor
    nll_BK: Tensor
    tokens_BK: Tensor
    error_BK: Tensor
    confidence_BK: Tensor | None = None
    entropy_BK: Tensor | None = None


def turn_stats(
    student_logp_BT: Tensor, teacher: TeacherScores, turn_BT: Tensor, error_BK: Tensor | None = None
) -> TurnStats:
    """Mean gap and surprise of every turn (SOD, arXiv 2605.07725, its step divergence).

    Args: log-probabilities of the sampled tokens in nats, the teacher's scores `by_token`, and `turn_BT` (int64;
    0 = context, k = k-th turn). Values at context positions are never read, so they may be anything, NaN included.
    `error_BK` may have more or fewer columns than there are turns; turns beyond it had no tool error.
    Raises ValueError for unequal shapes, a batch without any turn, and NaN or +inf at an action token
    (naming trajectory, turn and position). A teacher log-probability of -inf gives `d_k = inf`.
    """
    teacher_logp_BT = teacher.logp_BT
    if not student_logp_BT.shape == teacher_logp_BT.shape == turn_BT.shape:
        raise ValueError(
            f"shapes differ: student {tuple(student_logp_BT.shape)}, teacher {tuple(teacher_logp_BT.shape)}, "
            f"turns {tuple(turn_BT.shape)}"
        )
    turns = int(turn_BT.max()) if turn_BT.numel() else 0
    if turns < 1:
        raise ValueError("no turn in this batch: every turn id is 0")
    action_BT, scored_BT = turn_BT > 0, teacher.scored_at(turn_BT)
    student_BT = student_logp_BT.detach().masked_fill(~action_BT, 0.0)
    teacher_BT = teacher_logp_BT.detach().masked_fill(~scored_BT, 0.0)
    _refuse_nan_or_inf("student", student_BT, turn_BT)
    _refuse_nan_or_inf("teacher", teacher_BT, turn_BT)
    # Index 0 collects the context (zeros) and is cut off.
    tokens_BK = _sum_by_turn(scored_BT.to(torch.int64), turn_BT, turns)
    count_BK = tokens_BK.clamp(min=1)
    gap_BK = _sum_by_turn((teacher_BT - student_BT).abs().masked_fill(~scored_BT, 0.0), turn_BT, turns)
    nll_BK = _sum_by_turn(-student_BT, turn_BT, turns) / _sum_by_turn(action_BT.long(), turn_BT, turns).clamp(min=1)
    means = [
        None if column_BT is None else _sum_by_turn(column_BT.masked_fill(~scored_BT, 0.0), turn_BT, turns) / count_BK
        for column_BT in (teacher.top1_BT, teacher.entropy_BT)
    ]
    failed_BK = torch.zeros(tokens_BK.shape, dtype=torch.bool)
    if error_BK is not None:
        known = min(turns, error_BK.shape[1])
        failed_BK[:, :known] = error_BK[:, :known]
    return TurnStats(gap_BK / count_BK, nll_BK, tokens_BK, failed_BK, *means)


def per_token(weight_BK: Tensor, turn_BT: Tensor) -> Tensor:
    """Each token's turn weight: `weight_BK[b, turn - 1]` at action tokens, 0 at context. Shape B x T."""
    padded = torch.cat([weight_BK.new_zeros(weight_BK.shape[0], 1), weight_BK], dim=1)
    return padded.gather(1, turn_BT)


def _sum_by_turn(value_BT: Tensor, turn_BT: Tensor, turns: int) -> Tensor:
    total = value_BT.new_zeros(value_BT.shape[0], turns + 1)
    return total.scatter_add_(1, turn_BT, value_BT)[:, 1:]


def _refuse_nan_or_inf(who: str, logp_BT: Tensor, turn_BT: Tensor) -> None:
    bad_BT = torch.isnan(logp_BT) | (logp_BT == torch.inf)
    if bool(bad_BT.any()):
        row, position = (int(i) for i in torch.nonzero(bad_BT)[0])
        raise ValueError(
            f"{who} log-probability is {float(logp_BT[row, position])} at trajectory {row}, "
            f"turn {int(turn_BT[row, position])}, position {position}"
        )
