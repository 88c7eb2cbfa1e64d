"""The loss weights of turns in SFT: weight 0 is context, others count in proportion, under one denominator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sod.objective.batch import supervised_batch
from sod.recipe import Recipe
from sod.training.optim import Optimizer
from sod.training.sft import Example, sft_step

IDS = ([5, 9, 3, 7, 2, 8, 4, 6], [4, 4, 8, 1, 3, 3])
TURNS = ([0, 0, 1, 1, 0, 2, 2, 0], [0, 1, 1, 0, 2, 2])
WEIGHTS = ((0.25, 1.0), (0.0, 3.0))


def weighted(weights: Sequence[Sequence[float]]) -> list[Example]:
    return [Example(ids, turns, own) for ids, turns, own in zip(IDS, TURNS, weights, strict=True)]


def reference(model: Any, weights: Sequence[Sequence[float]]) -> torch.Tensor:
    """The weighted mean over the tokens of turns, one token after the other, in float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for ids, turns, own in zip(IDS, TURNS, weights, strict=True):
        logp_TV = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for at, (token, turn) in enumerate(zip(ids, turns, strict=True)):
            if turn:
                total = total - own[turn - 1] * logp_TV[at - 1, token]
                count += own[turn - 1]
    return total / count


def gradients(model: Any) -> list[torch.Tensor]:
    return [parameter.grad.detach().clone() for parameter in model.parameters() if parameter.grad is not None]


class Still:
    """An optimizer that only keeps what it is given: the gradient of a whole step."""

    def __init__(self, model: Any) -> None:
        self._inner = Optimizer(model, spec(10_000), 1)
        self.model = model
        self.seen: list[torch.Tensor] = []

    def accumulate(self) -> None:
        self._inner.accumulate()

    def step(self, number: int) -> Any:
        self.seen = gradients(self.model)
        return self._inner.step(number)


def spec(budget: int) -> Any:
    optim = {"lr": 1e-3, "micro_batch_tokens": budget, "clip_grad": 1e9}
    return Recipe.model_validate({"student": {"path": "x"}, "optim": optim}).optim


def step(model: Any, weights: Sequence[Sequence[float]], budget: int = 10_000) -> tuple[float, list[torch.Tensor]]:
    """The loss of one step over both examples, and its gradient."""
    own = copy.deepcopy(model)
    still: Any = Still(own)
    report = sft_step(own, still, weighted(weights), 2, spec(budget), seed=0, step=1)
    return report.metrics["loss"], still.seen


@pytest.mark.parametrize("budget", [1, 10_000], ids=["one a micro-batch", "whole"])
def test_loss_and_gradient_are_those_of_the_weighted_mean(acting_model: Any, budget: int) -> None:
    loss, found = step(acting_model, WEIGHTS, budget)
    own = copy.deepcopy(acting_model)
    expected = reference(own, WEIGHTS)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for ours, theirs in zip(found, gradients(own), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_the_loss_differentiated(acting_model: Any) -> None:
    """By finite differences of the reference along the gradient itself, in float64."""
    _, found = step(acting_model, WEIGHTS)
    length = float(sum((gradient.double() ** 2).sum() for gradient in found)) ** 0.5
    model = copy.deepcopy(acting_model).double()
    losses = []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            trained = [parameter for parameter in moved.parameters() if parameter.requires_grad]
            for parameter, gradient in zip(trained, found, strict=True):
                parameter += sign * 1e-4 * gradient.double() / length
            losses.append(float(reference(moved, WEIGHTS)))
    assert (losses[0] - losses[1]) / 2e-4 == pytest.approx(length, rel=1e-3)


def test_weight_one_is_the_plain_mean_bit_for_bit(acting_model: Any) -> None:
    plain, ones = step(acting_model, ((), ())), step(acting_model, ((1.0, 1.0), (1.0, 1.0)))
    assert plain[0] == ones[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], ones[1], strict=True))


def test_a_common_factor_changes_nothing(acting_model: Any) -> None:
    """A weight says how much a turn counts beside the others of its batch."""
    once, thrice = step(acting_model, WEIGHTS), step(acting_model, [[3 * w for w in own] for own in WEIGHTS])
    assert once[0] == pytest.approx(thrice[0], rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(once[1], thrice[1], strict=True))


def test_a_turn_of_weight_0_is_context() -> None:
    batch = supervised_batch(list(zip(IDS, TURNS, strict=True)), WEIGHTS)
    assert batch.turn_BT.tolist() == [[0, 0, 1, 1, 0, 2, 2, 0], [0, 0, 0, 0, 2, 2, 0, 0]]
    assert batch.loss_weight_BT is not None
    assert batch.loss_weight_BT.tolist()[0] == [0, 0, 0.25, 0.25, 0, 1, 1, 0]
    assert batch.prompt_B.tolist() == [2, 4]
    assert batch.rows([1]).loss_weight_BT.tolist() == [[0, 0, 0, 0, 3, 3]]  # type: ignore[union-attr]
    assert supervised_batch(list(zip(IDS, TURNS, strict=True))).loss_weight_BT is None
