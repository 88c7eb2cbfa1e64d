"""What a server offers, found out before a run loads weights, and whether its tokens are the ones that we send.

It is asked for the log-probabilities of a short text, in each of the two forms until one works (`answers.py`), and as
many of the most probable tokens as the method needs. What is found is kept in the cache: a run whose server is gone
goes on with what the cache has. The probe's answer is kept too: a server that answers otherwise than the one that
filled the cache serves another model under the same name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import httpx
import numpy as np

from sod.asynchronous import loop_thread
from sod.objective.scores import Level
from sod.recipe import Notice
from sod.records import Fault, SodError
from sod.service import DENIED_CODES
from sod.teachers.answers import FORMS, Answer, Form
from sod.teachers.base import Offer
from sod.teachers.score_cache import row_key
from sod.teachers.server import Server

TEXT = "The quick brown fox jumps over 13 lazy dogs; then print(2 + 3 * 7) gives 23, and nothing else happens."
FEWER = (20, 5, 1, 0)
"""Numbers of most probable tokens that are tried where as many as are needed are refused."""
REFUSALS = (400, 422)  # HTTP codes of a request that asks for too much
OTHER_SPELLING = 0.1  # the share of plain tokens that a tokenizer of the same vocabulary may spell otherwise
OTHER_MODEL = 0.1  # nats/token: bfloat16 and other kernels make 0.05 at most


@final
@dataclass(frozen=True)
class Offered:
    """What a server can do: in which form it answers, how many of the most probable tokens it gives, and the longest
    row that it takes (None: not known).
    """

    form: Form
    largest_k: int
    longest: int | None

    @property
    def offer(self) -> Offer:
        """The same as a teacher's offer. Log-probabilities of given tokens are always at temperature 1."""
        level: Level = "topk" if self.largest_k else "sampled"
        return Offer(level, self.largest_k, frozenset({1.0}), entropy=False)


def probed(server: Server, tokenizer: Any, wanted_k: int, notice: Notice) -> Offered:
    """What the server offers, up to `wanted_k` of the most probable tokens. `tokenizer` makes the ids that are sent.

    Where nobody answers, what the cache knows of it: `notice` hears of that. Raises SodError in one line where there is
    no such server or model, where it gives no log-probabilities of given tokens, where its tokens are others, and where
    it is another model than the one that filled the cache.
    """
    ids = tuple(tokenizer.encode(TEXT, add_special_tokens=False))
    key = row_key(server.model, ids, (), wanted_k)
    kept = _kept(server, key)
    models = loop_thread().run(_models(server))
    if isinstance(models, str):
        if kept is None:
            raise SodError(f"{server.key}.url={server.spec.url}: {models}; start the server, or correct the url")
        notice(
            f"{server.key}.url={server.spec.url}: {models}; going on with the answers in {server.key}.cache, and what "
            "is not there is a fault of its trajectory"
        )
        return kept[0]
    longest = _longest(server, models)
    offered, answer = loop_thread().run(_tried(server, ids, wanted_k, longest))
    texts = answer.text_T or loop_thread().run(_texts(server, ids, offered.form))
    _refuse_other_tokens(server, tokenizer, ids, texts)
    logps = [float(logp) for logp in answer.logp_T]
    if kept is not None:
        _refuse_other_model(server, logps, kept[1])
    else:
        server.cache.put(key, json.dumps([vars(offered), logps]).encode())
    return offered


def _kept(server: Server, key: bytes) -> tuple[Offered, list[float]] | None:
    data = server.cache.get(key)
    if data is None:
        return None
    offered, logps = json.loads(data)
    return Offered(**offered), logps


async def _models(server: Server) -> httpx.Response | str:
    """The server's list of models, whatever that is; or why nobody answers at the url.

    Raises SodError where our key is not accepted.
    """
    try:
        response = await server.service.get("models")
    except httpx.HTTPError as error:
        return f"cannot be reached ({type(error).__name__})"
    if response.status_code in DENIED_CODES:
        raise SodError(
            f"{server.key}.url={server.spec.url}: HTTP {response.status_code}; set the environment variable "
            f"{server.spec.api_key_env} to a key that it accepts"
        )
    return response


