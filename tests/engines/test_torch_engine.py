"""The embedded engine: its log-probabilities are the model's, and its tokens depend on the request alone."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.records import SodError

Make = Callable[..., Any]
Logps = Callable[..., list[float]]


def requests(count: int, vocabulary: int = 400, longest: int = 40, new: int = 60) -> list[SampleRequest]:
    """Random contexts of very different lengths."""
    rng = random.Random(0)
    return [
        SampleRequest(
            f"e{n}", tuple(rng.choices(range(vocabulary), k=rng.randint(1, longest))), new, rng.getrandbits(63)
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def stop_ids(tokenizer: Any) -> frozenset[int]:
    """Every thirtieth token stops a turn, so that rows leave their batch at many different times."""
    return frozenset(range(0, len(tokenizer), 30))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_equal_a_plain_full_forward(
    model: Any, stop_ids: frozenset[int], full_logps: Logps, temperature: float
) -> None:
    """Through prefill, decoding, dropped rows and a growing cache: within 1e-4 nats in float32."""
    asked = requests(20, new=150)
    answers = TorchEngine(model, frozenset(sorted(stop_ids)[::4]), max_rows=16).generate(
        asked, Sampling(temperature=temperature)
    )
    lengths = {len(answer.token_ids) for answer in answers}
    assert len(lengths) > 5
    assert max(lengths) > 70  # longer than the cache's first spare room
    for request, answer in zip(asked, answers, strict=True):
        whole = full_logps(model, (*request.token_ids, *answer.token_ids), temperature)
        assert answer.logps == pytest.approx(whole[len(request.token_ids) :], abs=1e-4)


def test_tokens_do_not_depend_on_the_batch(model: Any, stop_ids: frozenset[int]) -> None:
    """Alone, shuffled, and for any `max_rows`: the same tokens, and log-probs up to float rounding."""
    asked = requests(12)
    whole = TorchEngine(model, stop_ids).generate(asked, Sampling())
    order = list(range(len(asked)))
    random.Random(1).shuffle(order)
    shuffled = TorchEngine(model, stop_ids).generate([asked[i] for i in order], Sampling())
    variants = [[shuffled[order.index(i)] for i in range(len(asked))]]
    variants += [TorchEngine(model, stop_ids, max_rows=rows).generate(asked, Sampling()) for rows in (1, 2, 5)]
    for answers in variants:
        for ours, theirs in zip(answers, whole, strict=True):
            assert ours.token_ids == theirs.token_ids
            assert ours.stopped == theirs.stopped
            assert ours.logps == pytest.approx(theirs.logps, abs=1e-4)


def test_a_repeated_run_is_bit_identical(model: Any, stop_ids: frozenset[int]) -> None:
    asked = requests(9)
    first, second = (TorchEngine(model, stop_ids, 4).generate(asked, Sampling(0.9, 0.95, 50)) for _ in range(2))
    assert first == second


def test_the_key_and_the_context_length_make_the_noise(model: Any, stop_ids: frozenset[int]) -> None:
    """Sessions with equal contexts and one key agree; with another key they differ."""
    context = tuple(range(5, 15))
    asked = [SampleRequest(name, context, 40, key) for name, key in (("a", 1), ("b", 1), ("c", 2))]
    one, same, other = TorchEngine(model, frozenset()).generate(asked, Sampling())
    assert one.token_ids == same.token_ids
    assert one.logps == pytest.approx(same.logps, abs=1e-5)  # the second shares the prompt of the first
    assert one.token_ids != other.token_ids
    # Going on from half-way gives the other half: the noise belongs to the position.
    (rest,) = TorchEngine(model, frozenset()).generate(
        [SampleRequest("a", context + one.token_ids[:20], 20, 1)], Sampling()
    )
    assert rest.token_ids == one.token_ids[20:]


def check_end(answer: Sampled, request: SampleRequest, stop_ids: frozenset[int]) -> None:
    assert len(answer.token_ids) == len(answer.logps)
    assert not any(token in stop_ids for token in answer.token_ids[:-1])
    assert answer.stopped == bool(answer.token_ids and answer.token_ids[-1] in stop_ids)
    assert answer.stopped or len(answer.token_ids) == request.max_new_tokens


def test_a_turn_ends_in_its_stop_token_or_at_its_limit(model: Any, stop_ids: frozenset[int]) -> None:
    """Limits of 0 and 1, a stop token exactly at the limit, and long ones, all in one batch."""
    rng = random.Random(3)
    asked = [
        SampleRequest(str(n), tuple(rng.choices(range(400), k=6)), n % 12, rng.getrandbits(63)) for n in range(240)
    ]
    answers = TorchEngine(model, stop_ids, 100).generate(asked, Sampling())
    for answer, request in zip(answers, asked, strict=True):
        check_end(answer, request, stop_ids)
    assert any(a.stopped and len(a.token_ids) == r.max_new_tokens for a, r in zip(answers, asked, strict=True))
    assert {a.stopped for a in answers} == {True, False}


def test_greedy_follows_the_argmax(model: Any) -> None:
    """Against the plain forward's argmax token by token; ignores the noise key."""
    asked = [SampleRequest(str(key), tuple(range(9)), 25, key) for key in (1, 2)]
    one, two = TorchEngine(model, frozenset()).generate(asked, Sampling(temperature=0.0))
    assert one == two
    ids = list(range(9))
    for token in one.token_ids:
        with torch.no_grad():
            assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)
    assert set(one.logps) == {0.0}


