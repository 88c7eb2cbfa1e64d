"""The engine of vLLM servers, against a server that speaks their routes over a real model."""

from __future__ import annotations

import copy
import importlib.util
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from engines.vllm_bench import PROMPT, STOPS, Bench, asked, finished, played, sampled
from sod.engines import vllm_push, vllm_server
from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.vllm import vocabulary_of
from sod.engines.vllm_device_push import meeting_place
from sod.engines.vllm_push import LOCK, FilePusher, forget_orphans, pusher_of
from sod.engines.vllm_server import refuse_other_version
from sod.engines.vllm_wire import read_turn
from sod.models.lora import merged, merged_state, new_adapter
from sod.models.support import Support, limit_to
from sod.recipe import EngineSpec, LoraSpec, parse_recipe
from sod.recipe.keys.engine import KEY_VARIABLE
from sod.records import Fault, FaultKind, SodError


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def worst_gap(full_logps: Callable[..., list[float]], model: Any, turns: dict[str, Any], temperature: float) -> float:
    away = [0.0]
    for turn in turns.values():
        expected = full_logps(model, [*PROMPT, *turn.token_ids], temperature)[len(PROMPT) :]
        away += [abs(one - other) for one, other in zip(expected, turn.logps, strict=True)]
    return max(away)


def test_turns_have_the_models_log_probabilities_and_our_stops(
    model: Any, bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    engine = bench.engine(model, [bench.server(model)])
    assert (engine.exact, engine.version) == (False, 0)
    for temperature in (1.0, 0.5):
        turns = played(engine, asked(6), Sampling(temperature))
        assert worst_gap(full_logps, model, turns, temperature) < 1e-5
        for turn in map(sampled, turns.values()):
            assert turn.stopped == (turn.token_ids[-1] in STOPS)
            assert turn.stopped or len(turn.token_ids) == 8
    assert {turn.stopped for turn in map(sampled, turns.values())} == {True, False}
    greedy = sampled(played(engine, asked(1), Sampling(0.0))["e0"])
    assert set(greedy.logps) == {0.0}
    assert sampled(played(engine, asked(1, new=0))["e0"]) == Sampled((), (), False)


def test_a_turn_that_is_sampled_again_is_the_same(model: Any, bench: Bench) -> None:
    servers = [bench.server(model), bench.server(model)]
    engine = bench.engine(model, servers)
    first = played(engine, asked(4))
    assert played(engine, asked(4)) == first
    assert played(bench.engine(model, servers[::-1]), asked(4)) == first
    assert len({turn.token_ids for turn in map(sampled, first.values())}) == 4
    later = played(engine, [SampleRequest("e0", (*PROMPT, 9), 8, 100)])["e0"]
    seeds = {body["sampling_params"]["seed"] for server in servers for body in server.served.asked}
    assert len(seeds) == 5  # of four keys at one position, and of one at another
    assert later != first["e0"]


@pytest.mark.slow
def test_an_episode_stays_at_its_server(model: Any, bench: Bench) -> None:
    servers = [bench.server(model), bench.server(model)]
    engine = bench.engine(model, servers)
    for more in ((), (11,), (11, 12)):
        played(engine, asked(4, new=2, ids=(*PROMPT, *more)))
    seeds = [[body["sampling_params"]["seed"] for body in server.served.asked] for server in servers]
    assert [len(one) for one in seeds] == [6, 6]
    for server in servers:
        lengths = [len(body["token_ids"]) for body in server.served.asked]
        assert sorted(lengths) == [6, 6, 7, 7, 8, 8]
    engine.forget([f"e{number}" for number in range(4)] + ["unknown"])
    assert engine._fleet._homes == {}
    assert (engine.prompt_tokens, engine.cached_tokens) == (4 * (6 + 7 + 8), 0)


def test_sync_brings_the_trainers_weights(
    model: Any, random_model: Callable[..., Any], bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server])
    labels = [server.served.label]
    other = random_model(seed=7, sharpness=8.0)
    engine.sync(other)
    labels.append(server.served.label)
    assert len(set(labels)) == 2
    turns = played(engine, asked(4))
    assert worst_gap(full_logps, other, turns, 1.0) < 1e-5
    assert {turn.version for turn in map(sampled, turns.values())} == {engine.version} == {1}
    assert {body["cache_salt"] for body in server.served.asked} == {labels[1]}
    assert not server.served.paused
    (kept,) = (bench.folder / "pushed").glob("*/*-?")  # the file of the weights before is gone
    assert kept.name == labels[1]
    engine.close()
    engine.close()
    assert list((bench.folder / "pushed").iterdir()) == []


