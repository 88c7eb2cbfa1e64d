"""The clipped surrogate: its gradient against finite differences and against exact enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sod.objective import PRESETS, Method, TokenBatch, advantage, clipped_surrogate, surrogate
from sod.objective.batch import supervised_batch

V, LENGTH = 3, 3
PREFIXES = [p for n in range(LENGTH) for p in itertools.product(range(V), repeat=n)]
SEQUENCES = list(itertools.product(range(V), repeat=LENGTH))


def test_gradient_against_finite_differences() -> None:
    """Central differences in float64, with tokens on both sides of both clips and both signs of the advantage."""
    turn_BT = torch.tensor([[0, 1, 1, 1, 1, 2, 2]])
    log_ratio = torch.tensor([[9.0, 0.05, -0.1, 0.6, -0.6, 0.6, -0.6]], dtype=torch.float64)
    advantage_BT = torch.tensor([[5.0, 1.3, -0.7, 2.0, 1.5, -1.1, -0.4]], dtype=torch.float64)
    old_BT = -torch.rand(1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(logp_BT: Tensor) -> Tensor:
        return clipped_surrogate(logp_BT, old_BT, advantage_BT, turn_BT, 4.0).loss

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
    terms = clipped_surrogate(logp_BT, old_BT, advantage_BT, turn_BT, 4.0)
    assert terms.clipped == 2


def test_clip_range_is_decoupled() -> None:
    """Ratios 1.27 and 0.81 pass with 0.2 / 0.28; 1.29 and 0.79 do not."""
    ratio = torch.tensor([[1.27, 1.29, 0.81, 0.79]], dtype=torch.float64)
    advantage_BT = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    terms = clipped_surrogate(ratio.log(), torch.zeros(1, 4), advantage_BT, torch.ones(1, 4).long(), 1.0)
    assert float(terms.loss) == pytest.approx(-(1.27 + 1.28 - 0.81 - 0.80))


def test_context_is_masked_before_arithmetic() -> None:
    """NaN and infinities at context touch neither the value nor the gradient; kl is that of the action token."""
    junk = [math.nan, math.inf, -math.inf]
    logp_BT = torch.tensor([[-1.0, *junk]], requires_grad=True)
    old_BT = torch.tensor([[-1.5, *junk[::-1]]])
    terms = clipped_surrogate(logp_BT, old_BT, torch.tensor([[-2.0, *junk]]), torch.tensor([[1, 0, 0, 0]]), 1.0)
    terms.loss.backward()
    assert float(terms.loss.detach()) == pytest.approx(2 * math.exp(0.5))
    assert logp_BT.grad is not None
    assert logp_BT.grad[0, 1:].tolist() == [0.0, 0.0, 0.0]
    assert terms.kl == pytest.approx(math.exp(0.5) - 1.5)


@pytest.fixture(scope="module")
def policies() -> tuple[Tensor, Tensor]:
    """Tabular student and teacher logits, one row per prefix (float64)."""
    generator = torch.Generator().manual_seed(7)
    student, teacher = torch.randn(2, len(PREFIXES), V, generator=generator, dtype=torch.float64)
    return student, teacher


def token_logps(logits_PV: Tensor, sequence: tuple[int, ...]) -> Tensor:
    logp_PV = logits_PV.log_softmax(-1)
    return torch.stack([logp_PV[PREFIXES.index(sequence[:t]), token] for t, token in enumerate(sequence)])


def expected_gradient(
    method: Method, student: Tensor, teacher: Tensor, reward_of: dict[tuple[int, ...], float]
) -> Tensor:
    """E over all sequences of the gradient of our loss at theta = old, each sequence a batch of its own."""
    theta = student.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for sequence in SEQUENCES:
        logp_T = token_logps(theta, sequence)
        pad = torch.zeros(1, dtype=torch.float64)  # the prompt token
        old_BT = torch.cat([pad, logp_T.detach()])[None]
        batch: TokenBatch = supervised_batch([([0, *sequence], [0, 1, 1, 1])]).filled(
            old_BT=old_BT,
            teacher_BT=torch.cat([pad, token_logps(teacher, sequence)])[None],
            reward_B=torch.tensor([reward_of.get(sequence, 0.0)]),  # a group of one: its advantage is its reward
        )
        batch = batch.filled(advantage_BT=advantage(method, batch).advantage_BT)
        loss = surrogate(method, torch.cat([pad, logp_T])[None], batch, total=LENGTH).loss
        total = total + logp_T.detach().sum().exp() * loss
    (gradient,) = torch.autograd.grad(total, theta)
    return gradient


def test_expected_opd_gradient_is_that_of_the_per_token_reverse_kl(policies: tuple[Tensor, Tensor]) -> None:
    """Independent: autograd through `sum_prefix p(prefix) KL(pi(.|prefix) || T(.|prefix))`, p detached."""
    student, teacher = policies
    theta = student.clone().requires_grad_()
    pi_PV, logp_PV, logt_PV = theta.softmax(-1), theta.log_softmax(-1), teacher.log_softmax(-1)
    objective = torch.zeros((), dtype=torch.float64)
    for row, prefix in enumerate(PREFIXES):
        reach = 1.0
        for t in range(len(prefix)):
            reach *= float(pi_PV[PREFIXES.index(prefix[:t]), prefix[t]].detach())
        objective = objective + reach * (pi_PV[row] * (logp_PV[row] - logt_PV[row])).sum()
    (exact,) = torch.autograd.grad(objective / LENGTH, theta)
    ours = expected_gradient(PRESETS["opd"](), student, teacher, {})
    torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-5)
    assert float(exact.abs().max()) > 1e-2


def test_expected_grpo_gradient_is_that_of_the_expected_advantage(policies: tuple[Tensor, Tensor]) -> None:
    """Independent: autograd through `-sum_y p_theta(y) A(y)` with a fixed advantage per sequence."""
    student, teacher = policies
    values = torch.randn(len(SEQUENCES), generator=torch.Generator().manual_seed(1))
    fixed = {sequence: float(value) for sequence, value in zip(SEQUENCES, values, strict=True)}
    theta = student.clone().requires_grad_()
    objective = -sum((token_logps(theta, y).sum().exp() * fixed[y] for y in SEQUENCES), torch.zeros(()))
    (exact,) = torch.autograd.grad(objective / LENGTH, theta)
    ours = expected_gradient(PRESETS["grpo"](), student, teacher, fixed)
    torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-5)
    assert float(exact.abs().max()) > 1e-2


def test_surrogate_needs_old_log_probs_and_advantage() -> None:
    batch = supervised_batch([([1, 2], [0, 1])])
    with pytest.raises(ValueError, match="must be set"):
        surrogate(PRESETS["grpo"](), torch.zeros(1, 2), batch, 1)
