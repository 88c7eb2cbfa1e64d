"""The cards that are not there: they refuse what a real one refuses, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from card import CARD, CPU, OTHER_CARD, MixedDevicesError, cards

HERE = torch.arange(6.0).view(2, 3)

REFUSED: dict[str, Callable[[Tensor], object]] = {
    "sum": lambda there: there + HERE,
    "embedding": lambda there: torch.nn.functional.embedding(torch.tensor([0, 1]), there),
    "gather": lambda there: there.gather(1, torch.tensor([[0], [1]])),
    "stack": lambda there: torch.stack([there, HERE]),
    "index": lambda there: there[torch.arange(2), torch.zeros(2, dtype=torch.int64, device=CARD)],
    "number among tensors": lambda there: torch.stack([there.sum(), torch.tensor(1.0)]),
    "number of the card": lambda there: HERE * there.sum(),
    "numpy": lambda there: there.numpy(),
    "two cards": lambda there: there + there.to(OTHER_CARD),
    "view": lambda there: there[0] + HERE[0],
    "written in place": lambda there: torch.zeros_like(there).add_(1.0) + HERE,
    "gradient": lambda there: (there.to(CPU).requires_grad_().to(CARD) * HERE).sum(),
}


@pytest.mark.parametrize("mixed", REFUSED.values(), ids=REFUSED)
def test_what_a_card_refuses_is_refused(mixed: Callable[[Tensor], object]) -> None:
    with cards(), pytest.raises(MixedDevicesError):
        mixed(HERE.to(CARD))


def test_what_a_card_takes_is_taken() -> None:
    """Numbers of the CPU, copies, what is made there, and gradients that cross back."""
    with cards() as places:
        there = HERE.to(CARD)
        assert (there.device, HERE.device, there.is_cpu, HERE.is_cpu) == (CARD, CPU, False, True)
        assert (there * torch.tensor(2.0) + 1).device == CARD
        assert (there + torch.ones(2, 3, device=CARD)).device == CARD
        assert there.to("cpu:1").to(torch.float64).device == CARD
        assert torch.empty(2, 3).copy_(there).device == CPU
        assert torch.equal(there.to(HERE), HERE)
        assert float(there.sum()) == 15.0
        weight = torch.ones(3, requires_grad=True)
        (weight.to(CARD) * there).sum().to(CPU).mul(HERE.sum()).backward()
        assert weight.grad is not None
        assert weight.grad.device == CPU
        assert weight.grad.tolist() == [45.0, 75.0, 105.0]
        assert places.crossings == 4  # to the card, back, and the two that have a gradient
    assert HERE.device == CPU
