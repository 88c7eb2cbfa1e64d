"""The loss of a micro-batch: the clipped surrogate against finite differences, and the dense part.

The expected gradients of whole methods, against exact enumeration, are in `methods/`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sod.objective import PRESETS, clipped_surrogate, distillation_loss, surrogate
from sod.objective.batch import supervised_batch


def test_gradient_against_finite_differences() -> None:
    """Central differences in float64, with tokens on both sides of both clips and both signs of the advantage."""
    turn_BT = torch.tensor([[0, 1, 1, 1, 1, 2, 2]])
    log_ratio = torch.tensor([[9.0, 0.05, -0.1, 0.6, -0.6, 0.6, -0.6]], dtype=torch.float64)
    advantage_BT = torch.tensor([[5.0, 1.3, -0.7, 2.0, 1.5, -1.1, -0.4]], dtype=torch.float64)
    old_BT = -torch.rand(1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss_weight_BT = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.15, 0.05, 0.2]])

    def loss(logp_BT: Tensor) -> Tensor:
        return clipped_surrogate(logp_BT, old_BT, advantage_BT, turn_BT, loss_weight_BT).loss

    logp_BT = (old_BT + log_ratio).requires_grad_()
    (gradient_BT,) = torch.autograd.grad(loss(logp_BT), logp_BT)
    numeric = []
    for t in range(7):
        step_BT = torch.zeros_like(logp_BT)
        step_BT[0, t] = 1e-6
        numeric.append(float((loss(logp_BT + step_BT) - loss(logp_BT - step_BT)).detach()) / 2e-6)
    assert gradient_BT[0].tolist() == pytest.approx(numeric, abs=1e-7)
    assert gradient_BT[0, [0, 3, 6]].tolist() == [0.0, 0.0, 0.0]  # context; ratio too high; ratio too low
    assert bool((gradient_BT[0, [1, 2, 4, 5]] != 0).all())
    terms = clipped_surrogate(logp_BT, old_BT, advantage_BT, turn_BT, loss_weight_BT)
    assert terms.clipped == pytest.approx(0.3 + 0.2)


def test_clip_range_is_decoupled() -> None:
    """Ratios 1.27 and 0.81 pass with 0.2 / 0.28; 1.29 and 0.79 do not."""
    ratio = torch.tensor([[1.27, 1.29, 0.81, 0.79]], dtype=torch.float64)
    advantage_BT = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    terms = clipped_surrogate(ratio.log(), torch.zeros(1, 4), advantage_BT, torch.ones(1, 4).long(), torch.ones(1, 4))
    assert float(terms.loss) == pytest.approx(-(1.27 + 1.28 - 0.81 - 0.80))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "struck"),
    [
        (2.9, -1.0, 2.9, 2.9, False),
        (3.1, -1.0, 3.0, 0.0, True),
        (40.0, -0.5, 1.5, 0.0, True),
        (40.0, 0.5, -0.64, 0.0, False),  # the ordinary clip holds where the advantage is positive
        (0.5, -2.0, 1.6, 0.0, False),
        (1.0, -2.0, 2.0, 2.0, False),
        (math.inf, -1.0, 3.0, 0.0, True),
        (40.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_dual_clip_by_hand(ratio: float, advantage: float, loss: float, slope: float, struck: bool) -> None:
    """c = 3: a token of negative advantage costs 3 |A| at most; beyond that its gradient is 0 (arXiv 1912.09729)."""
    logp_BT = torch.tensor([[0.0, math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    turn_BT, loss_weight_BT = torch.tensor([[0, 1]]), torch.tensor([[0.0, 1.0]])
    advantage_BT = torch.tensor([[-9.0, advantage]], dtype=torch.float64)
    terms = clipped_surrogate(logp_BT, torch.zeros(1, 2), advantage_BT, turn_BT, loss_weight_BT, dual_clip=3.0)
    (gradient_BT,) = torch.autograd.grad(terms.loss, logp_BT)
    assert float(terms.loss.detach()) == pytest.approx(loss)
    assert gradient_BT[0].tolist() == pytest.approx([0.0, slope])  # d(r |A|) / d(log r) = r |A|
    assert terms.dual_clipped == float(struck)


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.tuples(st.floats(-4, 4), st.floats(-3, 3)), min_size=1, max_size=10),
    low=st.floats(0.01, 0.9),
    high=st.floats(0.01, 4.0),
    bound=st.floats(1.01, 20.0),
)
def test_dual_clip_is_the_published_formula(
    tokens: list[tuple[float, float]], low: float, high: float, bound: float
) -> None:
    """`max(min(r A, clip(r) A), c A)` where A < 0, nothing new elsewhere, in python floats; also for c < 1 + high."""
    log_ratio, advantage_BT = (torch.tensor([[t[i] for t in tokens]], dtype=torch.float64) for i in (0, 1))
    share = 1 / len(tokens)
    expected = 0.0
    for x, a in tokens:
        r = math.exp(x)
        value = min(r * a, min(max(r, 1 - low), 1 + high) * a)
        expected -= share * (max(value, bound * a) if a < 0 else value)
    turn_BT, share_BT = torch.ones(1, len(tokens)).long(), torch.full((1, len(tokens)), share, dtype=torch.float64)
    old_BT = torch.zeros_like(log_ratio)
    terms = clipped_surrogate(log_ratio, old_BT, advantage_BT, turn_BT, share_BT, low, high, bound)
    assert float(terms.loss) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_context_is_masked_before_arithmetic() -> None:
    """NaN and infinities at context touch neither the value nor the gradient; kl is that of the action token."""
    junk = [math.nan, math.inf, -math.inf]
    logp_BT = torch.tensor([[-1.0, *junk]], requires_grad=True)
    old_BT = torch.tensor([[-1.5, *junk[::-1]]])
    turn_BT, loss_weight_BT = torch.tensor([[1, 0, 0, 0]]), torch.tensor([[1.0, *junk]])
    terms = clipped_surrogate(logp_BT, old_BT, torch.tensor([[-2.0, *junk]]), turn_BT, loss_weight_BT)
    terms.loss.backward()
    assert float(terms.loss.detach()) == pytest.approx(2 * math.exp(0.5))
    assert logp_BT.grad is not None
    assert logp_BT.grad[0, 1:].tolist() == [0.0, 0.0, 0.0]
    assert terms.kl == pytest.approx(math.exp(0.5) - 1.5)


def test_shares_are_what_a_token_counts() -> None:
    """Loss, clipped share and KL are sums of share times value, whatever the shares."""
    log_ratio = torch.tensor([[0.5, -0.1, 0.1, 9.0]], dtype=torch.float64)
    loss_weight_BT = torch.tensor([[0.125, 0.5, 0.25, 7.0]])
    turn_BT = torch.tensor([[1, 1, 2, 0]])
    terms = clipped_surrogate(
        log_ratio, torch.zeros(1, 4), torch.tensor([[1.0, 2.0, -1.0, 1.0]]), turn_BT, loss_weight_BT
    )
    expected = 0.125 * 1.28 + 0.5 * 2 * math.exp(-0.1) - 0.25 * math.exp(0.1)
    assert float(terms.loss) == pytest.approx(-expected)
    assert terms.clipped == pytest.approx(0.125)
    ratios = [(0.125, 0.5), (0.5, -0.1), (0.25, 0.1)]
    assert terms.kl == pytest.approx(sum(share * (math.exp(x) - 1 - x) for share, x in ratios))


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.tuples(st.floats(-1, 1), st.floats(-3, 3)), min_size=1, max_size=10),
    low=st.floats(0.01, 0.9),
    high=st.floats(0.01, 2.0),
)
def test_pessimistic(tokens: list[tuple[float, float]], low: float, high: float) -> None:
    """The clip never makes the loss smaller, and does nothing on policy."""
    log_ratio, advantage_BT = (torch.tensor([[t[i] for t in tokens]], dtype=torch.float64) for i in (0, 1))
    turn_BT, loss_weight_BT = torch.ones(1, len(tokens)).long(), torch.full((1, len(tokens)), 1 / len(tokens))
    old_BT = torch.zeros_like(log_ratio)
    clipped = clipped_surrogate(log_ratio, old_BT, advantage_BT, turn_BT, loss_weight_BT, low, high)
    plain = -(log_ratio.exp() * advantage_BT).mean()
    assert float(clipped.loss) >= float(plain) - 1e-6
    assert clipped.kl >= -1e-9
    on_policy = clipped_surrogate(old_BT, old_BT, advantage_BT, turn_BT, loss_weight_BT, low, high)
    assert float(on_policy.loss) == pytest.approx(-float(advantage_BT.mean()), abs=1e-6)
    assert (on_policy.clipped, on_policy.kl) == (0.0, 0.0)


def test_what_must_be_set_before_the_loss() -> None:
    """Old log-probabilities, advantage and loss weights; factors and loss weights for a dense divergence."""
    batch = supervised_batch([([1, 2], [0, 1])])
    zero_BT = torch.zeros(1, 2)
    whole = batch.scored(zero_BT).aimed(zero_BT, zero_BT).filled(loss_weight_BT=zero_BT)
    assert float(surrogate(PRESETS["grpo"](), zero_BT, whole).loss) == 0.0
    for name in ("scores", "targets", "loss_weight_BT"):
        with pytest.raises(ValueError, match="must be set"):
            surrogate(PRESETS["grpo"](), zero_BT, replace(whole, **{name: None}))
    for unset in (whole.aimed(zero_BT), replace(whole, targets=None), replace(whole, loss_weight_BT=None)):
        with pytest.raises(ValueError, match="must be set"):
            distillation_loss(zero_BT, unset)


def test_a_divergence_is_not_read_where_it_does_not_count() -> None:
    """Neither at context nor where the turn's weight is 0; elsewhere share times factor times value."""
    batch = supervised_batch([([1, 2, 3, 4], [0, 1, 2, 2])]).aimed(
        torch.zeros(1, 4), distil_BT=torch.tensor([[0.0, 2.0, 0.0, 0.5]])
    )
    batch = batch.filled(loss_weight_BT=torch.tensor([[0.0, 0.25, 0.25, 0.5]]))
    value_BT = torch.tensor([[math.nan, 3.0, math.inf, 4.0]], requires_grad=True)
    loss = distillation_loss(value_BT, batch)
    loss.backward()
    assert float(loss.detach()) == 2.0 * 0.25 * 3.0 + 0.5 * 0.5 * 4.0
    assert value_BT.grad is not None
    assert value_BT.grad.tolist() == [[0.0, 0.5, 0.0, 0.25]]