def test_a_server_without_an_output_embedding_gets_none(
    model: Any, random_model: Callable[..., Any], bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    """vLLM's Gemma 2 has none, and refuses weights with one."""
    servers = [bench.server(model, headless=True), bench.server(model, headless=True)]
    engine = bench.engine(model, servers)
    other = random_model(seed=7, sharpness=8.0)
    engine.sync(other)
    assert worst_gap(full_logps, other, played(engine, asked(4)), 1.0) < 1e-5
    assert (engine.deaths, bench.said) == (0, [])


@pytest.mark.slow
def test_a_server_with_other_weights_gets_the_trainers(
    model: Any, random_model: Callable[..., Any], bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    engine = bench.engine(model, [bench.server(random_model(seed=7, sharpness=8.0))])
    assert worst_gap(full_logps, model, played(engine, asked(4)), 1.0) < 1e-5


def test_a_push_that_does_not_arrive_stops_the_run(model: Any, random_model: Callable[..., Any], bench: Bench) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server])
    server.served.behaviour.takes_weights = False
    with pytest.raises(SodError, match=r"took the weights and is [0-9.]+ nats/token from the trainer's .*engine.toler"):
        engine.sync(random_model(seed=7, sharpness=8.0))
    server.served.behaviour.refuses_weights = True
    with pytest.raises(SodError, match=r"HTTP 500: .*model.layers.7.*; serve the model of student.path there"):
        engine.sync(model)
    assert not server.served.paused


UNABLE = {
    "another version": ({"version": "0.33.0"}, r"vLLM 0.33.0, and its routes are known from 0.32 to before 0.33;"),
    "another server": ({"version": "0.32.0", "models": False}, r"does not tell what it is .*404.*no vLLM server"),
    "short texts": ({"max_model_len": 100}, r"takes texts of 100 tokens, .* reach 200 here; start it with --max-mod"),
    "no new weights": ({"dev_mode": False}, r"takes no weights \(/resume: HTTP 404.*VLLM_SERVER_DEV_MODE=1"),
    "no token ids": ({"scale_out": False}, r"does not sample by token ids .*HTTP 403.*--enable-scale-out$"),
    "prompts in parts": (
        {"in_parts": True},
        r"computes prompts in parts, .*with --no-enable-chunked-prefill$",
    ),
    "raw log-probabilities": ({"processed": False}, r"before temperature and truncation.*--logprobs-mode processed_l"),
}


@pytest.mark.parametrize("what", UNABLE)
def test_a_server_that_cannot_do_it_is_refused(model: Any, bench: Bench, what: str) -> None:
    behaviour, message = UNABLE[what]
    with pytest.raises(SodError, match=message):
        bench.engine(model, [bench.server(model, **behaviour)])


def test_a_server_that_fails_at_its_first_weights_is_not_waited_for(model: Any, bench: Bench) -> None:
    with pytest.raises(SodError, match=r"/collective_rpc: RemoteProtocolError: .*sent its first weights: see its log"):
        bench.engine(model, [bench.server(model), bench.server(model, breaks=True)], restart_seconds=1.0)


def test_why_none_is_left_is_told(model: Any, bench: Bench) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server], restart_seconds=0.5)
    server.served.behaviour.breaks = True
    with pytest.raises(SodError, match=r"no server is left of \S+ \(.*/collective_rpc: RemoteProtocolError.*\); start"):
        engine.sync(model)