def turns(count: int, tool_tokens: int = 7) -> list[list[SampleRequest]]:
    """Three turns of `count` episodes, as if tools had answered: without the sampled tokens, which `play` puts in."""
    rng = random.Random(5)
    return [
        [
            SampleRequest(f"e{n}", tuple(rng.choices(range(400), k=tool_tokens + n % 5)), 12, 100 * turn + n)
            for n in range(count)
        ]
        for turn in range(3)
    ]


def play(engine: TorchEngine, script: list[list[SampleRequest]], chunk: int) -> dict[str, list[Sampled]]:
    """Every episode's turns; the next one is submitted as soon as the last one ended."""
    context = {request.session: () for request in script[0]}
    played: dict[str, list[Sampled]] = {request.session: [] for request in script[0]}

    def ask(session: str) -> SampleRequest:
        (new,) = [r for r in script[len(played[session])] if r.session == session]
        context[session] += tuple(new.token_ids)
        return SampleRequest(session, context[session], new.max_new_tokens, new.noise_key)

    engine.submit([ask(session) for session in played], Sampling())
    while any(len(sampled) < len(script) for sampled in played.values()):
        again = []
        for session, sampled in engine.advance(chunk):
            played[session].append(sampled)
            context[session] += sampled.token_ids
            if len(played[session]) < len(script):
                again.append(ask(session))
        engine.submit(again, Sampling())
    return played


def seen(model: Any) -> tuple[list[int], Any]:
    """A list that grows by the tokens of every decoder call, padding included; and the hook's handle."""
    counts: list[int] = []

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        counts.append(kwargs["input_ids"].numel())

    return counts, model.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize(
    ("rows", "chunk", "offload_bytes"), [(64, 1, 1 << 30), (3, 5, 1 << 30), (5, 1000, 1 << 30), (4, 3, 0)]
)
def test_turns_with_a_kept_cache_are_those_of_a_plain_forward(
    model: Any, stop_ids: frozenset[int], full_logps: Logps, rows: int, chunk: int, offload_bytes: int
) -> None:
    """Whatever the room and the moments of joining, with everything kept or nothing: log-probs within 1e-4 nats."""
    engine = TorchEngine(model, frozenset(sorted(stop_ids)[::3]), rows, offload_bytes)
    script = turns(9)
    for session, sampled in play(engine, script, chunk).items():
        ids: tuple[int, ...] = ()
        for new, turn in zip(
            (next(r for r in asked if r.session == session) for asked in script), sampled, strict=True
        ):
            ids += tuple(new.token_ids)
            whole = full_logps(model, (*ids, *turn.token_ids))
            assert turn.logps == pytest.approx(whole[len(ids) :], abs=1e-4)
            ids += turn.token_ids


def test_a_later_turn_prefills_what_is_new_only(model: Any) -> None:
    """Three turns of 12 tokens each and 7 to 11 between them; without a kept cache they are run again and again."""
    runs = []
    for offload_bytes in (1 << 30, 0):
        engine = TorchEngine(model, frozenset(), 9, offload_bytes)
        counts, handle = seen(model)
        play(engine, turns(9), 1000)
        handle.remove()
        runs.append(sum(counts))
    assert runs[0] <= 9 * 3 * (11 + 12)
    assert runs[1] > 1.5 * runs[0]


def test_samples_of_a_prompt_share_its_prefill(model: Any, full_logps: Logps) -> None:
    """Eight samples of two prompts of 100 tokens: two prefills, and the right log-probs; so too when room is short."""
    prompts = [tuple(random.Random(n).choices(range(400), k=100)) for n in range(2)]
    asked = [SampleRequest(f"{n}-{s}", prompts[n], 5, 10 * n + s) for n in range(2) for s in range(8)]
    for rows in (16, 3):
        engine = TorchEngine(model, frozenset(), rows)
        counts, handle = seen(model)
        answers = engine.generate(asked, Sampling())
        handle.remove()
        assert sum(counts) < 2 * 100 + 16 * 6
        assert len({answer.token_ids for answer in answers}) > 8
        for request, answer in zip(asked, answers, strict=True):
            whole = full_logps(model, (*request.token_ids, *answer.token_ids))
            assert answer.logps == pytest.approx(whole[100:], abs=1e-4)


