"""Decoding in bursts, as on a CUDA device: the tokens are those of decoding one by one, whatever the schedule."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model

from sod.engines import device_burst
from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.cache import Shape
from sod.engines.device_burst import BURST, Bursts, Way
from sod.engines.device_cache import FixedStorage, column_bucket, row_bucket, token_bytes
from sod.engines.device_draw import draw
from sod.engines.device_layers import compiled_layers, decoder_layers, run_layer, running
from sod.engines.device_noise import signed, uniforms
from sod.engines.sampler import draw_tokens
from sod.engines.torch_engine import TorchEngine
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps
from sod.objective.batch import supervised_batch
from sod.records import SodError
from sod.seeds import uniforms as uniforms_of_numpy

Make = Callable[..., Any]
SAMPLINGS = [Sampling(), Sampling(0.7), Sampling(0.0), Sampling(top_k=5), Sampling(1.3, 0.8, 20)]
SMALL = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None, "derandomize": True}


def tokens_of(model: Any, tokens: int) -> int:
    """The bytes of a cache of so many tokens."""
    return token_bytes(Shape.of(model)) * tokens


# --- noise and drawing --------------------------------------------------------------------------------------------


def test_the_noise_is_that_of_numpy() -> None:
    """2^20 random pairs, and every pair of the extremes: bit for bit."""
    rng = np.random.default_rng(0)
    key, position = (rng.integers(0, 2**64, 2**20, dtype=np.uint64) for _ in range(2))
    ends = np.array([0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1], dtype=np.uint64)
    key, position = np.append(key, np.repeat(ends, len(ends))), np.append(position, np.tile(ends, len(ends)))
    ours = uniforms(*(torch.from_numpy(numbers.view(np.int64)) for numbers in (key, position)))
    assert np.array_equal(ours.numpy().view(np.uint64), uniforms_of_numpy(key, position).view(np.uint64))
    assert [signed(int(end)) for end in ends] == ends.view(np.int64).tolist()


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("vocabulary", [7, 256, 1100])
def test_drawing_in_one_pass_draws_the_same(sampling: Sampling, vocabulary: int) -> None:
    """The tokens of the sampler of CPUs, and its log-probabilities; a vocabulary below, at and beyond whole blocks."""
    logits_BV = 3 * torch.randn(500, vocabulary, generator=torch.Generator().manual_seed(0))
    key_B, position_B = np.arange(500, dtype=np.uint64), np.full(500, 9, dtype=np.uint64)
    noise_B = torch.from_numpy(uniforms_of_numpy(key_B, position_B))
    token_B, logp_B = draw(logits_BV, noise_B, torch.arange(500), sampling)
    same_B, close_B = draw_tokens(logits_BV, sampling, key_B, position_B)
    assert torch.equal(token_B, same_B)
    assert torch.allclose(logp_B, close_B, atol=1e-6)


# --- the cache ----------------------------------------------------------------------------------------------------

SHAPE = Shape(layers=2, key_heads=2, head_dim=3, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("rows", "bucket"), [(1, 2), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16), (16, 16), (17, 32), (128, 128), (129, 144)]
)
def test_rows_are_rounded_up(rows: int, bucket: int) -> None:
    assert row_bucket(rows) == bucket


@pytest.mark.parametrize(
    ("columns", "bucket"),
    [(0, 128), (1, 128), (128, 128), (129, 256), (1024, 1024), (1025, 1280), (1280, 1280), (1281, 1536)],
)
def test_columns_are_rounded_up(columns: int, bucket: int) -> None:
    assert column_bucket(columns) == bucket


def marked(storage: FixedStorage, rows: int, columns: int) -> None:
    """Every key and value of these rows says where it stands."""
    for number, held in enumerate((storage.keys, storage.values.transpose(3, 4))):
        at = torch.arange(held[:, :rows, :, :, :columns].numel(), dtype=torch.float32) + 1
        held[:, :rows, :, :, :columns] = at.view(held[:, :rows, :, :, :columns].shape) * (1 - 2 * number)


def held(storage: FixedStorage, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    return storage.keys[:, :rows, :, :, :columns].clone(), storage.values[:, :rows, :, :columns].clone()


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
@settings(max_examples=15, **SMALL)
def test_rows_keep_their_tokens_wherever_the_layout_moves_them(lengths: list[int]) -> None:
    """Wider and narrower, in one piece of memory: what every layout has room for is still there, at one address."""
    storage = FixedStorage(SHAPE, 8 * 768)
    address = storage._keys.data_ptr()
    storage.reserve(8, 100)
    marked(storage, 8, 100)
    before = held(storage, 8, 100)
    for length in lengths:
        storage.settle(8, length)
        assert storage.columns >= length
        assert storage.columns <= max(column_bucket(length) / 0.75, column_bucket(1))
        for now, then in zip(held(storage, 8, 100), before, strict=True):
            assert torch.equal(now, then)
    assert storage.keys.data_ptr() == address


def test_the_cache_has_a_limit() -> None:
    """Rows x columns, both rounded up; beyond it nothing is made."""
    storage = FixedStorage.of_bytes(SHAPE, 1024 * token_bytes(SHAPE))
    assert storage.fits(8, 128)
    assert storage.fits(2, 512)
    assert not storage.fits(9, 128)
    assert not storage.fits(2, 513)
    storage.reserve(8, 128)
    with pytest.raises(ValueError, match="8 rows of 256 columns in a cache of 1024 tokens"):
        storage.reserve(8, 129)


# --- the same tokens ----------------------------------------------------------------------------------------------


def script_of(seed: int, episodes: int) -> list[list[SampleRequest]]:
    """Up to three turns of each episode, whose requests hold what is new alone; some share a prompt."""
    rng = random.Random(seed)
    prompts = [tuple(rng.choices(range(400), k=rng.choice([1, 9, 60, 130]))) for _ in range(3)]
    turns = []
    for n in range(episodes):
        new = [rng.choice(prompts), *(tuple(rng.choices(range(400), k=rng.randint(1, 12))) for _ in range(2))]
        limits = [rng.choice([0, 1, 7, 8, 9, 40]) for _ in new]
        asked = zip(new[: rng.randint(1, 3)], limits, strict=False)
        turns.append([SampleRequest(f"e{n}", ids, limit, rng.getrandbits(64)) for ids, limit in asked])
    return turns


def played(
    engine: TorchEngine, script: list[list[SampleRequest]], sampling: Sampling, seed: int
) -> list[list[Sampled]]:
    """Every episode's turns; they come at random moments, and go on when their turn before ended."""
    rng = random.Random(seed)
    context: dict[str, tuple[int, ...]] = {turns[0].session: () for turns in script}
    ahead = {turns[0].session: list(turns) for turns in script}
    done: dict[str, list[Sampled]] = {session: [] for session in ahead}
    ready = list(ahead)
    while ready or any(ahead.values()) or engine._turns.under_way:
        coming, ready = ready[: (cut := rng.randint(0, len(ready)))], ready[cut:]
        asked = [ahead[session].pop(0) for session in coming]
        for one in asked:
            context[one.session] += tuple(one.token_ids)
        engine.submit(
            [SampleRequest(o.session, context[o.session], o.max_new_tokens, o.noise_key) for o in asked], sampling
        )
        for session, sampled in engine.advance(rng.choice([1, 5, 16])):
            done[session].append(sampled)
            context[session] += sampled.token_ids
            ready += [session] if ahead[session] else []
    return list(done.values())


