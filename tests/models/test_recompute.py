"""Recomputation of activations: the same gradients to the bit, less kept for the backward, nothing else changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sod.engines.base import SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.forward import packs
from sod.models.load import load_model
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps, score
from sod.objective.batch import supervised_batch
from sod.recipe import OptimSpec
from sod.records import SodError
from sod.training.optim import Optimizer

Make = Callable[..., Any]
LAYERS = 4


def llama(vocab_size: int) -> Any:
    """A tiny random Llama with grouped key heads, as SmolLM2's are."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(params=["qwen3", "llama"])
def plain(request: pytest.FixtureRequest, random_model: Make, tokenizer: Any) -> Any:
    """A fresh model of each architecture that keeps its activations."""
    if request.param == "qwen3":
        return random_model(seed=0, sharpness=4.0, layers=LAYERS)
    return llama(len(tokenizer))


@pytest.fixture
def frugal(plain: Any) -> Any:
    """The same weights in a model that recomputes them."""
    model = copy.deepcopy(plain)
    recompute_layers(model)
    return model


@contextmanager
def layer_runs(model: Any) -> Iterator[list[int]]:
    """How often the attention of some layer has run, in `runs[0]`."""
    packs(model)  # proven once, by forwards of its own
    runs = [0]

    def count(*_: Any) -> None:
        runs[0] += 1

    handles = [layer.self_attn.register_forward_hook(count) for layer in model.get_decoder().layers]
    yield runs
    for handle in handles:
        handle.remove()


def gradients(model: Any, logp_BT: Tensor) -> list[Tensor]:
    weight_BT = torch.linspace(-1, 2, logp_BT.numel()).view(logp_BT.shape)
    return list(torch.autograd.grad((logp_BT * weight_BT).sum(), list(model.parameters())))


def kept_bytes(model: Any, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between this forward and its backward pass, the weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = forward()
    assert out.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)


def test_gradients_are_the_same_to_the_bit(plain: Any, frugal: Any, random_batch: Make) -> None:
    """And each layer has really run twice."""
    batch = random_batch(rows=6, seed=1)
    exact_BT = action_logps(plain, batch, 0.8)
    exact = gradients(plain, exact_BT)
    with layer_runs(frugal) as runs:
        ours_BT = action_logps(frugal, batch, 0.8)
        assert runs == [LAYERS]
        ours = gradients(frugal, ours_BT)
        assert runs == [2 * LAYERS]
    assert torch.equal(ours_BT, exact_BT)
    assert all(bool(gradient.any()) for gradient in exact)
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_optimizer_steps_end_at_the_same_weights(plain: Any, random_batch: Make, name: str) -> None:
    """Three steps with two micro-batches each, as a run makes them."""
    plain = plain.to(getattr(torch, name))
    frugal = copy.deepcopy(plain)
    recompute_layers(frugal)
    before = copy.deepcopy(plain.state_dict())
    for model in (plain, frugal):
        optimizer = Optimizer(model, OptimSpec(lr=1e-2), 3)
        for step in range(1, 4):
            for micro in range(2):
                action_logps(model, random_batch(rows=4, seed=10 * step + micro)).sum().neg().backward()
                optimizer.accumulate()
            optimizer.step(step)
    after = frugal.state_dict()
    assert all(torch.equal(weight, after[key]) for key, weight in plain.state_dict().items())
    assert not any(torch.equal(weight, before[key]) for key, weight in after.items())


def test_only_the_layers_inputs_are_kept(plain: Any, frugal: Any) -> None:
    """One input per layer more with every layer; with the activations it is over ten times as much."""
    batch = supervised_batch([(list(range(200)), [0] * 100 + [1] * 100)])
    batch_bytes = 200 * 32 * 4  # tokens x hidden size x float32
    kept = {}
    for name, model in (("plain", plain), ("frugal", frugal)):
        whole = kept_bytes(model, lambda model=model: action_logps(model, batch))
        shallow = copy.deepcopy(model)
        shallow.config.num_hidden_layers = LAYERS - 1
        kept[name] = whole - kept_bytes(shallow, lambda model=shallow: action_logps(model, batch))
    assert kept["frugal"] == batch_bytes
    assert kept["plain"] > 10 * batch_bytes