def test_a_session_that_does_not_go_on_where_it_stopped_is_run_anew(model: Any, full_logps: Logps) -> None:
    engine = TorchEngine(model, frozenset())
    engine.generate([SampleRequest("a", tuple(range(20)), 5, 1)], Sampling())
    other = SampleRequest("a", tuple(range(40, 70)), 5, 1)
    (answer,) = engine.generate([other], Sampling())
    assert answer.logps == pytest.approx(full_logps(model, (*other.token_ids, *answer.token_ids))[30:], abs=1e-4)
    again = SampleRequest("b", tuple(range(20)), 5, 1)  # the prompt that `a` no longer holds
    (answer,) = engine.generate([again], Sampling())
    assert answer.logps == pytest.approx(full_logps(model, (*again.token_ids, *answer.token_ids))[20:], abs=1e-4)


def test_nobody_shares_the_prompt_of_a_session_that_starts_anew(model: Any, full_logps: Logps) -> None:
    """`b` comes with the prompt that `a` holds, in the very batch in which `a` gives it up."""
    engine = TorchEngine(model, frozenset())
    prompt = tuple(range(20))
    engine.generate([SampleRequest("a", prompt, 5, 1)], Sampling())
    asked = [SampleRequest("b", prompt, 5, 2), SampleRequest("a", tuple(range(40, 70)), 5, 1)]
    for request, answer in zip(asked, engine.generate(asked, Sampling()), strict=True):
        whole = full_logps(model, (*request.token_ids, *answer.token_ids))
        assert answer.logps == pytest.approx(whole[len(request.token_ids) :], abs=1e-4)


def test_a_turn_without_room_ends_alone(model: Any) -> None:
    """No token may be sampled, and nothing else is in the batch."""
    engine = TorchEngine(model, frozenset())
    assert engine.generate([SampleRequest("a", (1, 2, 3), 0, 5)], Sampling()) == [Sampled((), (), False)]


def test_what_may_not_be_mixed(model: Any) -> None:
    """Sampling settings, two turns of a session, new weights: refused while turns are under way, fine after."""
    engine = TorchEngine(model, frozenset())
    first, second = requests(2, new=3)
    engine.submit([first], Sampling())
    with pytest.raises(ValueError, match="sampling"):
        engine.submit([second], Sampling(0.5))
    with pytest.raises(ValueError, match="two turns"):
        engine.submit([first], Sampling())
    with pytest.raises(ValueError, match="weights"):
        engine.sync(model)
    assert [name for name, _ in engine.advance(99)] == ["e0"]
    engine.sync(model)
    engine.submit([second], Sampling(0.5))
    assert [name for name, _ in engine.advance(99)] == ["e1"]
    assert engine.advance(99) == []


@pytest.mark.parametrize("kind", [LlamaForCausalLM, Qwen2ForCausalLM])
def test_other_families_with_shared_key_heads(kind: Any, full_logps: Logps) -> None:
    """Six query heads on two key heads; Qwen2 has biases."""
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 400}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        student = kind(kind.config_class(**shape, **heads)).eval()
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(4)
    asked = requests(6, new=30)
    for request, answer in zip(asked, TorchEngine(student, frozenset()).generate(asked, Sampling()), strict=True):
        whole = full_logps(student, (*request.token_ids, *answer.token_ids))
        assert answer.logps == pytest.approx(whole[len(request.token_ids) :], abs=1e-3)


def test_no_requests_and_sync(model: Any, random_model: Make) -> None:
    """An empty call answers nothing; after `sync` the new weights sample, as in an engine that began with them."""
    engine = TorchEngine(model, frozenset())
    assert engine.generate([], Sampling()) == []
    asked = requests(2, new=20)
    before = engine.generate(asked, Sampling())
    other = random_model(seed=9, sharpness=8.0)
    engine.sync(other)
    after = [replace(sampled, version=0) for sampled in engine.generate(asked, Sampling())]
    assert after == TorchEngine(other, frozenset()).generate(asked, Sampling()) != before


def test_every_turn_names_the_weights_it_was_sampled_with(model: Any) -> None:
    """The count grows with every `sync` but the first weights; turns without a token carry it too."""
    engine = TorchEngine(model, frozenset())
    asked = [*requests(3, new=4), SampleRequest("no room", (1, 2, 3), 0, 5)]
    for version in range(3):
        assert engine.version == version
        assert [sampled.version for sampled in engine.generate(asked, Sampling())] == [version] * 4
        engine.sync(model)


