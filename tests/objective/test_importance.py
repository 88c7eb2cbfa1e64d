"""Importance weights against exact enumeration: two tokens of a vocabulary of three, sampled by other weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sod.objective import supervised_batch
from sod.objective.batch import TokenBatch
from sod.objective.importance import importance_figures, importance_weights
from sod.objective.surrogate import clipped_surrogate

SEQUENCES = list(itertools.product(range(3), range(3)))
PREFIX = {first: 1 + first for first in range(3)}
"""Rows of a table of logits: 0 for the first token, one for the second after each first."""


def table(seed: int, spread: float) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * spread


def logp_of(logits: Tensor) -> Tensor:
    """Log-probabilities of both tokens of every sequence, behind a prompt of one token. Shape B x 3."""
    logp = logits.log_softmax(-1)
    rows = [torch.stack([torch.zeros(()), logp[0, a], logp[PREFIX[a], b]]) for a, b in SEQUENCES]
    return torch.stack(rows)


def every_sequence(sampled: Tensor) -> TokenBatch:
    batch = supervised_batch([((0, a, b), (0, 1, 1)) for a, b in SEQUENCES])
    return batch.filled(sampled_BT=logp_of(sampled))


def weighted_gradient(old: Tensor, sampled: Tensor, advantage_BT: Tensor, level: str) -> Tensor:
    """The gradient of the expectation over what `sampled` samples, with the weights in it, at the old logits."""
    logits = old.clone().requires_grad_()
    batch, logp_BT = every_sequence(sampled), logp_of(logits)
    chance_B = logp_of(sampled).sum(1).exp()
    weight_BT = importance_weights(logp_BT, batch, level)  # type: ignore[arg-type]
    assert not weight_BT.requires_grad
    terms = clipped_surrogate(
        logp_BT,
        logp_BT.detach(),
        advantage_BT,
        batch.turn_BT,
        chance_B[:, None].expand(-1, 3),
        importance_BT=weight_BT,
    )
    (-terms.loss).backward()
    assert logits.grad is not None
    return logits.grad


def test_by_sequence_the_gradient_is_that_of_the_old_weights_expectation() -> None:
    """No ratio reaches the cut, so it is exactly the policy gradient; without weights it is another one."""
    old = table(1, 0.2)
    sampled, reward_B = old + table(2, 0.1), torch.randn(9, dtype=torch.float64)
    logits = old.clone().requires_grad_()
    (logp_of(logits).sum(1).exp() * reward_B).sum().backward()
    advantage_BT = reward_B[:, None].expand(-1, 3)
    torch.testing.assert_close(weighted_gradient(old, sampled, advantage_BT, "sequence"), logits.grad)
    plain = weighted_gradient(old, old, advantage_BT, "token")  # weights of 1
    torch.testing.assert_close(plain, logits.grad)
    assert float((weighted_gradient(old, sampled, advantage_BT, "token") - logits.grad).abs().max()) > 1e-4


def test_by_token_each_place_has_the_old_weights_expectation_and_the_sampler_s_prefixes() -> None:
    """Summed by hand in python floats, with ratios that are cut."""
    old, sampled = table(3, 1.0), table(4, 1.0)
    advantage_BT = torch.randn(9, 3, dtype=torch.float64)
    advantage_BT[:, 1] = advantage_BT[:, 1].reshape(3, 3)[:, :1].expand(3, 3).reshape(9)  # of the first token alone
    mine, theirs = old.softmax(-1).tolist(), sampled.softmax(-1).tolist()
    expected = [[0.0] * 3 for _ in range(4)]
    cut = 0

    def add(row: int, token: int, reach: float, advantage: float) -> None:
        weight = min(mine[row][token] / theirs[row][token], 2.0)
        for other in range(3):
            slope = (other == token) - mine[row][other]
            expected[row][other] += reach * theirs[row][token] * weight * advantage * slope

    for number, (a, b) in enumerate(SEQUENCES):
        if b == 0:
            add(0, a, 1.0, float(advantage_BT[number, 1]))
        add(PREFIX[a], b, theirs[0][a], float(advantage_BT[number, 2]))
        cut += mine[PREFIX[a]][b] / theirs[PREFIX[a]][b] > 2.0
    assert 0 < cut < 9
    found = weighted_gradient(old, sampled, advantage_BT, "token")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("level", "weights", "truncated"),
    [("token", [1.5, 2.0, 0.5, 0.5], 0.25), ("sequence", [2.0, 2.0, 0.25, 0.25], 0.5)],
)
def test_figures_by_hand(level: str, weights: list[float], truncated: float) -> None:
    """Ratios 1.5 and 4, 0.5 and 0.5; context is no part of anything, however far off."""
    batch = supervised_batch([((0, 1, 1), (0, 1, 1)), ((0, 1, 1), (0, 1, 1))])
    ratio_BT = torch.tensor([[1e9, 1.5, 4.0], [1e-9, 0.5, 0.5]]).log()
    found = importance_figures(batch.sampled_BT + ratio_BT, batch, level)  # type: ignore[arg-type]
    assert found["importance_truncated"] == pytest.approx(truncated)
    assert found["importance_weight"] == pytest.approx(sum(weights) / 4)
    assert found["mismatch"] == pytest.approx((math.log(1.5) + math.log(4.0) + 2 * math.log(2.0)) / 4)


def test_a_ratio_that_would_overflow_is_cut() -> None:
    batch = supervised_batch([((0, 1), (0, 1))])
    assert importance_weights(torch.tensor([[0.0, 2000.0]]), batch, "token").tolist() == [[1.0, 2.0]]
