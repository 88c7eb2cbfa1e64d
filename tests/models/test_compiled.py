"""Compiled layers and projections: the same numbers up to rounding, and nothing else changed.

Most trace only (`aot_eager`); one runs the compiler of a run, which generates code.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from sod.engines.base import SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models import compiled, forward
from sod.models.compiled import compile_model, fused, wants_compiling, why_not
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps
from sod.records import SodError

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_code_of_other_tests() -> Iterator[None]:
    """What one test compiled does not count against the next one's limit of compilations."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def plain(random_model: Make) -> Any:
    """Two layers; the slow tests' time is that of tracing and compiling one."""
    return random_model(seed=0, sharpness=4.0)


@pytest.fixture
def fast(plain: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same weights in a model whose layers are traced.

    Rows are padded: else the proof of packed and shared ones is traced, too, as in `test_the_compiler_of_a_run`.
    """
    monkeypatch.setattr(forward, "packs", lambda model: False)
    monkeypatch.setattr(compiled, "_compiled", partial(torch.compile, dynamic=True, backend="aot_eager"))
    model = copy.deepcopy(plain)
    compile_model(model, backend="aot_eager")
    return model


def gradients(model: Any, batch: Any) -> tuple[Tensor, list[Tensor]]:
    logp_BT = action_logps(model, batch, 0.8)
    weight_BT = torch.linspace(-1, 2, logp_BT.numel()).view(logp_BT.shape)
    return logp_BT.detach(), list(torch.autograd.grad((logp_BT * weight_BT).sum(), list(model.parameters())))


def assert_same_gradients(plain: Any, fast: Any, batch: Any) -> None:
    exact_BT, exact = gradients(plain, batch)
    ours_BT, ours = gradients(fast, batch)
    assert torch.allclose(ours_BT, exact_BT, atol=1e-5)
    for a, b in zip(ours, exact, strict=True):
        assert float((a - b).norm()) <= 1e-5 * max(1.0, float(b.norm()))
    assert all(bool(gradient.any()) for gradient in exact)


@pytest.mark.slow
def test_a_layer_is_compiled_for_every_way_it_is_called() -> None:
    """On a card the layers of a run over SmolLM2 were called in more than the eight ways that dynamo stops at."""
    graphs = []

    def keep(graph: Any, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    def layer(hidden: Tensor, **more: int) -> Tensor:
        return hidden * (1 + len(more))

    call = compiled._Compiled(layer, keep)
    for ways in range(12):
        assert call(torch.ones(2), **{f"key{i}": i for i in range(ways)}).tolist() == [1 + ways] * 2
    assert len(graphs) == 12


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_the_same(recompute: bool, plain: Any, fast: Any, random_batch: Make) -> None:
    """With two compilations of the layers: the forward of scores and of the update; and recomputed around them."""
    if recompute:
        recompute_layers(fast)
    for seed, rows in ((1, 6),) if recompute else ((1, 6), (2, 3)):
        batch = random_batch(rows=rows, seed=seed)
        assert_same_gradients(plain, fast, batch)
        if not recompute:  # without gradients nothing is recomputed
            with torch.no_grad():
                assert torch.allclose(action_logps(fast, batch), action_logps(plain, batch), atol=1e-5)


def test_one_compilation_serves_all_layers(plain: Any, random_batch: Make) -> None:
    graphs: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    deep = copy.deepcopy(plain)
    compile_model(deep, backend=counting)
    with torch.no_grad():
        for seed in range(4):
            batch = random_batch(rows=4 + seed, seed=seed)
            hidden = deep.get_decoder()(input_ids=batch.token_BT, use_cache=False).last_hidden_state
            assert torch.equal(hidden, plain.get_decoder()(input_ids=batch.token_BT, use_cache=False).last_hidden_state)
    assert len(graphs) == 1


@pytest.mark.slow
def test_the_engine_runs_what_it_ran(plain: Any, fast: Any) -> None:
    """The same tokens and log-probabilities to the bit."""
    requests = [SampleRequest(f"s{n}", list(range(3, 9 + n)), 8, n) for n in range(4)]
    turns = [TorchEngine(model, frozenset({0})).generate(requests, Sampling()) for model in (plain, fast)]
    assert turns[0] == turns[1]


@pytest.mark.slow
def test_names_and_copies(plain: Any, fast: Any, random_batch: Make) -> None:
    """The weights keep their names, and a copy runs with its own."""
    assert list(fast.state_dict()) == list(plain.state_dict())
    copied = copy.deepcopy(fast)
    batch = random_batch(rows=3, seed=4)
    with torch.no_grad():
        before_BT = action_logps(fast, batch)
        for weight in fast.parameters():
            weight.zero_()
        assert torch.allclose(action_logps(copied, batch), before_BT, atol=1e-6)


def test_the_projection_is_compiled_for_that_model_alone(plain: Any, fast: Any) -> None:
    project = partial(torch.add, alpha=2)
    assert fused(project, plain.get_output_embeddings()) is project
    compiled_project = fused(project, fast.get_output_embeddings())
    assert compiled_project is not project
    assert float(compiled_project(torch.ones(2), torch.ones(2)).sum()) == 6.0


def test_when_it_is_worth_it(plain: Any) -> None:
    """Asked for, always; left open, on CUDA alone and not for tiny models."""
    assert wants_compiling(True, plain)
    assert not wants_compiling(False, plain)
    assert not wants_compiling(None, plain)


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_function: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    monkeypatch.setattr(torch, "compile", broken)
    assert why_not(torch.device("cpu")) == "RuntimeError: Failed to find C compiler."


def test_a_decoder_without_known_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16, n_positions=16))
    model.transformer.h = torch.nn.ModuleList()
    with pytest.raises(SodError, match=r"optim\.compile: architecture 'gpt2' has no layers"):
        compile_model(model)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiler_of_a_run(plain: Any, random_batch: Make) -> None:
    assert why_not(torch.device("cpu")) is None
    fast = copy.deepcopy(plain)
    compile_model(fast)
    assert_same_gradients(plain, fast, random_batch(rows=4, seed=1))


@pytest.mark.gpu
def test_on_cuda(plain: Any, random_batch: Make) -> None:
    assert why_not(torch.device("cuda")) is None
    fast = copy.deepcopy(plain).cuda()
    compile_model(fast)
    for seed in (1, 2):
        exact_BT, exact = gradients(plain, random_batch(rows=4, seed=seed))
        ours_BT, ours = gradients(fast, random_batch(rows=4, seed=seed))
        assert torch.allclose(ours_BT, exact_BT, atol=1e-4)
        for a, b in zip(ours, exact, strict=True):
            assert float((a.cpu() - b).norm()) <= 1e-4 * max(1.0, float(b.norm()))
