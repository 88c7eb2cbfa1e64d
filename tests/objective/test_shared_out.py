"""A teacher's scores of spans, shared out among the student's tokens; turn statistics over the aligned tokens alone."""

from __future__ import annotations

import torch

from sod.objective import weights
from sod.objective.scores import Aligned, TeacherScores
from sod.objective.spans import by_token, shared_out
from sod.objective.stats import turn_stats


def spanned(logp: list[float], spans: list[int]) -> TeacherScores:
    """One trajectory of tokens in these spans, each with the log-probability of its whole span."""
    counts_BUC = torch.zeros(1, 1, 6, dtype=torch.int64)
    aligned = Aligned(torch.tensor([spans]), counts_BUC, torch.zeros(1, dtype=torch.bool))
    return TeacherScores(torch.tensor([logp]), aligned=aligned)


def test_tokens_share_by_their_part_of_the_students_own() -> None:
    """Of -4 nats the token that the student gave -3 of its -4 gets three quarters."""
    own = torch.tensor([-1.0, -3.0, -0.3])
    got = shared_out(own, torch.tensor([0, 0, 1]), torch.tensor([-8.0, -0.1]))
    assert got.tolist() == [-2.0, -6.0, torch.tensor(-0.1).item()]


def test_a_certain_student_shares_equally() -> None:
    got = shared_out(torch.zeros(4), torch.tensor([0, 0, 0, 1]), torch.tensor([-3.0, -2.0]))
    assert got.tolist() == [-1.0, -1.0, -1.0, -2.0]


def test_statistics_are_over_the_aligned_tokens_and_surprise_over_all() -> None:
    turn_BT = torch.tensor([[0, 1, 1, 1, 0, 2, 2]])
    old_BT = torch.tensor([[0.0, -1.0, -2.0, -3.0, 0.0, -4.0, -6.0]])
    teacher = spanned([0.0, -5.0, 0.0, -1.0, 0.0, -5.0, -5.0], [0, 1, 0, 2, 0, 3, 3])
    stats = turn_stats(old_BT, by_token(teacher, old_BT), turn_BT)
    assert stats.turn_gap_BK.tolist() == [[3.0, 2.5]]  # |-5 + 1|, |-1 + 3|; |-2 + 4|, |-3 + 6|
    assert stats.tokens_BK.tolist() == [[2, 2]]
    assert stats.nll_BK.tolist() == [[2.0, 5.0]]


def test_a_turn_without_an_aligned_token_has_no_weight_and_is_no_base_of_the_others() -> None:
    turn_BT = torch.tensor([[0, 1, 1, 0, 2, 0, 3]])
    old_BT = torch.tensor([[0.0, -1.0, -1.0, 0.0, -1.0, 0.0, -1.0]])
    teacher = spanned([0.0, 0.0, 0.0, 0.0, -2.0, 0.0, -5.0], [0, 0, 0, 0, 1, 0, 2])
    stats = turn_stats(old_BT, by_token(teacher, old_BT), turn_BT)
    torch.testing.assert_close(weights.sod(stats), torch.tensor([[0.0, 1.0, 0.25]]), atol=1e-5, rtol=1e-5)
    assert weights.uniform(stats).tolist() == [[0.0, 1.0, 1.0]]
