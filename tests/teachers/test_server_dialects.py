"""Servers as users have them: each dialect scores as a teacher in this process does, or is refused in a clear line."""

from __future__ import annotations

import copy
import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from scoring_server import ScoringServer, as_it_is
from sod.objective.scores import ScoreNeed
from sod.records import SodError
from sod.teachers.local import LocalTeacher
from sod.teachers.score_cache import FILE
from sod.teachers.served import ServedTeacher

Serving = Callable[..., ScoringServer]
Making = Callable[..., ServedTeacher]
Body = dict[str, Any]
PLAIN = ScoreNeed()

DIALECTS: dict[str, tuple[Body, int, int]] = {
    "vllm": ({}, 5, 5),
    "sglang": ({"forms": ("generate", "echo"), "as_ids": False, "falsy": True}, 5, 5),
    "sglang, no top k": ({"forms": ("generate", "echo"), "as_ids": False, "falsy": True}, 0, 0),
    "sglang behind a router": ({"forms": ("echo",), "as_ids": False, "falsy": True}, 0, 0),
    "hosted, ids refused": ({"forms": ("echo",), "as_ids": False, "strict": True}, 0, 0),
    "hosted, k of 0 and ids refused": ({"forms": ("echo",), "as_ids": False, "strict": True, "falsy": True}, 0, 0),
}
"""What a server does, the k that is wanted of it, and the one that it gives."""


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_gives_the_scores_of_a_local_teacher(
    name: str, serving: Serving, teacher_of: Making, model: Any, random_batch: Any
) -> None:
    """And of the cache afterwards, without a further question about a row."""
    options, wanted, given = DIALECTS[name]
    server = serving(**options)
    teacher = teacher_of(server.url, k=wanted)
    assert teacher.offers.largest_k == given
    batch, need = random_batch(rows=4, seed=3), ScoreNeed(top1=given > 0, k=given)
    ours = LocalTeacher(copy.deepcopy(model), 500).score(batch, (), need)
    theirs = teacher.score(batch, (), need)
    assert theirs.faults == {}
    torch.testing.assert_close(theirs.logp_BT, ours.logp_BT, atol=2e-5, rtol=0)
    if given:
        assert torch.equal(theirs.ids_NK, ours.ids_NK)  # type: ignore[arg-type]
        torch.testing.assert_close(theirs.logps_NK, ours.logps_NK, atol=2e-5, rtol=0)
    again = teacher_of(server.url, k=wanted)
    asked = len(server.asked)
    assert torch.equal(again.score(batch, (), need).logp_BT, theirs.logp_BT)
    assert len(server.asked) == asked


def test_an_adapter_of_sglangs_is_asked_by_its_name(serving: Serving, teacher_of: Making) -> None:
    server = serving(forms=("generate",))
    teacher_of(server.url, model="t:maths")
    assert [body["lora_path"] for body in server.asked if "input_ids" in body] == ["maths"] * 3


def test_a_server_that_does_not_spell_its_tokens_is_told_of(serving: Serving, teacher_of: Making) -> None:
    """As SGLang with some versions of its tokenizers, which give the text of all tokens at once."""
    server = serving(forms=("generate",))

    def together(number: int, answer: Body) -> Any:
        if not server.asked[number].get("return_text_in_logprobs"):
            return 200, {}, answer
        meta = answer["meta_info"]
        return 200, {}, answer | {"meta_info": meta | {"input_token_logprobs": meta["input_token_logprobs"][:1]}}

    server.change = together
    told: list[str] = []
    assert teacher_of(server.url, k=5, told=told).offers.largest_k == 5
    (notice,) = told
    assert "does not say how its tokens are spelled; see to it that t has the student's tokenizer" in notice


def of_echo(change: Callable[[Body], Body]) -> Callable[[Body], Any]:
    """A change of the log-probabilities in an answer to `echo`."""

    def changed(answer: Body) -> Any:
        choice = answer["choices"][0]
        return answer | {"choices": [choice | {"logprobs": change(choice["logprobs"])}]}

    return changed


