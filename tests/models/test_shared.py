"""Tokens that rows begin with alike: numbered once, and scored and trained as the separate rows are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from sod.models import forward as forward_module
from sod.models.forward import packs
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps, score
from sod.models.shared import shared_rows, shared_rows_of
from sod.objective.batch import TokenBatch, supervised_batch

Make = Callable[..., Any]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=6), min_size=1, max_size=6))
def test_one_number_for_one_token_after_the_same_tokens(texts: list[list[int]]) -> None:
    """Against the beginnings themselves: as many numbers as there are, each where it stands."""
    width = max(map(len, texts))
    token_BT = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    rows = shared_rows(token_BT, torch.tensor([len(text) for text in texts]))
    numbers: dict[tuple[int, ...], int] = {}
    for row, text in enumerate(texts):
        for end in range(1, len(text) + 1):
            number = int(rows.at_BT[row, end - 1])
            assert numbers.setdefault(tuple(text[:end]), number) == number
    assert sorted(numbers.values()) == list(range(rows.tokens))
    for beginning, number in numbers.items():
        assert int(rows.token_1S[0, number]) == beginning[-1]
        assert int(rows.position_1S[0, number]) == len(beginning) - 1
        row, column = divmod(int(rows.first_S[number]), width)
        assert tuple(texts[row][: column + 1]) == beginning


def llama(vocabulary: int, **more: Any) -> Any:
    """A tiny random Llama with grouped key heads."""
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, initializer_range=0.2, tie_word_embeddings=True, **sizes, **heads, **more)
    ).eval()


@pytest.fixture
def batch(random_batch: Make) -> TokenBatch:
    """Rows of which the first half begins like the other, each pair a bit longer; and one that is begun by another."""
    rows = random_batch(rows=8, seed=3)
    ledgers = []
    for row, length in enumerate(rows.length_B.tolist()):
        token, turn = rows.token_BT[row, :length].tolist(), rows.turn_BT[row, :length].tolist()
        ledgers.append((token, turn))
        cut = length * (row + 1) // 9
        ledgers.append((token[:cut] + token[cut - 1 : length], [*turn[:cut], 0, *turn[cut:]]))
    return supervised_batch([*ledgers, ledgers[0], (ledgers[2][0][:-1], ledgers[2][1][:-1])])


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every row is run by itself."""
    monkeypatch.setattr(forward_module, "shared_rows_of", lambda model, batch: None)
    monkeypatch.setattr(forward_module, "worth_packing", lambda *_: False)


def gradients(model: Any, logp_BT: Tensor) -> list[Tensor]:
    weight_BT = torch.linspace(-1, 2, logp_BT.numel()).view(logp_BT.shape)
    return list(torch.autograd.grad((logp_BT * weight_BT).sum(), list(model.parameters())))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_scores_and_gradients_are_those_of_the_rows(
    family: str, recompute: bool, batch: TokenBatch, random_model: Make, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients within 1e-6 of their own size. Whether tokens were shared is counted where embeddings are looked up."""
    if family == "qwen3":
        model = random_model(seed=0, sharpness=2.0)
    elif family == "llama":
        model = llama(len(tokenizer))
    else:
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
        model = GPT2LMHeadModel(config).eval()
    if recompute:
        recompute_layers(model)
    assert packs(model)
    looked_up: list[int] = []
    embeddings = model.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda _m, inputs, _o: looked_up.append(inputs[0].numel()))
    ours_BT = action_logps(model, batch, 0.8)
    ours = gradients(model, ours_BT)
    handle.remove()
    assert looked_up == [shared_rows(batch.token_BT, batch.length_B).tokens]
    assert looked_up[0] < 0.8 * int(batch.length_B.sum())
    plainly(monkeypatch)
    exact_BT = action_logps(model, batch, 0.8)
    torch.testing.assert_close(ours_BT, exact_BT, atol=1e-5, rtol=1e-5)
    for one, other in zip(ours, gradients(model, exact_BT), strict=True):
        assert float((one - other).norm()) <= 1e-6 * float(other.norm()) + 1e-7


def test_scoring_splits_as_before(batch: TokenBatch, random_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches share within themselves; the scores are those without sharing."""
    model = random_model(seed=0, sharpness=2.0)
    packs(model)
    shared = [score(model, batch, budget) for budget in (10**6, 3 * batch.token_BT.shape[1])]
    plainly(monkeypatch)
    for logp_BT in shared:
        torch.testing.assert_close(logp_BT, score(model, batch, 10**6), atol=1e-5, rtol=1e-5)


def test_rows_with_nothing_in_common_are_run_as_they_are(random_model: Make) -> None:
    """No row is longer than another and none begins like another: there is nothing to save."""
    ids = torch.arange(40).view(4, 10).tolist()
    batch = supervised_batch([(row, [0] + [1] * 9) for row in ids])
    assert shared_rows_of(random_model(seed=0), batch) is None


def test_a_model_of_another_kind_is_left_alone(tokenizer: Any, batch: TokenBatch) -> None:
    """A sliding window that hides tokens; positions that are counted by the model itself."""
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    for window, share in ((64, True), (8, False)):
        config = MistralConfig(vocab_size=len(tokenizer), sliding_window=window, **sizes, **heads)
        windowed = MistralForCausalLM(config).eval()
        assert (looked_up(windowed, batch) < batch.token_BT.numel()) == share
    counting = llama(len(tokenizer))
    rotary = counting.model.rotary_emb
    given = rotary.forward
    rotary.forward = lambda x, position_ids: given(x, torch.arange(position_ids.shape[1])[None])
    assert not packs(counting)
    assert looked_up(counting, batch) == batch.token_BT.numel()
    assert counting.config._attn_implementation == "sdpa"


def looked_up(model: Any, batch: TokenBatch) -> int:
    """How many tokens a forward of the batch runs, the proof before it not counted."""
    packs(model)
    counts: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: counts.append(inputs[0].numel()))
    with torch.no_grad():
        action_logps(model, batch)
    handle.remove()
    return counts[0]