def test_a_server_that_is_busy_when_it_comes_back_is_asked_again(model: Any, bench: Bench) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server])
    whole = played(engine, asked(1))
    server.served.behaviour.failing.append((500, "out of memory"))
    server.served.behaviour.busy = 1
    assert isinstance(played(engine, asked(1))["e0"], Fault)
    assert played(engine, asked(1)) == whole
    assert server.served.behaviour.busy == 0


def test_on_a_gpu_prompts_may_be_computed_in_parts(model: Any, bench: Bench) -> None:
    bench.engine(model, [bench.server(model, in_parts=True, device="cuda")])


def test_what_is_no_vllm_server_is_refused(model: Any, bench: Bench) -> None:
    server = bench.server(model)
    server.close()
    with pytest.raises(SodError, match=r"engine.urls: .*ConnectError.*; start the server, or correct the url"):
        bench.engine(model, [server])
    for version in (None, "", "latest", 0.32):
        with pytest.raises(SodError, match=r"there \(`make vllm-env`\)"):
            refuse_other_version(version, "here")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ('vllm:cache_config_info{block_size="128",enable_prefix_caching="True"} 1.0', "blocks of 128 tokens"),
        ('vllm:cache_config_info{block_size="16",enable_prefix_caching="False"} 1.0', "caches no prompts"),
        ("vllm:other 1.0", None),
    ],
)
def test_a_cache_of_little_use_is_told(model: Any, bench: Bench, metrics: str, message: str | None) -> None:
    bench.engine(model, [bench.server(model, metrics=metrics)])
    assert len(bench.said) == (message is not None)
    assert message is None or message in bench.said[0]


@pytest.mark.slow
def test_a_connection_that_its_server_closes_is_no_death(model: Any, bench: Bench) -> None:
    """vLLM closes those without a request for 5 s, and what is sent right then is lost. Tools may take that long."""
    engine = bench.engine(model, [bench.server(model, idle_seconds=3.5)])
    sampled(played(engine, asked(1))["e0"])
    time.sleep(4.0)
    sampled(played(engine, asked(1))["e0"])
    assert (engine.deaths, bench.said) == (0, [])


@pytest.mark.parametrize("failure", [(500, "the engine died"), (200, "[1"), (200, '{"choices": []}')])
def test_a_turn_that_fails_is_a_fault_and_can_be_tried_again(
    model: Any, bench: Bench, failure: tuple[int, str]
) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server])
    whole = played(engine, asked(1))
    server.served.behaviour.failing.append(failure)
    fault = played(engine, asked(1))["e0"]
    assert isinstance(fault, Fault)
    assert fault.retryable
    assert fault.detail.startswith(server.url)
    assert played(engine, asked(1)) == whole  # it waits for the server to be looked after
    assert engine.deaths == 1
    assert len(bench.said) == 2


def test_a_request_that_is_refused_is_not_tried_again(model: Any, bench: Bench) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server])
    server.served.behaviour.failing.append((400, "too long"))
    fault = played(engine, asked(1))["e0"]
    assert fault == Fault(FaultKind.SERVER, f"{server.url}: /inference/v1/generate: HTTP 400: too long", False)
    assert engine.deaths == 0


@pytest.mark.slow
def test_a_server_that_dies_gives_its_episodes_to_another(
    model: Any, bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    servers = [bench.server(model), bench.server(model)]
    engine = bench.engine(model, servers)
    before = played(engine, asked(4))
    servers[0].close()
    ended = played(engine, asked(4))
    faults = [session for session, outcome in ended.items() if isinstance(outcome, Fault)]
    assert len(faults) in (1, 2)  # the second may have been on its way already
    again = played(engine, [request for request in asked(4) if request.session in faults])
    assert ended | again == before
    assert engine.deaths == 1


@pytest.mark.parametrize("after", ["a turn", "a push"])
def test_a_server_that_nobody_starts_again_is_not_waited_for(model: Any, bench: Bench, after: str) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server], restart_seconds=600.0)
    server.close()
    bench.given_up.add(server.url)
    if after == "a turn":
        assert isinstance(played(engine, asked(1))["e0"], Fault)
    began = time.monotonic()
    with pytest.raises(SodError, match=rf"no server is left of {server.url}, and none is started again \(launch.rest"):
        played(engine, asked(1)) if after == "a turn" else engine.sync(model)
    assert time.monotonic() - began < 60.0