def _longest(server: Server, models: httpx.Response) -> int | None:
    """The longest row that the model takes, as far as the server's list of models says.

    Raises SodError where there is a list, and the model is not in it.
    """
    own = server.spec.max_request_tokens
    try:
        rows = {str(row["id"]): row for row in models.json()["data"]}
    except (ValueError, LookupError, TypeError):  # it has no such list
        return own
    if rows and server.model not in rows:
        raise SodError(
            f"{server.key}.model={server.model}: {server.spec.url} serves {', '.join(sorted(rows))}; take one of these"
        )
    said = rows[server.model].get("max_model_len") if rows else None
    # One token is generated for each request.
    limits = [limit for limit in (own, said - 1 if type(said) is int else None) if limit is not None]
    return min(limits, default=None)


async def _tried(server: Server, ids: Sequence[int], wanted: int, longest: int | None) -> tuple[Offered, Answer]:
    """The first form that works, with as many tokens as it gives up to `wanted`; and its answer."""
    refusals: list[str] = []
    for form in FORMS:
        for k in [wanted, *(fewer for fewer in FEWER if fewer < wanted)]:
            answer = await server.asked(ids, k, form)
            if isinstance(answer, Answer):
                return Offered(form, answer.id_TK.shape[1], longest), answer
            if not any(f"HTTP {code}" in answer.detail for code in REFUSALS):
                break  # it is no question of how many
        refusals.append(f"{form}: {_reason(answer, server)}")
    prefix = "a url goes up to /v1; " if any("HTTP 404" in refusal for refusal in refusals) else ""
    raise SodError(
        f"{server.key}.url={server.spec.url}: gives no log-probabilities of given tokens ({'; '.join(refusals)}); "
        f"{prefix}serve the teacher by vLLM or SGLang, whose /v1/completions does, or load it here with teacher.path"
    )


def _reason(answer: Answer | Fault, server: Server) -> str:
    detail = answer.detail if isinstance(answer, Fault) else ""
    return detail.removeprefix(f"{server.key}: {server.spec.url}: ")


async def _texts(server: Server, ids: Sequence[int], form: Form) -> tuple[str, ...]:
    """The tokens as the server spells them; empty where it does not say."""
    if form != "echo":
        return ()
    answer = await server.asked(ids, 0, form, as_ids=False)
    return answer.text_T if isinstance(answer, Answer) else ()


def _refuse_other_tokens(server: Server, tokenizer: Any, ids: Sequence[int], texts: Sequence[str]) -> None:
    """Raises SodError where the server spells the tokens otherwise than our tokenizer."""
    if not texts:
        return
    plain: Callable[[str], str] = str.strip
    pairs = [(plain(tokenizer.decode([token])), plain(text)) for token, text in zip(ids[1:], texts[1:], strict=True)]
    known = [(ours, theirs) for ours, theirs in pairs if ours.isascii() and ours]
    other = [(ours, theirs) for ours, theirs in known if ours != theirs]
    if len(other) > OTHER_SPELLING * len(known):
        ours, theirs = other[0]
        raise SodError(
            f"{server.key}.model={server.model}: has other tokens than the student, e.g. {theirs!r} in place of "
            f"{ours!r}; name its tokenizer in {server.key}.tokenizer (docs/alignment.md), or serve another model"
        )


def _refuse_other_model(server: Server, now: Sequence[float], kept: Sequence[float]) -> None:
    away = float(np.abs(np.array(now) - np.array(kept)).mean())
    if away > OTHER_MODEL:
        raise SodError(
            f"{server.key}.model={server.model}: answers otherwise than the model of this name whose answers are in "
            f"{server.key}.cache ({away:.2f} nats/token on a short text); serve that one, or name another cache folder"
        )