def test_sampling_and_scoring_are_untouched(plain: Any, frugal: Any, random_batch: Make) -> None:
    """The same tokens and log-probabilities to the bit, and no layer runs more often."""
    requests = [SampleRequest(f"s{n}", list(range(3, 9 + n)), 12, n) for n in range(5)]
    batch = random_batch(rows=5, seed=2)
    found = []
    for model in (plain, frugal):
        engine = TorchEngine(model, frozenset({0}), max_rows=3)
        with layer_runs(model) as runs:
            turns = engine.generate(requests, Sampling())
            scores_BT = score(model, batch, 40)
        found.append((turns, scores_BT.tolist(), runs))
    assert found[0] == found[1]


def test_nothing_is_recomputed_with_a_cache(plain: Any, frugal: Any) -> None:
    """Keys and values would be appended a second time; the gradient is the plain model's."""
    token_BT = torch.arange(5, 17)[None]
    exact = gradients(plain, plain(input_ids=token_BT, use_cache=True).logits)
    with layer_runs(frugal) as runs:
        out = frugal(input_ids=token_BT, use_cache=True)
        ours = gradients(frugal, out.logits)
    assert runs == [LAYERS]
    assert out.past_key_values.get_seq_length() == 12
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))


def test_hooks_of_a_layer_run_once(frugal: Any, random_batch: Make) -> None:
    """FSDP hangs on them."""
    packs(frugal)
    widths: list[int] = []
    for layer in frugal.get_decoder().layers:
        layer.register_forward_hook(lambda _m, _i, out: widths.append(out.shape[-1]))
    action_logps(frugal, random_batch(rows=3)).sum().backward()
    assert widths == [32] * LAYERS


def test_a_copy_recomputes_with_its_own_weights(frugal: Any, random_batch: Make) -> None:
    """Not with those of the model that it was copied from."""
    batch = random_batch(rows=3, seed=4)
    before_BT = action_logps(frugal, batch).detach()
    copied = copy.deepcopy(frugal)
    with torch.no_grad():
        for weight in frugal.parameters():
            weight.zero_()
    with layer_runs(copied) as runs:
        logp_BT = action_logps(copied, batch)
        logp_BT.sum().backward()
    assert runs == [2 * LAYERS]
    assert torch.equal(logp_BT, before_BT)
    assert all(weight.grad is None for weight in frugal.parameters())


def test_saved_and_loaded_it_is_the_plain_model(plain: Any, frugal: Any, random_batch: Make, tmp_path: Path) -> None:
    """The same files to the byte, the same names; what is loaded keeps its activations until it is told not to."""
    plain.save_pretrained(tmp_path / "plain")
    frugal.save_pretrained(tmp_path / "frugal")
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "frugal").iterdir())
    for name in names:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "frugal" / name).read_bytes(), name
    assert list(frugal.state_dict()) == list(plain.state_dict())
    frugal.load_state_dict(plain.state_dict(), strict=True)
    for loaded in (
        load_model(str(tmp_path / "frugal"), "float32"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "frugal"),
    ):
        assert all(torch.equal(weight, plain.state_dict()[key]) for key, weight in loaded.state_dict().items())
        with layer_runs(loaded) as runs:
            action_logps(loaded, random_batch(rows=3)).sum().backward()
        assert runs == [LAYERS]


def test_a_frozen_embedding_hides_no_gradient(frugal: Any, plain: Any, random_batch: Make) -> None:
    """The first layer's input then needs no gradient, its weights still do (as with LoRA)."""
    batch = random_batch(rows=4, seed=7)
    found = []
    for model in (plain, frugal):
        model.get_input_embeddings().weight.requires_grad_(False)
        action_logps(model, batch).sum().backward()
        found.append([weight.grad for weight in model.get_decoder().layers.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_decoder_without_such_layers_is_refused() -> None:
    """A decoder without any layer that transformers marks; the architecture is named."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16, n_positions=16))
    model.transformer.h = torch.nn.ModuleList()
    with pytest.raises(SodError, match=r"optim\.recompute: architecture 'gpt2' has no layers"):
        recompute_layers(model)