def test_log_probs_are_the_trainers_in_float32_only(random_model: Make, full_logps: Logps) -> None:
    """`exact` follows the weights taken over last, and is right about them."""
    engine = TorchEngine(random_model(seed=0, sharpness=8.0), frozenset())
    asked = requests(6, new=30)

    def gap(student: Any) -> float:
        gaps = []
        for request, answer in zip(asked, engine.generate(asked, Sampling()), strict=True):
            whole = full_logps(student, (*request.token_ids, *answer.token_ids))[len(request.token_ids) :]
            gaps += [abs(a - b) for a, b in zip(answer.logps, whole, strict=True)]
        return sum(gaps) / len(gaps)

    for dtype, exact in ((torch.float32, True), (torch.bfloat16, False), (torch.float32, True)):
        student = random_model(seed=0, sharpness=8.0).to(dtype)
        engine.sync(student)
        assert engine.exact is exact
        assert (gap(student) < 1e-4) is exact


def keys_and_values() -> int:
    """Tensors of four and five dimensions in this process: what was offloaded, and whole batches."""
    gc.collect()
    return sum(type(o) is torch.Tensor and o.dim() in (4, 5) and o.numel() > 0 for o in gc.get_objects())


def test_a_closed_engine_holds_nothing_and_takes_nothing(random_model: Make) -> None:
    """Closed twice, with turns in the batch, offloaded and waiting: the memory is free, and later calls are refused."""
    engine = TorchEngine(random_model(seed=4), frozenset(), max_rows=2)
    before = keys_and_values()
    engine.generate(requests(2, new=3), Sampling())
    asked = requests(4, new=50)[2:] + requests(6, new=50)[4:]
    engine.submit(asked, Sampling())
    assert engine.advance(3) == []
    assert keys_and_values() == before + 2 + 2 * 2  # the batch, and two episodes between their turns
    for _ in range(2):
        engine.close()
        assert keys_and_values() == before
        assert engine.advance(99) == []
    engine.forget(request.session for request in asked)
    for late in (lambda: engine.submit(asked, Sampling()), lambda: engine.sync(engine.model)):
        with pytest.raises(ValueError, match="closed"):
            late()


def test_no_gradient_is_kept(random_model: Make) -> None:
    """Sampling with a model in training leaves its gradients and mode alone."""
    student = random_model(seed=4)
    TorchEngine(student, frozenset()).generate(requests(2, new=4), Sampling())
    assert all(p.grad is None and p.requires_grad for p in student.parameters())


def test_bfloat16(random_model: Make, full_logps: Logps) -> None:
    """Same checks at bfloat16's precision."""
    student = random_model(seed=0, sharpness=2.0).bfloat16()
    asked = requests(6, new=30)
    for request, answer in zip(asked, TorchEngine(student, frozenset()).generate(asked, Sampling()), strict=True):
        whole = full_logps(student, (*request.token_ids, *answer.token_ids))[len(request.token_ids) :]
        gap = sum(abs(a - b) for a, b in zip(answer.logps, whole, strict=True)) / len(whole)
        assert gap < 0.05


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_any_attention_implementation(random_model: Make, full_logps: Logps, attention: str) -> None:
    """Some models load with eager attention, which adds a mask instead of selecting by it."""
    student = random_model(seed=0, sharpness=8.0)
    student.set_attn_implementation(attention)
    asked = requests(6, new=30)
    for request, answer in zip(asked, TorchEngine(student, frozenset()).generate(asked, Sampling()), strict=True):
        whole = full_logps(student, (*request.token_ids, *answer.token_ids))
        assert answer.logps == pytest.approx(whole[len(request.token_ids) :], abs=1e-4)


def test_sliding_window_attention(tokenizer: Any, full_logps: Logps) -> None:
    """Beyond its window a model must not see more while sampling than in training: right, or refused by name."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen3Config(
        vocab_size=len(tokenizer), use_sliding_window=True, sliding_window=8, max_window_layers=0, **shape, **heads
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        student.get_input_embeddings().weight.mul_(10)
        student.get_output_embeddings().weight.mul_(20)
    assert config.layer_types == ["sliding_attention"] * 2
    asked = requests(6, new=30)
    try:
        answers = TorchEngine(student, frozenset()).generate(asked, Sampling())
    except SodError as refusal:
        if "sliding" in str(refusal):
            return
        raise
    for request, answer in zip(asked, answers, strict=True):
        whole = full_logps(student, (*request.token_ids, *answer.token_ids))
        assert answer.logps == pytest.approx(whole[len(request.token_ids) :], abs=1e-4)
