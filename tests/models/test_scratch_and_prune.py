"""Models from nothing, the tokenizer they speak, and shallower models cut from deeper ones."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.chat.render import Chat
from sod.engines.base import SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.load import load_model, save_model
from sod.models.prune import kept_layers, prune_layers
from sod.models.scratch import MARKS, SPECIAL, new_qwen3, train_tokenizer
from sod.records import SodError

Make = Callable[..., Any]


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.sampled_from([*SPECIAL, *MARKS, " ", "\n", "12", "print(", "é"]), max_size=8))
def test_marks_round_trip_as_single_tokens(tokenizer: Any, parts: list[str]) -> None:
    """Special tokens and tool marks are one id each, whatever surrounds them."""
    ids = tokenizer.encode("".join(parts), add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == "".join(parts)
    for mark in {*SPECIAL, *MARKS}:
        assert ids.count(tokenizer.convert_tokens_to_ids(mark)) == parts.count(mark)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**30), st.sampled_from("+-*/%=()"), st.integers(0, 9999))
def test_digits_and_operators_are_single_tokens(tokenizer: Any, a: int, operator: str, b: int) -> None:
    text = f"{a}{operator}{b}"
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(text, add_special_tokens=False)]
    assert pieces == list(text)


def test_tokenizer_is_a_function_of_its_corpus() -> None:
    one, two = (train_tokenizer(["print(1) hello hello"] * 5, 320).get_vocab() for _ in range(2))
    assert one == two
    assert len(one) <= 320 + len(MARKS)


def test_what_is_to_stay_apart_is_never_merged_with_its_neighbours() -> None:
    told = [
        f"{name} was born in {town}. {name} works there." for name in ("Kelurik", "Pelilsa") for town in ("Joriford",)
    ]
    names = train_tokenizer(told * 20, 330, r"[A-Z][a-z]+")
    pieces = [names.decode([i]) for i in names.encode(told[0], add_special_tokens=False)]
    assert [piece for piece in pieces if piece[0].isupper()] == ["Kelurik", "Joriford", "Kelurik"]
    merged = train_tokenizer(told * 20, 330)
    assert [merged.decode([i]) for i in merged.encode(told[0], add_special_tokens=False)] == [told[0]]


def test_new_model_depends_on_the_seed_alone(tokenizer: Any) -> None:
    """Not on torch's generator, which is left where it was."""

    def weights(seed: int) -> torch.Tensor:
        made = new_qwen3(tokenizer, layers=1, hidden=16, heads=2, ffn=32, context=64, seed=seed)
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    torch.manual_seed(0)
    first, state = weights(1), torch.get_rng_state()
    torch.manual_seed(123)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 80), st.data())
def test_kept_layers_are_distinct_and_span_the_model(total: int, data: st.DataObject) -> None:
    """`keep` increasing numbers with first and last, no gap more than one longer than the shortest."""
    keep = data.draw(st.integers(1, total))
    chosen = kept_layers(total, keep)
    assert len(chosen) == keep
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    if keep > 1:
        assert chosen[-1] == total - 1
        gaps = [b - a for a, b in itertools.pairwise(chosen)]
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("keep", [-1, 0, 5])
def test_too_many_or_too_few_layers_are_refused(random_model: Make, keep: int) -> None:
    with pytest.raises(SodError, match=rf"--layers {keep}: the model has 4 layers; keep between 1 and 4"):
        prune_layers(random_model(layers=4), keep)


def test_pruning_keeps_first_and_last_layer(random_model: Make) -> None:
    whole, pruned = random_model(layers=5), prune_layers(random_model(layers=5), 3)
    assert pruned.config.num_hidden_layers == len(pruned.get_decoder().layers) == len(pruned.config.layer_types) == 3
    for ours, theirs in zip(pruned.get_decoder().layers, [0, 2, 4], strict=True):
        for name, weight in whole.get_decoder().layers[theirs].named_parameters():
            assert torch.equal(weight, ours.get_parameter(name))


def test_a_pruned_model_samples_and_survives_saving(
    random_model: Make, full_logps: Callable[..., list[float]], tmp_path: Path, chat: Chat
) -> None:
    """Through the cache: log-probs equal a plain forward, before and after a round trip to disk."""
    pruned = prune_layers(random_model(layers=5, sharpness=6.0), 2)
    save_model(pruned, copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, tmp_path / "pruned")
    for student in (pruned, load_model(str(tmp_path / "pruned"), "float32")):
        asked = [SampleRequest(str(n), tuple(range(n, 3 * n)), 30, n) for n in (3, 9, 20)]
        for request, answer in zip(asked, TorchEngine(student, frozenset()).generate(asked, Sampling()), strict=True):
            ids = (*request.token_ids, *answer.token_ids)
            assert answer.logps == pytest.approx(full_logps(pruned, ids)[len(request.token_ids) :], abs=1e-4)
