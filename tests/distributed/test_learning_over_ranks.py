"""Two ranks learn what one process learns: scores, gradients, updates. Everything here runs real processes on gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cases import KINDS, gradients, sampled, steps
from sod.models.ranks import ALONE, dealt
from started import on_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both_gradients(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """`gradients` in one process and on two ranks."""
    directory = tmp_path_factory.mktemp("gradients")
    return gradients(ALONE, directory), on_ranks(2, "gradients", directory)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_have_the_gradient_of_one_process(kind: str, both_gradients: tuple[Any, Any]) -> None:
    one, two = (found[kind] for found in both_gradients)
    assert one["gradient"].keys() == two["gradient"].keys()
    largest = max(float(value.abs().max()) for value in one["gradient"].values())
    assert largest > 1e-4
    for name, value in one["gradient"].items():
        assert float((two["gradient"][name] - value).abs().max()) < 1e-6 * max(1.0, largest), name
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    assert torch.allclose(two["logp"], one["logp"], atol=5e-6)
    assert torch.allclose(two["teacher"], one["teacher"], atol=5e-6)


def test_two_ranks_update_as_one_process_does(tmp_path: Path) -> None:
    one, two = steps(ALONE, tmp_path), on_ranks(2, "steps", tmp_path)
    start = steps(ALONE, tmp_path, "0")["weights"]
    for name, value in one["weights"].items():
        assert float((two["weights"][name] - value).abs().max()) < 1e-5, name
    assert max(float((one["weights"][name] - start[name]).abs().max()) for name in start) > 1e-3
    for ours, theirs in zip(one["figures"], two["figures"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6)
        assert ours["grad_norm"] > 0.5  # so that the clip had something to do


def test_a_sharded_model_computes_in_its_own_precision_over_float32_weights(tmp_path: Path) -> None:
    one, two = sampled(ALONE, tmp_path), on_ranks(2, "sampled", tmp_path)
    assert (one["stored"], two["stored"]) == ("torch.bfloat16", "torch.float32")
    assert torch.allclose(two["logp"], one["logp"], atol=0.15)
    assert not torch.allclose(two["logp"], one["float32"], atol=1e-3)


def test_rows_are_dealt_by_tokens() -> None:
    lengths = [60, 20, 20, 20, 5, 5]
    hands = dealt(lengths, 2)
    assert sorted(row for hand in hands for row in hand) == list(range(6))
    assert [sum(lengths[row] for row in hand) for hand in hands] == [65, 65]
    assert dealt([7], 3) == [[0], [], []]