def test_others_go_on_where_one_server_is_given_up(model: Any, bench: Bench) -> None:
    servers = [bench.server(model), bench.server(model)]
    engine = bench.engine(model, servers, restart_seconds=600.0)
    servers[0].close()
    bench.given_up.add(servers[0].url)
    played(engine, asked(4))
    engine.sync(model)
    assert all(isinstance(turn, Sampled) for turn in played(engine, asked(4)).values())
    assert engine.deaths == 1


@pytest.mark.slow
def test_a_server_that_is_started_again_gets_the_current_weights(
    model: Any, random_model: Callable[..., Any], bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    """Once seen by a broken connection, once by nothing but the name of its weights."""
    server = bench.server(model)
    engine = bench.engine(model, [server])
    other = random_model(seed=7, sharpness=8.0)
    engine.sync(other)
    expected = played(engine, asked(2))
    server.close()
    assert isinstance(played(engine, asked(1))["e0"], Fault)
    threading.Timer(0.3, lambda: bench.server(model, server.port)).start()
    assert played(engine, asked(2)) == expected
    assert engine.deaths == 1
    assert bench.said[-1] == f"{server.url}: back, with the current weights"


def test_a_server_that_was_started_again_unseen_is_seen_by_its_weights(model: Any, bench: Bench) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server])
    expected = played(engine, asked(1))
    server.served.label = "default"
    fault = played(engine, asked(1))["e0"]
    assert isinstance(fault, Fault)
    assert fault.detail == f"{server.url}: sampled with other weights than sent"
    assert played(engine, asked(1)) == expected


@pytest.mark.parametrize("when", ["as others are written", "as they are replaced"])
def test_weights_are_not_changed_under_a_server_that_takes_them(
    model: Any,
    random_model: Callable[..., Any],
    bench: Bench,
    full_logps: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """One that comes back just as the next ones are made ready; of a large model either takes long."""
    servers = [bench.server(model), bench.server(model)]
    engine, behaviour = bench.engine(model, servers), servers[0].served.behaviour
    write = vllm_push.write_weights

    def written(*arguments: Any) -> None:
        if when == "as others are written":
            behaviour.busy = 0  # from now on it can come back
            time.sleep(1.5)
        write(*arguments)

    monkeypatch.setattr(vllm_push, "write_weights", written)
    behaviour.failing.append((500, "out of memory"))
    if when == "as others are written":
        behaviour.busy = 1_000
    else:
        behaviour.loading = 0.5
    played(engine, asked(4))
    if when == "as they are replaced":
        until(lambda: servers[0].served.paused)
    other = random_model(seed=7, sharpness=8.0)
    engine.sync(other)
    until(lambda: bench.said[-1] == f"{servers[0].url}: back, with the current weights")
    turns = played(engine, asked(4))
    assert worst_gap(full_logps, other, turns, 1.0) < 1e-5
    assert servers[0].served.missed == 0
    assert engine.deaths == 1


def until(true: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    limit = time.monotonic() + 30.0
    while not true():
        assert time.monotonic() < limit, "not so"
        time.sleep(0.01)


@pytest.mark.slow
def test_no_server_is_waited_for_for_ever(model: Any, bench: Bench) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server], restart_seconds=0.2)
    server.close()
    assert isinstance(played(engine, asked(1))["e0"], Fault)
    fault = played(engine, asked(1))["e0"]
    assert isinstance(fault, Fault)
    assert not fault.retryable
    with pytest.raises(SodError, match="no server is left of"):
        engine.sync(model)