SHAPES: dict[str, Callable[[Body], Any]] = {
    "first is 0": of_echo(lambda rows: rows | {"token_logprobs": [0.0, *rows["token_logprobs"][1:]]}),
    "no top k": of_echo(lambda rows: {name: rows[name] for name in ("tokens", "token_logprobs")}),
    "no generated token": of_echo(lambda rows: {name: values[:-1] for name, values in rows.items()}),
    "pieces": of_echo(lambda rows: rows | {"tokens": [token.replace(" ", "\u0120") for token in rows["tokens"]]}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_echo_of_another_shape_is_read(
    name: str, serving: Serving, teacher_of: Making, random_batch: Any, tmp_path: Path
) -> None:
    server = serving(forms=("echo",), as_ids=False)
    batch = random_batch(rows=2, seed=1)
    plain = teacher_of(server.url, cache=str(tmp_path / "plain")).score(batch, (), PLAIN)
    server.change = lambda n, answer: (200, {}, SHAPES[name](answer) if has_echo(answer) else answer)
    scores = teacher_of(server.url).score(batch, (), PLAIN)
    assert scores.faults == {}
    assert torch.equal(scores.logp_BT, plain.logp_BT)


def has_echo(answer: Body) -> bool:
    return "logprobs" in answer["choices"][0]


def test_an_answer_that_a_proxy_has_compressed_is_read(serving: Serving, teacher_of: Making) -> None:
    server = serving()
    server.change = lambda n, answer: (200, {"Content-Encoding": "gzip"}, gzip.compress(json.dumps(answer).encode()))
    assert teacher_of(server.url, k=3).offers.largest_k == 3


def test_ids_beside_the_texts_of_an_echo_are_looked_at(serving: Serving, teacher_of: Making, random_batch: Any) -> None:
    server = serving(forms=("echo",), as_ids=False)
    teacher = teacher_of(server.url)
    add = of_echo(lambda rows: rows | {"token_ids": [7] * len(rows["tokens"])})
    server.change = lambda n, answer: (200, {}, add(answer))
    fault = teacher.score(random_batch(rows=1, seed=1), (), PLAIN).faults[0]
    assert "other tokens than those that were sent" in fault.detail


def llama_cpp(number: int, answer: Body) -> Any:
    """No prompt in its answers."""
    return 200, {}, answer | {"choices": [{"text": "", "logprobs": {"content": [{"id": 5, "logprob": -1.0}]}}]}


def halved(number: int, answer: Body) -> Any:
    """Log-probabilities as if of temperature 2 and not normalised again."""
    if has_echo(answer):
        return 404, {}, "no"
    rows = answer["choices"][0]["prompt_logprobs"]
    flat = [row and {i: one | {"logprob": one["logprob"] / 2} for i, one in row.items()} for row in rows]
    return 200, {}, answer | {"choices": [answer["choices"][0] | {"prompt_logprobs": flat}]}


PAGE = "<!doctype html><title>Chat</title>"
NAMES = [f"vendor/model-{number}" for number in range(300)] + ["vendor/tt"]
REFUSED: dict[str, tuple[Any, Any, str, int]] = {
    "gateway": ((502, {}, "<html>502 Bad Gateway</html>"), as_it_is, "answers HTTP 502; start the server, or", 0),
    "loading": ((503, {}, {"error": "Loading model"}), as_it_is, "answers HTTP 503; start the server, or", 0),
    "moved": ((301, {"Location": "https://h/v1/models"}, ""), as_it_is, "redirects to https://h/v1; set the url to", 0),
    "names": ((200, {}, {"data": [{"id": name} for name in NAMES]}), as_it_is, "serves vendor/tt, .* and 291 more;", 0),
    "key": (None, lambda n, a: (403, {}, "no"), "HTTP 403: 'no'; set the environment variable SOD_TEACHER_API_KEY$", 1),
    "quota": (None, lambda n, a: (429, {}, "later"), "^teacher: http.*: HTTP 429: 'later'$", 3),
    "redirect": (
        None,
        lambda n, a: (307, {"Location": "/x"}, ""),
        "HTTP 307: ''; redirects to '/x', which is not fo",
        9,
    ),
    "page": ((200, {}, PAGE), lambda n, a: (200, {}, PAGE), "given tokens .prompt_logprobs: a web page; gener", 8),
    "llama.cpp": (None, llama_cpp, r"echo: log-probabilities in another form than was asked for; .*vLLM or SGLang", 9),
    "other temperature": (None, halved, r"probability of \d\.\d\d together: no log-probabilities", 9),
}
"""What it answers about its models, how it changes answers, the line, and the most requests before it."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_server_that_is_none_is_refused_in_a_line_that_says_why(
    name: str, serving: Serving, teacher_of: Making
) -> None:
    listed, change, line, most = REFUSED[name]
    server = serving()
    server.listed, server.change = listed, change
    with pytest.raises(SodError, match=line) as error:
        teacher_of(server.url, k=3)
    assert len(str(error.value)) < 1200
    assert "\n" not in str(error.value)
    assert len(server.asked) <= most


def test_a_router_lists_patterns(serving: Serving, teacher_of: Making) -> None:
    server = serving()
    server.listed = 200, {}, {"data": [{"id": "openai/*"}]}
    assert teacher_of(server.url).offers.level == "sampled"


def test_a_proxy_whose_server_is_gone_is_a_server_that_is_gone(
    serving: Serving, teacher_of: Making, random_batch: Any
) -> None:
    """What the cache has needs nobody."""
    server, batch = serving(), random_batch(rows=2, seed=1)
    logp_BT = teacher_of(server.url).score(batch, (), PLAIN).logp_BT
    server.listed, server.change = (502, {}, "<html>"), lambda n, answer: (502, {}, "<html>")
    told: list[str] = []
    assert torch.equal(teacher_of(server.url, told=told).score(batch, (), PLAIN).logp_BT, logp_BT)
    assert "answers HTTP 502; going on with the answers in teacher.cache" in told[0]


def renamed(tokenizer: Any, old: str, new: str) -> Any:
    """The same tokenizer but for the name of a control token."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str().replace(old, new))
    )


@pytest.mark.parametrize("form", ["prompt_logprobs", "generate", "echo"])
def test_other_control_tokens_are_other_tokens(form: str, serving: Serving, teacher_of: Making, tokenizer: Any) -> None:
    """Models of one family share all plain tokens; those that begin and end turns may differ."""
    server = serving(spelling=renamed(tokenizer, "<|im_start|>", "<|User|>"), forms=(form,))
    with pytest.raises(SodError, match=r"has other tokens than the student, e\.g\. '<\|User\|>' in place of '<\|im_st"):
        teacher_of(server.url)
    server = serving(forms=(form,))
    control = tokenizer.convert_tokens_to_ids("<|im_start|>")
    refusal = 400, {}, {"error": {"message": f"Token id {control} is out of vocabulary"}}

    def smaller(number: int, answer: Body) -> Any:
        body = server.asked[number]
        return refusal if control in (body.get("prompt") or body["input_ids"]) else (200, {}, answer)

    server.change = smaller
    with pytest.raises(SodError, match=rf"does not take the student's control tokens .*Token id {control} is out"):
        teacher_of(server.url)


@pytest.mark.parametrize("when", ["between steps", "in a step"])
def test_a_server_that_comes_back_with_another_model_stops_the_run(
    when: str, serving: Serving, teacher_of: Making, random_model: Any, model: Any, random_batch: Any
) -> None:
    """Nothing of what the other one says is kept."""
    server, batches = serving(), [random_batch(rows=2, seed=seed) for seed in (1, 2)]
    teacher = teacher_of(server.url, concurrency=1)
    if when == "between steps":
        assert teacher.score(batches[0], (), PLAIN).faults == {}
        server.model = random_model(seed=9, sharpness=8.0)
    else:

        def dies(number: int, answer: Body) -> Any:
            server.model, server.change = random_model(seed=9, sharpness=8.0), as_it_is
            return 503, {}, "gone"

        server.change = dies
    with pytest.raises(
        SodError, match=r"teacher\.model=t: answers otherwise than the model of this name .* nats/token"
    ):
        teacher.score(batches[1], (), PLAIN)
    server.model = model
    ours = LocalTeacher(copy.deepcopy(model), 500).score(batches[1], (), PLAIN)
    torch.testing.assert_close(teacher.score(batches[1], (), PLAIN).logp_BT, ours.logp_BT, atol=2e-5, rtol=0)


def test_answers_that_a_disk_has_damaged_are_asked_for_again(
    serving: Serving, teacher_of: Making, random_batch: Any, tmp_path: Path
) -> None:
    server, batch = serving(), random_batch(rows=1, seed=1)
    logp_BT = teacher_of(server.url).score(batch, (), PLAIN).logp_BT
    places = int((batch.turn_BT > 0).sum())
    nan = np.full(places, np.nan, np.float32).tobytes()
    with sqlite3.connect(tmp_path / "cache" / FILE) as file:
        file.execute("UPDATE answers SET value = CASE WHEN length(value) = ? THEN ? ELSE '{' END", (4 * places, nan))
    again = teacher_of(server.url)
    assert torch.equal(again.score(batch, (), PLAIN).logp_BT, logp_BT)
    assert again.server.kept == 0


def test_rows_that_are_refused_do_not_keep_others_from_being_asked(
    serving: Serving, teacher_of: Making, random_batch: Any
) -> None:
    """A server that answers 400 is well."""
    server, batch = serving(), random_batch(rows=5, seed=1)
    teacher = teacher_of(server.url, concurrency=1, breaker_failures=2, breaker_seconds=600.0)
    good = batch.token_BT[4, : int(batch.length_B[4])].tolist()
    server.change = lambda n, answer: (
        (200, {}, answer)
        if server.asked[n]["prompt"] == good
        else (400, {}, "This model's maximum context length is 4")
    )
    faults = teacher.score(batch, (), PLAIN).faults
    assert sorted(faults) == [0, 1, 2, 3]
    assert all("maximum context length" in fault.detail for fault in faults.values())
