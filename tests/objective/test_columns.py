"""Declared axes: checked when a record is made, and cut together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.columns import action_numbers
from sod.objective.scores import Scores, TeacherScores
from sod.records import Fault, FaultKind

LEDGERS = [([1, 2, 3, 4], [0, 1, 1, 2]), ([5, 6], [0, 1]), ([7, 8, 9], [0, 0, 1])]


@pytest.fixture
def batch() -> TokenBatch:
    """Three rows with 3, 1 and 1 action tokens, scored; each value tells its place."""
    made = supervised_batch(LEDGERS)
    place_BT = torch.arange(12.0).view(3, 4)
    teacher = TeacherScores(
        place_BT + 0.5,
        ids_NK=torch.arange(10).view(5, 2),
        logps_NK=torch.arange(10.0).view(5, 2),
        faults={1: Fault(FaultKind.TIMEOUT, "x")},
    )
    return made.scored(place_BT, teacher)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("turn_BT", torch.zeros(3, 5, dtype=torch.int64), "turn_BT has 5 at axis T, token_BT has 4"),
        ("reward_B", torch.zeros(2), "reward_B has 2 at axis B, token_BT has 3"),
        ("error_BK", torch.zeros(3), "error_BK has 1 dimensions, not the 2 of BK"),
    ],
)
def test_a_column_that_does_not_fit_is_named(column: str, value: torch.Tensor, message: str, batch: TokenBatch) -> None:
    with pytest.raises(ValueError, match=message):
        batch.filled(**{column: value})


def test_stages_of_another_batch_are_refused(batch: TokenBatch) -> None:
    with pytest.raises(ValueError, match="scores are of another batch"):
        batch.scored(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="targets are of another batch"):
        batch.aimed(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="logps_NK has 3 at axis K, ids_NK has 2"):
        TeacherScores(torch.zeros(1, 2), ids_NK=torch.zeros(1, 2).long(), logps_NK=torch.zeros(1, 3))


def test_rows_cut_every_stage_alike(batch: TokenBatch) -> None:
    """Rows 2 and 0 in that order: token columns to 4 tokens, choices to those rows' action tokens in their order."""
    for rows, tokens, action_tokens in (([2, 1], 3, [4, 3]), ([2, 0], 4, [4, 0, 1, 2]), ([1], 2, [3])):
        part = batch.rows(rows)
        assert part.scores is not None
        assert part.scores.teacher is not None
        wanted_BT = torch.arange(12.0).view(3, 4)[rows][:, :tokens]
        assert torch.equal(part.scores.old_BT, wanted_BT)
        assert torch.equal(part.scores.teacher.logp_BT, wanted_BT + 0.5)
        assert part.scores.teacher.ids_NK is not None
        assert part.scores.teacher.ids_NK[:, 0].tolist() == [2 * number for number in action_tokens]
        assert set(part.scores.teacher.faults) == ({rows.index(1)} if 1 in rows else set())


def test_rows_without_stages_have_none(batch: TokenBatch) -> None:
    part = replace(batch, scores=None).rows([1])
    assert (part.scores, part.targets, part.loss_weight_BT) == (None, None, None)
    assert batch.rows([]).token_BT.shape == (0, 0)


def test_action_tokens_are_numbered_row_by_row() -> None:
    turn_BT = torch.tensor([[0, 1, 1, 2], [0, 1, 0, 0], [0, 0, 1, 0]])
    assert action_numbers(turn_BT > 0).tolist() == [[-1, 0, 1, 2], [-1, 3, -1, -1], [-1, -1, 4, -1]]


def test_scores_check_themselves() -> None:
    with pytest.raises(ValueError, match="old_BT has 1 dimensions"):
        Scores(torch.zeros(3))