@dataclass(frozen=True)
class Schedule:
    """Who comes when is drawn by the seed; the cache has room for all rows or for few."""

    seed: int
    episodes: int
    rows: int
    sampling: Sampling
    cache_tokens: int


SCHEDULES = st.builds(
    Schedule,
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from([1, 3, 8]),
    st.sampled_from(SAMPLINGS),
    st.sampled_from([2560, 10**4]),
)


def check_same(model: Any, schedule: Schedule) -> None:
    """One by one, in bursts, and in bursts again."""
    seed, rows, sampling = schedule.seed, schedule.rows, schedule.sampling
    size = tokens_of(model, schedule.cache_tokens)
    script, stop_ids = script_of(seed, schedule.episodes), frozenset(range(0, 400, 30))
    one_by_one = TorchEngine(model, stop_ids, rows)
    bursts = TorchEngine(model, stop_ids, rows, cache_bytes=size)
    expected = played(one_by_one, script, sampling, seed)
    found = played(bursts, script, sampling, seed)
    assert [[turn.token_ids for turn in turns] for turns in found] == [[t.token_ids for t in ts] for ts in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.stopped == b.stopped
            assert a.logps == pytest.approx(b.logps, abs=1e-4)
    assert found == played(TorchEngine(model, stop_ids, rows, cache_bytes=size), script, sampling, seed)


@given(SCHEDULES)
@settings(max_examples=2, **SMALL)
def test_the_same_tokens_in_bursts(model: Any, schedule: Schedule) -> None:
    """Whoever comes when, shares a prompt, ends inside a burst or waits for room in the cache; and twice the same."""
    check_same(model, schedule)


@pytest.mark.slow
@given(SCHEDULES)
@settings(max_examples=15, **SMALL)
def test_the_same_tokens_in_bursts_for_many_schedules(model: Any, schedule: Schedule) -> None:
    """As above, at length."""
    check_same(model, schedule)


def test_a_turn_beyond_the_cache_is_refused(model: Any) -> None:
    """With the sizes and the key, before anything is sampled; and so is a cache too small for any work."""
    engine = TorchEngine(model, frozenset(), 4, cache_bytes=tokens_of(model, 2560))
    with pytest.raises(SodError, match=r"rollout\.cache_share: the cache on cpu holds 2560 tokens.* 1281 "):
        engine.submit([SampleRequest("a", tuple(range(81)), 1200, 1)], Sampling())
    assert engine.advance(9) == []
    with pytest.raises(SodError, match=r"rollout\.cache_share"):
        TorchEngine(model, frozenset(), 4, cache_bytes=tokens_of(model, 1000))


def test_fewer_rows_decode_where_not_all_fit(model: Any) -> None:
    """Eight turns that may grow to 640 tokens in a cache of 2,560: four at a time, and every one ends."""
    engine = TorchEngine(model, frozenset(), 8, cache_bytes=tokens_of(model, 2560))
    engine.submit([SampleRequest(str(n), tuple(range(n, n + 300)) * 2, 9 + n, n) for n in range(8)], Sampling())
    together, ended = [], []
    while len(ended) < 8:
        ended += engine.advance(1)
        together.append(len(engine._slots.rows))
    assert max(together) == 4
    assert sorted(name for name, _ in ended) == [str(n) for n in range(8)]


def test_a_cache_is_no_larger_than_its_rows_can_need(model: Any) -> None:
    """Several engines with a share of one device each would not fit beside each other, small as their models are."""
    engine = TorchEngine(model, frozenset(), 4, cache_bytes=tokens_of(model, 10**6), longest=1100)
    assert engine._fixed is not None
    assert engine._fixed.tokens == 4 * 1280  # columns beyond 1,024 come in steps of 256
    engine.submit([SampleRequest(str(n), tuple(range(n, n + 270)) * 4, 20, n) for n in range(4)], Sampling())
    engine.advance(1)
    assert len(engine._slots.rows) == 4


def test_tokens_of_one_call_end_where_they_should(model: Any) -> None:
    """`advance(n)` samples n tokens after the first, burst or not."""
    engine = TorchEngine(model, frozenset(), 4, cache_bytes=tokens_of(model, 2560))
    engine.submit([SampleRequest("a", (1, 2, 3), 100, 5)], Sampling())
    for tokens, length in ((1, 2), (BURST, 2 + BURST), (2 * BURST + 3, 3 * BURST + 5)):
        assert engine.advance(tokens) == []
        assert len(engine._slots.rows[0].token_ids) == length


def test_logits_that_are_not_finite_end_the_run(random_model: Make) -> None:
    student = random_model(seed=1)
    engine = TorchEngine(student, frozenset(), 4, cache_bytes=tokens_of(student, 2560))
    engine.submit([SampleRequest("a", (1, 2, 3), 100, 5)], Sampling())
    engine.advance(1)
    with torch.no_grad():
        student.get_decoder().norm.weight.fill_(torch.nan)
    with pytest.raises(SodError, match="not finite"):
        engine.advance(4)


# --- the trainer's module -----------------------------------------------------------------------------------------


def test_new_weights_in_place_keep_the_buffers(random_model: Make) -> None:
    """After `sync` with the same module, changed in place, the new weights sample; with another one, that one's."""
    student, other = random_model(seed=1, sharpness=8.0), random_model(seed=2, sharpness=8.0)
    size = tokens_of(student, 2560)
    engine = TorchEngine(student, frozenset(), 4, cache_bytes=size)
    asked = [SampleRequest(str(n), (n, 5, 6), 20, n) for n in range(4)]
    bursts, before = engine._bursts, engine.generate(asked, Sampling())
    with torch.no_grad():
        for mine, theirs in zip(student.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)
    engine.sync(student)
    assert engine._bursts is bursts
    after = engine.generate(asked, Sampling())
    assert [turn.token_ids for turn in after] != [turn.token_ids for turn in before]
    engine.sync(other)
    assert engine._bursts is not bursts
    assert [t.token_ids for t in engine.generate(asked, Sampling())] == [t.token_ids for t in after]


def test_a_closed_engine_gives_the_memory_back(random_model: Make) -> None:
    """Buffers, cache, and what waits between two turns."""
    student = random_model(seed=1)
    engine = TorchEngine(student, frozenset(), 2, cache_bytes=tokens_of(student, 2560))
    engine.generate([SampleRequest("a", (1, 2, 3), 5, 5)], Sampling())
    assert engine._fixed is not None
    watched = [weakref.ref(engine._fixed._keys), weakref.ref(engine._fixed._values), weakref.ref(engine._bursts)]
    engine.close()
    gc.collect()
    assert [one() for one in watched] == [None] * 3


def adapted(student: Any) -> Any:
    """With an adapter that matters."""
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    return inject_adapter_in_model(config, student).eval()


def recomputing(student: Any) -> Any:
    recompute_layers(student)
    return student


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda m: m, recomputing, adapted], ids=["plain", "recompute", "lora"])
def test_compiled_layers_sample_the_same(
    random_model: Make, change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trace, without breaks, for all layers, and one more for all sizes; the trainer's module is as before."""
    torch._dynamo.reset()
    student = change(random_model(seed=1, sharpness=8.0, layers=4))
    asked = [SampleRequest(str(n), tuple(range(n, n + 5)), 4 + 25 * n, n) for n in range(6)]
    plain = TorchEngine(student, frozenset(), 6).generate(asked, Sampling(0.7))
    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    monkeypatch.setattr(device_burst, "ways_of", lambda _: [Way("", compiled_layers("eager"), compiled)])
    overrides = [dict(layer.module.__dict__) for layer in decoder_layers(student)]
    torch._dynamo.utils.counters.clear()
    engine = TorchEngine(student, frozenset(), 6, cache_bytes=tokens_of(student, 4096))
    found = engine.generate(asked, Sampling(0.7))
    assert [turn.token_ids for turn in found] == [turn.token_ids for turn in plain]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6  # layers and drawing: one size, some, all
    assert [dict(layer.module.__dict__) for layer in decoder_layers(student)] == overrides
    action_logps(student, supervised_batch([(range(9), [0] * 4 + [1] * 5)])).sum().backward()
    assert any(weight.grad is not None and bool(weight.grad.any()) for weight in student.parameters())


def test_layers_are_given_back_when_a_step_fails(random_model: Make) -> None:
    student = random_model(seed=1)
    layers = decoder_layers(student)
    before = [dict(layer.module.__dict__) for layer in layers]

    def step() -> None:
        with running(layers, run_layer):
            assert all("forward" in layer.module.__dict__ for layer in layers)
            raise RuntimeError("in the step")

    with pytest.raises(RuntimeError, match="in the step"):
        step()
    assert [dict(layer.module.__dict__) for layer in layers] == before


# --- what only a GPU shows ----------------------------------------------------------------------------------------


def on_gpu(model: Any) -> Any:
    return copy.deepcopy(model).to("cuda")


def some(count: int = 12) -> list[SampleRequest]:
    rng = random.Random(0)
    return [
        SampleRequest(str(n), tuple(rng.choices(range(400), k=rng.randint(1, 150))), 60, rng.getrandbits(64))
        for n in range(count)
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_gpu_draws_the_tokens_of_the_cpu(model: Any, sampling: Sampling) -> None:
    """In float32: graphs of compiled layers, several turns of unequal length, against the CPU, one by one."""
    stop_ids = frozenset(range(0, 400, 30))
    expected = TorchEngine(model, stop_ids, 8).generate(some(), sampling)
    engine = TorchEngine(on_gpu(model), stop_ids, 8, cache_share=0.02)
    found = engine.generate(some(), sampling)
    assert [turn.token_ids for turn in found] == [turn.token_ids for turn in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.logps == pytest.approx(b.logps, abs=1e-3)
    assert engine._bursts is not None
    assert engine._bursts._ready  # graphs were used,
    assert len(engine._bursts._ways) == 3  # and nothing failed to compile
    engine.close()


@pytest.mark.gpu
def test_a_graph_does_what_its_step_does(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits from a graph of the plain step as from the step, operation by operation; bfloat16."""
    student = on_gpu(model).bfloat16()
    monkeypatch.setattr(device_burst, "ways_of", lambda _: [Way("CUDA graphs", None, draw)])
    graphs = TorchEngine(student, frozenset(), 8, cache_share=0.02)
    steps = TorchEngine(student, frozenset(), 8, cache_share=0.02)
    assert steps._bursts is not None
    steps._bursts._graphs = False
    assert graphs.generate(some(), Sampling()) == steps.generate(some(), Sampling())
    assert graphs._bursts is not None
    assert graphs._bursts._ready
    for engine in (graphs, steps):
        engine.close()


@pytest.mark.gpu
def test_a_burst_does_not_wait(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between filling the buffers and reading the record, PyTorch would raise where the host waits."""
    engine = TorchEngine(on_gpu(model), frozenset(), 8, cache_share=0.02)
    engine.generate(some(8), Sampling())
    engine.forget(request.session for request in some(8))
    step_for, burst_steps = Bursts._step_for, []

    def watched(self: Bursts, bucket: Any) -> Any:
        step = step_for(self, bucket)
        torch.cuda.set_sync_debug_mode("error")
        burst_steps.append(bucket)
        return step

    def read(self: Bursts, rows: int, tokens: int) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        return reading(self, rows, tokens)

    reading = Bursts._read
    monkeypatch.setattr(Bursts, "_step_for", watched)
    monkeypatch.setattr(Bursts, "_read", read)
    try:
        engine.generate(some(8), Sampling())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(burst_steps) >= 60 // BURST
    engine.close()


@pytest.mark.gpu
def test_graphs_see_weights_changed_in_place(model: Any, random_model: Make) -> None:
    """As an optimizer changes them; no graph is made anew."""
    student, other = on_gpu(model), on_gpu(random_model(seed=2, sharpness=8.0))
    engine = TorchEngine(student, frozenset(), 8, cache_share=0.02)
    engine.generate(some(), Sampling())
    assert engine._bursts is not None
    made = dict(engine._bursts._ready)
    with torch.no_grad():
        for mine, theirs in zip(student.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)
    engine.sync(student)
    found = engine.generate(some(), Sampling())
    expected = TorchEngine(other, frozenset(), 8, cache_share=0.02).generate(some(), Sampling())
    assert [turn.token_ids for turn in found] == [turn.token_ids for turn in expected]
    assert engine._bursts._ready == made
    engine.close()


@pytest.mark.gpu
def test_the_memory_of_the_gpu_is_given_back(model: Any) -> None:
    """All of the cache; PyTorch may keep workspaces."""
    student = on_gpu(model)
    gc.collect()
    before = torch.cuda.memory_allocated()
    engine = TorchEngine(student, frozenset(), 8, cache_share=0.05)
    engine.generate(some(), Sampling())
    assert torch.cuda.memory_allocated() - before > 2**30
    engine.close()
    gc.collect()
    assert torch.cuda.memory_allocated() - before < 2**28


@pytest.mark.gpu
def test_the_same_tokens_twice_under_strict_determinism(model: Any) -> None:
    """In bfloat16, where the batch decides about rounding: equal bits, log-probabilities included."""
    student = on_gpu(model).bfloat16()
    torch.use_deterministic_algorithms(True)
    try:
        one, two = (
            TorchEngine(student, frozenset(range(0, 400, 30)), 8, cache_share=0.02).generate(some(), Sampling())
            for _ in range(2)
        )
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert one == two
