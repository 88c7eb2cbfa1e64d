"""The plain engine: the fast engine's tokens where both sample, the plain forward's where the fast one cannot."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from architectures import LINEAR, plain_logps, tiny_config, tiny_model, worst_gap
from sod.engines import plain_proof
from sod.engines.base import SampleRequest, Sampling
from sod.engines.choice import choose_engine
from sod.engines.plain_engine import PlainEngine
from sod.engines.plain_proof import Ways
from sod.engines.torch_engine import TorchEngine
from sod.models.architecture import UnknownArchitectureError
from sod.models.meter import Meter

WINDOWED = ("mistral", {"sliding_window": 12})
SINKS = ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 12})
HYBRID = ("qwen3_5_text", LINEAR)
CAPPED = ("gemma2", {"head_dim": 8, "sliding_window": 12})
STOPS = frozenset(range(3, 200, 25))


def requests(count: int, new: int = 20, seed: int = 0) -> list[SampleRequest]:
    """Random contexts, every third like the one before."""
    rng = random.Random(seed)
    contexts = [tuple(rng.choices(range(3, 200), k=rng.randint(1, 30))) for _ in range(count)]
    return [
        SampleRequest(f"e{n}", contexts[n - 1 if n % 3 == 2 else n], new + n, rng.getrandbits(63)) for n in range(count)
    ]


@pytest.fixture(scope="module")
def windowed() -> Any:
    return tiny_model(tiny_config(WINDOWED[0], num_hidden_layers=2, **WINDOWED[1]))


@pytest.fixture(autouse=True)
def short_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 tokens instead of 300: windows here are of 12."""
    monkeypatch.setattr(plain_proof, "MOST", 60)


