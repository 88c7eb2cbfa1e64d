"""The embedded engine with an adapter: it samples what a full forward of the adapted model would."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sod.engines.base import SampleRequest, Sampling
from sod.engines.sampler import draw_tokens
from sod.engines.torch_engine import TorchEngine
from sod.models.lora import dropping, merged, new_adapter, own_weights, shared_copy, without_adapter
from sod.recipe import LoraSpec


@pytest.fixture
def adapted(clone: Callable[[Any], Any], model: Any) -> Any:
    """A model with an adapter, with dropout, that has moved."""
    student = clone(model)
    new_adapter(student, LoraSpec(rank=4, dropout=0.5), 0, "here")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in own_weights(student):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return student


def requests(count: int, new: int = 30) -> list[SampleRequest]:
    rng = random.Random(0)
    return [
        SampleRequest(f"e{n}", tuple(rng.choices(range(400), k=rng.randint(1, 40))), new, rng.getrandbits(63))
        for n in range(count)
    ]


def drawn(model: Any, request: SampleRequest, tokens: int) -> list[int]:
    """The turn, token by token from full forwards without a cache."""
    ids = list(request.token_ids)
    for _ in range(tokens):
        with torch.inference_mode():
            logits_BV = model(input_ids=torch.tensor([ids])).logits[:, -1]
        key, position = (np.array([value], dtype=np.uint64) for value in (request.noise_key, len(ids)))
        ids.append(int(draw_tokens(logits_BV, Sampling(), key, position)[0][0]))
    return ids[len(request.token_ids) :]


def test_tokens_are_those_of_full_forwards(adapted: Any, model: Any, full_logps: Callable[..., list[float]]) -> None:
    """And not those of the base model; log-probabilities within 1e-4 nats; its dropout is off."""
    asked = requests(6)
    answers = TorchEngine(adapted, frozenset(), max_rows=4).generate(asked, Sampling())
    for request, answer in zip(asked[:3], answers, strict=False):
        assert list(answer.token_ids) == drawn(adapted, request, 30)
    for request, answer in zip(asked, answers, strict=True):
        whole = full_logps(adapted, (*request.token_ids, *answer.token_ids))
        assert answer.logps == pytest.approx(whole[len(request.token_ids) :], abs=1e-4)
    plain = TorchEngine(model, frozenset(), max_rows=4).generate(asked, Sampling())
    assert [answer.token_ids for answer in plain] != [answer.token_ids for answer in answers]


def test_an_engine_on_a_shared_copy_stays_where_it_was(adapted: Any, model: Any) -> None:
    """Two engines over one set of base weights, the one with the adapter and the other without, as for an expert."""
    asked = requests(4)
    student, expert = TorchEngine(adapted, frozenset()), TorchEngine(without_adapter(shared_copy(adapted)), frozenset())
    whole = TorchEngine(model, frozenset()).generate(asked, Sampling())
    before = student.generate(asked, Sampling())
    assert [a.token_ids for a in expert.generate(asked, Sampling())] == [a.token_ids for a in whole]
    with dropping(adapted, 0, 1), torch.no_grad():
        for weight in own_weights(adapted):
            weight.mul_(1.5)
    student.sync(adapted)
    student.forget(request.session for request in asked)
    expert.forget(request.session for request in asked)
    assert [a.token_ids for a in expert.generate(asked, Sampling())] == [a.token_ids for a in whole]
    assert [a.token_ids for a in student.generate(asked, Sampling())] != [a.token_ids for a in before]


def test_merged_it_says_the_same(adapted: Any, clone: Callable[[Any], Any]) -> None:
    asked = requests(4)
    whole = merged(clone(adapted))
    one, other = (TorchEngine(m, frozenset()).generate(asked, Sampling()) for m in (adapted, whole))
    assert [answer.token_ids for answer in one] == [answer.token_ids for answer in other]
