"""Scoring at the size of a real model, on the `meta` device: shapes flow through, and nothing is computed.

What must come out of it on a CPU is empty, as `meta` tensors have no numbers to bring back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.models import dense, score
from sod.models import device as device_module
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.divergence import Divergence, divergence
from sod.objective.scores import ScoreNeed

VOCABULARY, ROWS, TOKENS = 151_936, 4, 1_024


class Largest(TorchDispatchMode):
    """The most rows that a tensor of a value for each token of the vocabulary has had inside."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and made.shape[-1:] == (VOCABULARY,):
                self.rows = max(self.rows, made.numel() // VOCABULARY)
        return result


@pytest.fixture(scope="module")
def model() -> Any:
    """Two layers of Qwen3-0.6B's shape."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=1_024,
        intermediate_size=3_072,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return Qwen3ForCausalLM(config).to(torch.bfloat16).eval()


@pytest.fixture(scope="module")
def batch() -> TokenBatch:
    """All but the first token of each row are actions."""
    return supervised_batch([([n] * TOKENS, [0] + [1] * (TOKENS - 1)) for n in range(ROWS)])


@pytest.fixture
def back_from_meta(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Lets results come back to the CPU, without their numbers; gives the devices that tensors were moved to."""
    asked: list[torch.device] = []

    def moved(tensor: Tensor, device: torch.device) -> Tensor:
        asked.append(device)
        if tensor.is_meta and device.type == "cpu":
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return device_module.moved(tensor, device)

    for module in (score, dense):
        monkeypatch.setattr(module, "moved", moved)
    # Looks at the numbers of position ids, which do not exist here.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    return asked


def test_no_chunk_is_larger_than_it_may_be(
    model: Any, batch: TokenBatch, back_from_meta: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities and what a teacher is asked, by chunks of a card, all on the model's device."""
    monkeypatch.setattr(score, "chunk_rows", lambda model: score.CUDA_ROWS)
    with torch.no_grad(), Largest() as largest:
        scores = score.teacher_scores(model, batch, ROWS * TOKENS, need=ScoreNeed(top1=True, entropy=True, k=5))
        assert largest.rows == score.CUDA_ROWS
        logp_BT = score.action_logps(model, batch)
    assert largest.rows == score.CUDA_ROWS
    assert logp_BT.shape == scores.logp_BT.shape == (ROWS, TOKENS)
    assert scores.logps_NK is not None
    assert scores.logps_NK.shape == (ROWS * (TOKENS - 1), 5)
    assert set(back_from_meta) == {torch.device("meta"), torch.device("cpu")}


def test_dense_terms_take_half_of_a_chunk(
    model: Any, batch: TokenBatch, back_from_meta: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A divergence has several tensors of a chunk's size at once."""
    monkeypatch.setattr(dense, "LEAST_ROWS", dense.CUDA_ROWS)
    measure = partial(divergence, spec=Divergence(kind="jsd"), temperature=1.0)
    with torch.no_grad(), Largest() as largest:
        logp_BT, value_BT = dense.dense_terms(model, model, batch, batch, measure)
    assert largest.rows == score.CUDA_ROWS // 2
    assert logp_BT.shape == value_BT.shape == (ROWS, TOKENS)