def test_a_turn_that_takes_too_long_is_a_fault(model: Any, bench: Bench) -> None:
    server = bench.server(model, seconds=0.6)
    engine = bench.engine(model, [server], turn_seconds=0.2)
    started = time.monotonic()
    fault = played(engine, asked(1))["e0"]
    assert isinstance(fault, Fault)
    assert fault.kind == FaultKind.TIMEOUT
    assert time.monotonic() - started < 20.0


def test_a_server_that_is_there_and_samples_nothing_is_started_again(
    model: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is well, as vLLM does whose engine hangs; one that is only slow samples a token meanwhile."""
    monkeypatch.setattr(vllm_server, "SAMPLE_SECONDS", 0.3)
    server = bench.server(model)
    engine = bench.engine(model, [server], turn_seconds=0.3)
    expected = played(engine, asked(2))
    server.served.behaviour.seconds = 0.5
    assert isinstance(played(engine, asked(1))["e0"], Fault)
    server.served.behaviour.seconds = 0.0
    assert played(engine, asked(2)) == expected
    assert not bench.restarted
    server.served.behaviour.stuck = True
    assert isinstance(played(engine, asked(1))["e0"], Fault)
    assert played(engine, asked(2)) == expected
    assert bench.restarted == [server.url]


@pytest.mark.slow
def test_a_server_that_comes_back_with_another_model_stops_the_run(model: Any, bench: Bench) -> None:
    server = bench.server(model)
    engine = bench.engine(model, [server])
    server.close()
    played(engine, asked(1))
    bench.server(model, server.port, refuses_weights=True)
    engine.submit(asked(1), Sampling())
    with pytest.raises(SodError, match=r"serve the model of student.path there"):
        finished(engine, 1)


def test_what_the_contract_refuses(model: Any, bench: Bench) -> None:
    engine = bench.engine(model, [bench.server(model)])
    engine.submit(asked(1), Sampling())
    for requests, sampling in ((asked(1), Sampling()), ([SampleRequest("x", PROMPT, 1, 1)], Sampling(0.5))):
        with pytest.raises(ValueError):
            engine.submit(requests, sampling)
    with pytest.raises(ValueError, match="while turns"):
        engine.sync(model)
    engine.close()
    for call in (lambda: engine.submit([], Sampling()), lambda: engine.sync(model)):
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.slow
def test_rows_without_a_token_are_never_sampled(
    model: Any, tokenizer: Any, bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    """Of a model with more rows than tokens that would all but say nothing else."""
    tokens = len(tokenizer)
    whole = copy.deepcopy(model)
    whole.resize_token_embeddings(tokens + 3, mean_resizing=False)
    with torch.no_grad():
        whole.get_input_embeddings().weight[tokens:] = 3 * whole.get_input_embeddings().weight[:3]
    student = copy.deepcopy(whole)
    limit_to(student, Support(tokens, holes=(12,)), "here")
    assert vocabulary_of(student, STOPS).banned == {12, tokens, tokens + 1, tokens + 2}
    engine = bench.engine(student, [bench.server(whole)])
    turns = played(engine, asked(8, new=12))
    assert {12, tokens, tokens + 1, tokens + 2}.isdisjoint(
        t for turn in turns.values() for t in sampled(turn).token_ids
    )
    assert worst_gap(full_logps, student, turns, 1.0) < 1e-5


def test_more_rows_without_a_token_than_a_server_leaves_out_are_refused(model: Any, tokenizer: Any) -> None:
    large = copy.deepcopy(model)
    large.resize_token_embeddings(len(tokenizer) + 1025, mean_resizing=False)
    limit_to(large, Support(len(tokenizer)), "here")
    with pytest.raises(SodError, match=rf"1,025 of the model's .* after resize_token_embeddings\({len(tokenizer)}\)"):
        vocabulary_of(large, STOPS)


GOOD: dict[str, Any] = {
    "token_ids": [20, 21],
    "logprobs": {"content": [{"token_id": 20, "logprob": -1.0}, {"token_id": 21, "logprob": -2.0}]},
    "finish_reason": "length",
    "weight_versions": [{"version": "w", "start": 0, "end": 2}],
}
LOGPS = GOOD["logprobs"]["content"]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an id of another vocabulary": (
        {"token_ids": [20, 9999], "logprobs": {"content": [LOGPS[0], {"token_id": 9999, "logprob": -1.0}]}},
        "token 9999",
    ),
    "too few log-probabilities": ({"logprobs": {"content": LOGPS[:1]}}, "of other tokens"),
    "none": ({"logprobs": None}, "no reply"),
    "aborted": ({"finish_reason": "abort"}, "ended by 'abort'"),
    "two weights": ({"weight_versions": [{"version": "w"}, {"version": "v"}]}, "no reply"),
    "no tokens": ({"token_ids": [], "logprobs": {"content": []}}, "0 tokens where 1 to 2"),
    "a fraction": (
        {"token_ids": [20, 2.5], "logprobs": {"content": [LOGPS[0], {"token_id": 2.5, "logprob": -1.0}]}},
        "token 2.5",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_reply_that_cannot_be_is_a_fault(model: Any, what: str) -> None:
    changes, message = BAD[what]
    request, vocabulary = SampleRequest("s", PROMPT, 2, 1), vocabulary_of(model, STOPS)
    assert not isinstance(read_turn({"choices": [GOOD]}, request, Sampling(), vocabulary), Fault)
    fault = read_turn({"choices": [GOOD | changes]}, request, Sampling(), vocabulary)
    assert isinstance(fault, Fault)
    assert message in fault.detail


def test_an_adapter_is_pushed_as_part_of_the_weights(
    model: Any, clone: Callable[..., Any], bench: Bench, full_logps: Callable[..., list[float]]
) -> None:
    pytest.importorskip("peft")
    adapted = clone(model)
    new_adapter(adapted, LoraSpec(rank=2), 1, "here")
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(generator=torch.Generator().manual_seed(3))
    state = merged_state(adapted)
    expected = merged(clone(adapted)).state_dict()
    assert state.keys() == expected.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in state.items())
    turns = played(bench.engine(adapted, [bench.server(model)]), asked(2))
    assert worst_gap(full_logps, adapted, turns, 1.0) < 1e-5 < 0.1 < worst_gap(full_logps, model, turns, 1.0)


@pytest.mark.parametrize("push", ["nccl", "ipc"])
def test_a_push_between_devices_needs_vllm_here(push: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SodError, match=rf"engine.push={push}: needs vLLM in this environment too.*engine.push=file$"):
        pusher_of(EngineSpec(kind="vllm", push=push))


def test_where_a_server_meets_the_trainer() -> None:
    host, port = meeting_place("http://127.0.0.1:8000")
    assert host == "127.0.0.1"
    assert 1024 <= port < 65536


def test_weights_of_killed_runs_are_removed(tmp_path: Path, model: Any) -> None:
    """Also of one that pushed just before: a run that goes on with it at once needs the room, and looks only once."""
    living, killed, young = FilePusher(str(tmp_path)), tmp_path / "sod-weights-killed", tmp_path / "sod-weights-young"
    living.prepare(model, "w-0")
    (mine,) = tmp_path.iterdir()
    pushed = tmp_path / "sod-weights-pushed"
    for folder in (killed, young, pushed):
        folder.mkdir()
    (pushed / LOCK).touch()
    for old in (killed, mine, mine / LOCK, pushed / LOCK):
        os.utime(old, (1.0, 1.0))
    forget_orphans(tmp_path)
    forget_orphans(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, young])
    living.close()
    assert list(tmp_path.iterdir()) == [young]


def test_a_disk_that_fills_up_is_named(tmp_path: Path, model: Any) -> None:
    """A limit on the size of files stands for it: it stops the writer in the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(
            SodError, match=r"engine.push_dir: .*: the weights cannot be written \(.*os error.*; name a f"
        ):
            FilePusher(str(tmp_path)).prepare(model, "w-0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, model: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SodError, match=r"engine.push_dir: .*/file: the weights cannot be written \(.*; name a folder"):
        FilePusher(str(tmp_path / "file")).prepare(model, "w-0")


@pytest.mark.slow
def test_so_many_turns_are_under_way_at_a_server(model: Any, bench: Bench) -> None:
    """What waits for its place when a server dies goes elsewhere, and is no fault."""
    servers = [bench.server(model, seconds=0.1), bench.server(model)]
    engine = bench.engine(model, servers, rows=1)
    engine.submit(asked(6, new=1), Sampling())
    while not servers[0].served.asked:
        time.sleep(0.01)
    servers[0].served.behaviour.failing = [(500, "dead")] * 6
    ended = finished(engine, 6)
    faults = [session for session, outcome in ended.items() if isinstance(outcome, Fault)]
    assert len(faults) == 1
    assert engine.deaths == 1
    assert {session: sampled(turn) for session, turn in ended.items() if session not in faults} == {
        session: turn for session, turn in played(engine, asked(6, new=1)).items() if session not in faults
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"urls": ["http://me:secret@here:8000"]}, "put the key into the environment variable SOD_ENGINE_API_KEY"),
        ({"urls": ["here:8000"]}, "'here:8000' is not a url"),
        ({"urls": ["http://here:8000", "http://here:8000/"]}, "names a server twice"),
        ({"urls": []}, "at least 1 item"),
        ({"urls": ["http://here:port"]}, "'http://here:port' is not a url .*; name it like http://127.0.0.1:8000"),
        ({"urls": ["http://here:99999"]}, "is not a url .Port out of range"),
        ({"urls": ["http://"]}, "'http://' is not a url .no host"),
        ({"urls": ["http://a:8000, http://b:8000"]}, "'http://a:8000, http://b:8000' is not a url"),
        ({"urls": ["http://::1:8000"]}, "is not a url"),
        ({"urls": ["http://localhost:8000", "http://127.0.0.1:8000/v1"]}, "names a server twice"),
        ({"urls": ["http://Here", "http://here:80/"]}, "names a server twice"),
        ({"options": ["--tensor-parallel-size 2"]}, r"write two strings, \['--tensor-parallel-size', '2'\]"),
        ({"options": ["--max_model_len=10"]}, "--max-model-len is the run's to set"),
        ({"options": ["--api-key=s3cret"]}, "--api-key is the run's to set; leave it out"),
        ({"options": ["--dtype=half"]}, "--dtype is the run's to set"),
    ],
)
def test_a_section_that_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineSpec(kind="vllm", **keys)


def test_the_urls_that_teachers_have_are_servers_too() -> None:
    spec = EngineSpec(kind="vllm", urls=["http://here:8000/v1/", "http://[::1]:8000"])
    assert spec.urls == ["http://here:8000", "http://[::1]:8000"]


def test_one_url_for_a_list_is_told_how_to_be_one() -> None:
    with pytest.raises(SodError, match=r"engine.urls='http://a:1': input should be a list; write \[http://a:1\]$"):
        parse_recipe({"engine": {"kind": "vllm", "urls": "http://a:1"}}, "")


def test_the_key_goes_to_the_server(model: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bench.server(model)
    monkeypatch.setenv(KEY_VARIABLE, "a secret")
    with pytest.raises(SodError, match=f"{KEY_VARIABLE}: a key has printable ASCII characters alone"):
        bench.engine(model, [server])
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    engine = bench.engine(model, [server])
    assert server.served.keys == {"Bearer secret"}
    server.served.behaviour.failing.append((400, "is it secret?"))
    fault = played(engine, asked(1))["e0"]
    assert isinstance(fault, Fault)
    assert fault.detail.endswith("HTTP 400: is it ***?")
