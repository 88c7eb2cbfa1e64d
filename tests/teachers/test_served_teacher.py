"""The served teacher against a real HTTP server over a real model: the same scores as in this process, and what is
wrong with a server or its answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scoring_server import ScoringServer, as_it_is
from sod.objective.batch import TokenBatch
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.records import FaultKind, SodError
from sod.teachers.local import LocalTeacher
from sod.teachers.served import ServedTeacher

Serving = Callable[..., ScoringServer]
Making = Callable[..., ServedTeacher]
PROBES = 2  # requests at the start: a short text, and the control tokens
FORMS = [
    {"forms": ("prompt_logprobs",)},
    {"forms": ("echo",)},
    {"forms": ("echo",), "as_ids": False},
]


def scored(teacher: ServedTeacher, batch: TokenBatch, need: ScoreNeed = ScoreNeed()) -> TeacherScores:  # noqa: B008
    scores = teacher.score(batch, (), need)
    assert scores.faults == {}
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=["mappings", "echo-ids", "echo-text"])
def test_scores_are_those_of_a_local_teacher(
    form: dict[str, Any], serving: Serving, teacher_of: Making, model: Any, random_batch: Any, clone: Any
) -> None:
    """Rows of uneven length and several turns; as much of the distribution as the form tells of."""
    text = form.get("as_ids") is False
    teacher = teacher_of(serving(**form).url, k=5)
    assert teacher.offers.level == ("sampled" if text else "topk")
    need = ScoreNeed() if text else ScoreNeed(top1=True, k=5)
    batch = random_batch(rows=6, seed=3)
    theirs = scored(teacher, batch, need)
    ours = LocalTeacher(clone(model), 500).score(batch, (), need)
    torch.testing.assert_close(theirs.logp_BT, ours.logp_BT, atol=2e-5, rtol=0)
    if not text:
        torch.testing.assert_close(theirs.top1_BT, ours.top1_BT, atol=2e-5, rtol=0)
        assert theirs.ids_NK is not None
        assert torch.equal(theirs.ids_NK, ours.ids_NK)  # type: ignore[arg-type]
        torch.testing.assert_close(theirs.logps_NK, ours.logps_NK, atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="offers"):
        teacher.score(batch, (), ScoreNeed(entropy=True))


def test_nothing_is_asked_twice_and_a_server_that_is_gone_is_not_missed(
    serving: Serving, teacher_of: Making, random_batch: Any
) -> None:
    """Equal rows once; another run asks for nothing; without a server the cache answers, and new rows are faults."""
    batch = random_batch(rows=4, seed=1)
    twice = batch.rows([0, 1, 2, 3, 1, 0])
    server = serving()
    first = teacher_of(server.url)
    logp_BT = scored(first, twice).logp_BT
    asked = len(server.asked)
    assert first.server.requests == asked == 4 + PROBES
    again = teacher_of(server.url)
    assert torch.equal(scored(again, twice).logp_BT, logp_BT)
    assert again.server.kept == 4
    assert len(server.asked) == asked + PROBES
    server.__exit__()
    told: list[str] = []
    gone = teacher_of(server.url, told=told, attempts=1)
    assert torch.equal(scored(gone, twice).logp_BT, logp_BT)
    (notice,) = told
    assert "cannot be reached (ConnectError); going on with the answers in teacher.cache" in notice
    other = gone.score(random_batch(rows=2, seed=5), (), ScoreNeed())
    assert {fault.kind for fault in other.faults.values()} == {FaultKind.UNREACHABLE}
    assert sorted(other.faults) == [0, 1]


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], FaultKind, str]] = {
    "cut": (lambda a: json.dumps(a)[:-20], FaultKind.BAD_REPLY, "no completion"),
    "short": (lambda a: put(a, lambda rows: rows[:-1]), FaultKind.BAD_REPLY, "log-probabilities for"),
    "nan": (lambda a: put_logp(a, float("nan")), FaultKind.BAD_REPLY, "nan at place 2 is no log-probability"),
    "minus infinity": (lambda a: put_logp(a, -9999.0), FaultKind.BAD_REPLY, "-9999 at place 2"),
    "positive": (lambda a: put_logp(a, 0.5), FaultKind.BAD_REPLY, "0.5 at place 2"),
    "text": (lambda a: put_logp(a, "-1.0"), FaultKind.BAD_REPLY, "at place 2 is no log-probability"),
    "other ids": (lambda a: put_ids(a), FaultKind.BAD_REPLY, "other tokens than those that were sent"),
    "other model": (lambda a: put(a, lambda rows: [rows[0], *rows[:0:-1]]), FaultKind.BAD_REPLY, "another model's"),
    "nothing": (lambda a: put(a, lambda rows: None), FaultKind.BAD_REPLY, "no log-probabilities of the prompt"),
    "list": (lambda a: put(a, lambda rows: [[1]] * len(rows)), FaultKind.BAD_REPLY, "log-probabilit"),
}


def put(answer: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    choice = answer["choices"][0]
    return answer | {"choices": [choice | {"prompt_logprobs": change(choice["prompt_logprobs"])}]}


def put_logp(answer: dict[str, Any], value: Any) -> dict[str, Any]:
    rows = answer["choices"][0]["prompt_logprobs"]
    changed = {name: one | {"logprob": value} for name, one in rows[2].items()}
    return put(answer, lambda _: [*rows[:2], changed, *rows[3:]])


def put_ids(answer: dict[str, Any]) -> dict[str, Any]:
    choice = answer["choices"][0]
    return answer | {"choices": [choice | {"prompt_token_ids": choice["prompt_token_ids"][::-1]}]}


def test_an_answer_that_is_none_is_a_fault_of_its_trajectory(
    serving: Serving, teacher_of: Making, random_batch: Any
) -> None:
    """The other rows are scored; nothing of the broken answer is kept."""
    server = serving()
    teacher = teacher_of(server.url, concurrency=1)
    batch = random_batch(rows=3, seed=1)
    bad = batch.token_BT[1, : int(batch.length_B[1])].tolist()
    for name, (change, kind, detail) in BROKEN.items():

        def changed(n: int, a: dict[str, Any], change: Any = change) -> Any:
            return 200, {}, change(a) if server.asked[n]["prompt"] == bad else a

        server.change = changed
        scores = teacher.score(batch, (), ScoreNeed())
        assert list(scores.faults) == [1], name
        assert scores.faults[1].kind == kind, name
        assert detail in scores.faults[1].detail, name
        assert scores.faults[1].detail.startswith(f"teacher: {server.url}: ")
    server.change = as_it_is
    assert teacher.score(batch, (), ScoreNeed()).faults == {}
    assert teacher.server.kept == 2 * len(BROKEN)


@pytest.mark.slow
def test_a_server_that_is_busy_is_asked_again(serving: Serving, teacher_of: Making, random_batch: Any) -> None:
    """429 with Retry-After, 503, an answer cut short: then it is there, and no fault is left."""
    server = serving()
    teacher = teacher_of(server.url, attempts=4, backoff_max_seconds=0.1)
    broken = [(429, {"Retry-After": "30"}, "slow down"), (503, {}, "loading"), (200, {}, "{")]
    server.change = lambda n, a: broken[n - PROBES] if n - PROBES < len(broken) else (200, {}, a)
    assert scored(teacher, random_batch(rows=1, seed=1)).logp_BT.abs().sum() > 0
    assert len(server.asked) == PROBES + 3 + 1 + 1  # after 503 it proves that it is the same


def test_a_server_that_stays_down_is_left_alone(serving: Serving, teacher_of: Making, random_batch: Any) -> None:
    """After failures in a row no request goes out; every row is a fault that says why."""
    server = serving()
    teacher = teacher_of(server.url, attempts=2, breaker_failures=3, breaker_seconds=600.0, concurrency=1)
    server.change = lambda n, a: (500, {}, "engine dead")
    scores = teacher.score(random_batch(rows=6, seed=1), (), ScoreNeed())
    assert len(scores.faults) == 6
    assert len(server.asked) == PROBES + 3
    assert "3 requests failed in a row" in scores.faults[5].detail
    assert all("HTTP 500" in fault.detail for fault in scores.faults.values())


@pytest.mark.slow
def test_a_key_comes_from_the_environment_and_is_never_shown(
    serving: Serving, teacher_of: Making, monkeypatch: pytest.MonkeyPatch, random_batch: Any
) -> None:
    server = serving(key="k-secret")
    with pytest.raises(SodError, match=r"HTTP 401: .*; set the environment variable SOD_TEACHER_API_KEY"):
        teacher_of(server.url)
    monkeypatch.setenv("MY_KEY", "k-secret")
    teacher = teacher_of(server.url, api_key_env="MY_KEY")
    assert server.headers[0]["Authorization"] == "Bearer k-secret"
    server.change = lambda n, a: (400, {}, "who is k-secret?")
    fault = teacher.score(random_batch(rows=1, seed=1), (), ScoreNeed()).faults[0]
    assert "k-secret" not in fault.detail
    assert "who is ***?" in fault.detail
    assert "k-secret" not in str(teacher.server.spec)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no log-probabilities": ({"forms": ()}, "gives no log-probabilities of given tokens"),
    "bos": ({"bos": 3}, r"the server puts a token \(BOS\) before the prompt"),
    "bos in echo": ({"bos": 3, "forms": ("echo",)}, r"the server puts a token \(BOS\) before the prompt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_server_that_cannot_teach_is_refused(name: str, serving: Serving, teacher_of: Making) -> None:
    options, line = WRONG[name]
    server = serving(**options)
    with pytest.raises(SodError, match=line):
        teacher_of(server.url)
    assert len(server.asked) <= 20


@pytest.mark.slow
def test_another_tokenizer_and_another_model_are_refused(
    serving: Serving, teacher_of: Making, random_model: Any, random_batch: Any, tmp_path: Path
) -> None:
    from other_teacher import other_tokenizer

    for form in FORMS:
        with pytest.raises(SodError, match=r"teacher\.model=t: has other tokens than the student, e\.g\."):
            teacher_of(serving(spelling=other_tokenizer(), **form).url, cache=str(tmp_path / "other"))
    with pytest.raises(SodError, match=r"teacher\.model=u: http.* serves t; take one of these"):
        teacher_of(serving().url, model="u")
    scored(teacher_of(serving().url), random_batch(rows=1, seed=1))
    with pytest.raises(SodError, match=r"answers otherwise than the model of this name whose answers are in"):
        teacher_of(serving(own=random_model(seed=9, sharpness=8.0)).url)
    with pytest.raises(SodError, match=r"cannot be reached \(ConnectError\); start the server"):
        teacher_of("http://127.0.0.1:9/v1", cache=str(tmp_path / "empty"))


@pytest.mark.slow
def test_as_many_of_the_most_probable_tokens_as_it_gives(serving: Serving, teacher_of: Making, tmp_path: Path) -> None:
    offered = [teacher_of(serving(most_k=most).url, k=8, cache=str(tmp_path / str(most))).offers for most in (20, 7, 0)]
    assert [(offer.level, offer.largest_k) for offer in offered] == [("topk", 8), ("topk", 5), ("sampled", 0)]
    assert all(offer.temperatures == {1.0} for offer in offered)


@pytest.mark.slow
def test_bounds_of_what_is_under_way(serving: Serving, teacher_of: Making, random_batch: Any, tmp_path: Path) -> None:
    """Requests at a time, tokens at a time, and a row that is too long for the server, which is a fault."""
    batch = random_batch(rows=8, seed=1)
    longest = int(batch.length_B.max())
    server = serving()
    bounds = {"concurrency": 3, "max_request_tokens": longest - 1, "tokens_in_flight": 2 * longest}
    teacher = teacher_of(server.url, **bounds)
    server.most = server.most_tokens = 0
    together = threading.Event()

    def wait_for_another(number: int, answer: dict[str, Any]) -> Any:
        if server.now > 1:
            together.set()
        together.wait(60.0)
        return 200, {}, answer

    server.change = wait_for_another
    faults = teacher.score(batch, (), ScoreNeed()).faults
    assert 1 < server.most <= 3
    assert server.most_tokens <= 2 * longest
    assert sorted(faults) == [row for row in range(8) if int(batch.length_B[row]) == longest]
    assert f"{longest} tokens are more than the {longest - 1} that it takes" in next(iter(faults.values())).detail
    server.change = as_it_is
    alone = teacher_of(server.url, cache=str(tmp_path / "other"), tokens_in_flight=1)
    server.most = 0
    assert scored(alone, batch).logp_BT.abs().sum() > 0
    assert server.most == 1
