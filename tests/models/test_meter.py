"""The estimates of work against PyTorch's own count, and the meter's sums."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sod.models import score as score_module
from sod.models.meter import Cost, Meter
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps
from sod.objective.batch import TokenBatch


@pytest.fixture
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One position in each, so that the projection is made again; a single chunk is kept."""
    monkeypatch.setattr(score_module, "chunk_rows", lambda model: 1)


@pytest.mark.usefixtures("several_chunks")
def test_flop_of_scoring_and_of_its_gradient(model: Any, random_batch: Callable[..., TokenBatch]) -> None:
    """One row, so that there is no padding. PyTorch does not count what its fused attention does on a CPU."""
    batch = random_batch(rows=1, seed=3)
    cost = Cost.of(model)
    length = int(batch.length_B[0])
    attention = cost.pair * length * (length + 1) // 2
    with FlopCounterMode(display=False) as forward:
        logp_BT = action_logps(model, batch)
    assert cost.scoring(batch) - attention == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        logp_BT.sum().backward()
    model.zero_grad()
    assert cost.backward(batch) - 2 * attention == backward.get_total_flops()


@pytest.mark.usefixtures("several_chunks")
def test_flop_of_a_gradient_with_recomputation(model: Any, random_batch: Callable[..., TokenBatch]) -> None:
    """The layers' forward is in it a second time, but for each layer's last product: nothing needs its result again.

    Attention's share is not counted by PyTorch, as above.
    """
    batch = random_batch(rows=1, seed=3)
    cost = Cost.of(model)
    length = int(batch.length_B[0])
    attention = cost.pair * length * (length + 1) // 2
    again = copy.deepcopy(model)
    recompute_layers(again)
    logp_BT = action_logps(again, batch)
    with FlopCounterMode(display=False) as backward:
        logp_BT.sum().backward()
    last = sum(layer.mlp.down_proj.weight.numel() for layer in model.get_decoder().layers)
    assert cost.backward(batch, recompute=True) - 3 * attention - 2 * length * last == backward.get_total_flops()


def test_weights_and_bytes(model: Any) -> None:
    """Matrices only: norms are left out. A cached token has a key and a value in every layer."""
    cost = Cost.of(model)
    config = model.config
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name)
    assert cost.layer_weights == matrices - (0 if config.tie_word_embeddings else cost.head_weights)
    assert cost.head_weights == config.vocab_size * config.hidden_size
    assert cost.bytes == 4 * (cost.layer_weights + cost.head_weights)
    assert cost.token_bytes == 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def test_phases_add_up() -> None:
    meter = Meter(on=True)
    for tokens in (3, 4):
        with meter.phase("a", tokens, flop=2e9, moved=1e9):
            time.sleep(0.02)
    with meter.phase("b"):
        pass
    a, b = meter.rows()
    assert (a["phase"], a["calls"], a["tokens"], b["phase"], b["calls"]) == ("a", 2, 7, "b", 1)
    assert a["seconds"] >= 0.04
    assert a["share"] + b["share"] == pytest.approx(1)
    assert a["gflop_per_second"] == pytest.approx(4 / a["seconds"])
    assert a["gbyte_per_second"] == pytest.approx(2 / a["seconds"])
    assert (b["tokens_per_second"], b["gflop_per_second"]) == (0.0, 0.0)


def test_off_counts_nothing() -> None:
    meter = Meter()
    with meter.phase("a", 3):
        torch.zeros(1)
    assert meter.rows() == []
