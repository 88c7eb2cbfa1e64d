"""Shares of the tokens: by hand, adding up to 1, and blind to padding and order.

What they mean for the expected gradient is in `methods/test_grpo.py`.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.objective import loss_weights

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "turn-mean")
# Two turns that touch, one that is split by context, one of a single token, a row without actions.
TURNS = [[0, 1, 1, 1, 2, 0], [0, 1, 0, 1, 0, 0], [0, 0, 3, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
ROWS = st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6).filter(
    lambda rows: any(any(row) for row in rows)
)


@pytest.mark.parametrize(
    ("loss_aggregation", "expected"),
    [
        (
            "token-mean",
            [[0, 1 / 7, 1 / 7, 1 / 7, 1 / 7, 0], [0, 1 / 7, 0, 1 / 7, 0, 0], [0, 0, 1 / 7, 0, 0, 0], [0] * 6],
        ),
        (
            "seq-mean-token-mean",  # three trajectories with tokens, of 4, 2 and 1
            [[0, *[1 / 12] * 4, 0], [0, 1 / 6, 0, 1 / 6, 0, 0], [0, 0, 1 / 3, 0, 0, 0], [0] * 6],
        ),
        (
            "turn-mean",  # four turns with tokens, of 3, 1, 2 and 1
            [[0, *[1 / 12] * 3, 1 / 4, 0], [0, 1 / 8, 0, 1 / 8, 0, 0], [0, 0, 1 / 4, 0, 0, 0], [0] * 6],
        ),
    ],
)
def test_by_hand(loss_aggregation: str, expected: list[list[float]]) -> None:
    loss_weight_BT = loss_weights(torch.tensor(TURNS), loss_aggregation)  # type: ignore[arg-type]
    assert loss_weight_BT.dtype == torch.float32
    torch.testing.assert_close(loss_weight_BT, torch.tensor(expected))


@pytest.mark.parametrize("loss_aggregation", AGGREGATIONS)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_they_add_up_to_one(loss_aggregation: str, rows: list[list[int]]) -> None:
    turn_BT = torch.tensor(rows)
    loss_weight_BT = loss_weights(turn_BT, loss_aggregation)  # type: ignore[arg-type]
    assert float(loss_weight_BT.double().sum()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(loss_weight_BT > 0, turn_BT > 0)


@pytest.mark.parametrize("loss_aggregation", AGGREGATIONS)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS, extra=st.integers(0, 5), data=st.data())
def test_padding_and_order_do_not_matter(
    loss_aggregation: str, rows: list[list[int]], extra: int, data: st.DataObject
) -> None:
    """Bit for bit."""
    turn_BT = torch.tensor(rows)
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    loss_weight_BT = loss_weights(turn_BT, loss_aggregation)  # type: ignore[arg-type]
    wide_BT = torch.nn.functional.pad(turn_BT[order], (0, extra))
    moved_BT = loss_weights(wide_BT, loss_aggregation)  # type: ignore[arg-type]
    assert torch.equal(moved_BT[:, : turn_BT.shape[1]], loss_weight_BT[order])


def test_turns_of_equal_length_make_all_three_one() -> None:
    turn_BT = torch.tensor([[0, 1, 1, 2, 2], [0, 1, 1, 2, 2]])
    shares = [loss_weights(turn_BT, loss_aggregation) for loss_aggregation in AGGREGATIONS]
    torch.testing.assert_close(shares[0], shares[1])
    torch.testing.assert_close(shares[0], shares[2])


def test_nothing_to_share() -> None:
    """No action token: zeros, no NaN."""
    for loss_aggregation in AGGREGATIONS:
        assert loss_weights(torch.zeros(2, 3, dtype=torch.int64), loss_aggregation).tolist() == [[0.0] * 3] * 2


def test_unknown_loss_aggregation() -> None:
    with pytest.raises(ValueError, match="'mean' is none of token-mean, seq-mean-token-mean, turn-mean"):
        loss_weights(torch.ones(1, 1, dtype=torch.int64), "mean")  # type: ignore[arg-type]