slow = pytest.mark.slow
SAMPLINGS = [
    pytest.param(Sampling(), marks=slow),
    Sampling(0.7, 0.9, 20),
    pytest.param(Sampling(temperature=0.0), marks=slow),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_tokens_are_the_fast_engines(model: Any, clone: Callable[[Any], Any], sampling: Sampling) -> None:
    """Noise, stop tokens, limits and truncation alike, over two turns and for any number of rows."""
    asked = requests(8)
    more = [SampleRequest(one.session, (*one.token_ids, 5, 6, 7), 0 if n == 3 else 9, n) for n, one in enumerate(asked)]
    fast = TorchEngine(model, STOPS, 3)
    expected = [*fast.generate(asked, sampling), *fast.generate(more, sampling)]
    for rows in (1, 5):
        plain = PlainEngine(clone(model), STOPS, rows)
        assert plain.ways == Ways(continues=True, batches=True, mixes=True)
        answers = [*plain.generate(asked, sampling), *plain.generate(more, sampling)]
        assert [one.token_ids for one in answers] == [one.token_ids for one in expected]
        assert [one.stopped for one in answers] == [one.stopped for one in expected]
        for ours, theirs in zip(answers, expected, strict=True):
            assert ours.logps == pytest.approx(theirs.logps, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes"), [WINDOWED, pytest.param(*SINKS, marks=slow), HYBRID, pytest.param(*CAPPED, marks=slow)]
)
def test_log_probs_are_the_plain_forwards(kind: str, changes: dict[str, Any]) -> None:
    """Over four turns, past windows of 12 tokens, with turns that stop early; rows of all lengths go together."""
    layers = {"num_hidden_layers": 4 if kind == HYBRID[0] else 2}
    engine = choose_engine(tiny_model(tiny_config(kind, **layers, **changes)), STOPS, 80, lambda text: None, 3)
    assert isinstance(engine, PlainEngine)
    assert engine.ways.mixes
    assert worst_gap(engine, 80) < 1e-4


@pytest.mark.parametrize(
    "ways",
    [
        Ways(True, True, False),
        pytest.param(Ways(True, False, False), marks=slow),
        pytest.param(Ways(False, True, True), marks=slow),
        Ways(False, False, False),
    ],
    ids=str,
)
def test_the_ways_of_a_cache_change_no_token(windowed: Any, ways: Ways) -> None:
    """By length, row by row, and with every turn from its first token on: all as with rows together."""
    free, bound = PlainEngine(windowed, STOPS, 4), PlainEngine(windowed, STOPS, 4)
    bound.ways = ways
    for seed in (0, 1):
        asked = requests(7, seed=seed)
        expected, answers = (engine.generate(asked, Sampling()) for engine in (free, bound))
        assert [one.token_ids for one in answers] == [one.token_ids for one in expected]


def test_turns_join_those_under_way(windowed: Any) -> None:
    """Submitted at different moments, in bits: what each samples is its own business."""
    asked = requests(6)
    expected = {
        one.session: answer
        for one, answer in zip(asked, PlainEngine(windowed, STOPS).generate(asked, Sampling()), strict=True)
    }
    engine = PlainEngine(windowed, STOPS, 4)
    turns: dict[str, Any] = {}
    for one in asked:
        engine.submit([one], Sampling())
        turns |= dict(engine.advance(4))
    while len(turns) < len(asked):
        turns |= dict(engine.advance(3))
    assert {name: turn.token_ids for name, turn in turns.items()} == {
        name: turn.token_ids for name, turn in expected.items()
    }
    assert not engine.advance(10)


def prefilled(engine: PlainEngine, meter: Meter, asked: list[SampleRequest]) -> int:
    before = meter.phases["prefill"].tokens if "prefill" in meter.phases else 0
    engine.generate(asked, Sampling())
    return meter.phases["prefill"].tokens - before


def test_a_turn_prefills_what_is_new_only(windowed: Any) -> None:
    """One context is run once for all that share it; what was forgotten, diverged or had no room is run again."""
    meter = Meter(on=True)
    engine = PlainEngine(windowed, frozenset(), meter=meter)
    context = tuple(range(3, 23))
    first = [SampleRequest(name, context, 6, key) for key, name in enumerate("abc")]
    assert prefilled(engine, meter, first) == 20
    answers = {one.session: engine._kept[one.session].token_ids for one in first}
    assert all(len(tokens) == 25 for tokens in answers.values())  # the last token has not been run yet
    on = [SampleRequest("a", (*answers["a"], 9, 9, 9), 4, 1), SampleRequest("b", (*context, 7), 4, 1)]
    assert prefilled(engine, meter, on) == 3 + 21
    engine.forget(["a", "nobody"])
    assert prefilled(engine, meter, [SampleRequest("a", (*answers["a"], 9, 9, 9), 4, 1)]) == 28
    without = PlainEngine(windowed, frozenset(), offload_bytes=0, meter=meter)
    assert prefilled(without, meter, first[:1]) == 20
    assert not without._kept


def test_other_weights(windowed: Any) -> None:
    """After `sync` it samples with them, from the first token on; versions count."""
    engine = PlainEngine(windowed, frozenset())
    (asked,) = requests(1)
    (one,) = engine.generate([asked], Sampling())
    other = tiny_model(tiny_config(WINDOWED[0], num_hidden_layers=2, **WINDOWED[1]), scale=3.0)
    engine.sync(other)
    more = SampleRequest(asked.session, (*asked.token_ids, *one.token_ids), 20, 3)
    (two,) = engine.generate([more], Sampling())
    assert (one.version, two.version, engine.version) == (0, 1, 1)
    ids = [*more.token_ids, *two.token_ids]
    assert torch.tensor(two.logps).double() == pytest.approx(plain_logps(other, ids, len(more.token_ids)), abs=1e-4)


def test_what_is_refused(windowed: Any) -> None:
    engine = PlainEngine(windowed, frozenset())
    one, two = requests(2)
    engine.submit([one], Sampling())
    with pytest.raises(ValueError, match="two turns under way"):
        engine.submit([one], Sampling())
    with pytest.raises(ValueError, match="other sampling settings"):
        engine.submit([two], Sampling(0.5))
    with pytest.raises(ValueError, match="while turns were being sampled"):
        engine.sync(windowed)
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.submit([two], Sampling())


def changed_forward(model: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """The model, with its decoder's arguments changed before it sees them."""

    def before(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        change(kwargs)
        return args, kwargs

    model.get_decoder().register_forward_pre_hook(before, with_kwargs=True)
    return model


def test_a_cache_that_is_not_gone_on_from_is_refused(model: Any, clone: Callable[[Any], Any]) -> None:
    """Positions that begin anew with every call."""

    def forgets(kwargs: dict[str, Any]) -> None:
        kwargs["position_ids"] = torch.arange(kwargs["input_ids"].shape[1])[None]

    with pytest.raises(
        UnknownArchitectureError, match=r"^student: architecture 'qwen3' cannot be sampled \(its for.*%"
    ):
        PlainEngine(changed_forward(clone(model), forgets), frozenset())


def test_padding_that_is_seen_is_found(model: Any, clone: Callable[[Any], Any]) -> None:
    """A decoder that looks at no attention mask: rows of one length go together, others do not; tokens are right."""
    blind = changed_forward(clone(model), lambda kwargs: kwargs.update(attention_mask=None))
    engine = PlainEngine(blind, STOPS)
    assert engine.ways == Ways(continues=True, batches=True, mixes=False)
    asked = requests(6)
    expected = TorchEngine(model, STOPS).generate(asked, Sampling())
    assert [one.token_ids for one in engine.generate(asked, Sampling())] == [one.token_ids for one in expected]


def test_rows_that_see_each_other_go_alone(model: Any, clone: Callable[[Any], Any]) -> None:
    """And a decoder that begins anew wherever it gets several tokens is prefilled in every turn."""
    mixing = clone(model)
    mixing.get_decoder().norm.register_forward_hook(lambda _m, _i, out: out.flip(0))
    assert not PlainEngine(mixing, frozenset()).ways.batches

    def begins_anew(kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 1 and kwargs.get("past_key_values") is not None:
            kwargs["past_key_values"] = None

    engine = PlainEngine(changed_forward(clone(model), begins_anew), frozenset())
    assert engine.ways == Ways(continues=False, batches=True, mixes=True)


def test_which_engine_and_what_is_said(model: Any) -> None:
    """The fast one while texts stay inside the window; its attention is taken back where its proof fails."""
    said: list[str] = []
    windowed = tiny_model(tiny_config("mistral", num_hidden_layers=2, sliding_window=48))
    assert isinstance(choose_engine(model, STOPS, 2048, said.append), TorchEngine)
    assert isinstance(choose_engine(windowed, STOPS, 48, said.append), TorchEngine)
    assert not said
    assert isinstance(choose_engine(windowed, STOPS, 49, said.append), PlainEngine)
    sinks = tiny_model(tiny_config(SINKS[0], num_hidden_layers=2, **SINKS[1]))
    assert isinstance(choose_engine(sinks, STOPS, 10, said.append), PlainEngine)
    other = tiny_model(tiny_config("diffllama", num_hidden_layers=2))
    assert isinstance(choose_engine(other, STOPS, 10, said.append), PlainEngine)
    assert other.config._attn_implementation == "sdpa"
    slower = "; sampled by the plain engine, on transformers' own cache, which is slower (rows of any length together)"
    assert said[:2] == [
        f"student: architecture 'mistral' has a sliding window of 48 tokens, and texts may reach 49{slower}",
        f"student: architecture 'gpt_oss' has attention that PyTorch's own does not know (sinks or soft caps){slower}",
    ]
    differs = "student: the attention of architecture 'diffllama' is not plain (the fast engine's forward differs by "
    assert said[2].startswith(differs)
    assert said[2].endswith(slower)
