"""What a server is asked about a row of tokens, and what it answers, in the two forms there are.

prompt_logprobs  vLLM's own field of `/completions`: for each token of the prompt a mapping of token id to its
                 log-probability, the k most probable ones and the token itself
echo             OpenAI's: the prompt is said again, with the log-probabilities of its tokens; as token ids where the
                 server can write them so (vLLM's `return_tokens_as_token_ids`), else as text, which names no token:
                 of the most probable ones nothing is known then, as several may be spelled alike

An answer is untrusted: one of another length, about other tokens, or with what is no log-probability raises ValueError;
one that is no completion at all, as if it were cut short, `GarbledError`.

Legend: T tokens of the row, K the most probable ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

Form = Literal["prompt_logprobs", "echo"]
FORMS: tuple[Form, ...] = ("prompt_logprobs", "echo")
LOWEST = -9_000.0  # nats: servers write -9999 for minus infinity, and no two logits of a model lie so far apart
HIGHEST = 1e-3  # rounding may end above 0
BYTES_PER_TOKEN = 400  # of an answer, for each log-probability in it; vLLM writes about 70 and the token's text
PLAIN_BYTES = 1 << 20  # of an answer, whatever its length
_AS_ID = "token_id:"


class GarbledError(ValueError):
    """An answer that is not even a completion; another one may be."""


@final
@dataclass(frozen=True)
class Answer:
    """What a server said of a row. Entry `t` is of token `t` given those before it; entry 0 means nothing.

    logp_T   float32, nats: of the row's own tokens
    id_TK    int64: the k most probable tokens, the most probable first; none (K = 0) where they come as text
    best_TK  float32, nats: their log-probabilities
    text_T   the tokens as the server spells them, empty where it does not
    """

    logp_T: NDArray[np.float32]
    id_TK: NDArray[np.int64]
    best_TK: NDArray[np.float32]
    text_T: tuple[str, ...] = ()


def request_body(form: Form, model: str, ids: Sequence[int], k: int, as_ids: bool = True) -> dict[str, Any]:
    """The request for the log-probabilities of `ids`, and of the `k` most probable tokens at each place.

    One token is generated too, as some servers take 0 for no limit.
    """
    asked: dict[str, Any] = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "n": 1}
    if form == "prompt_logprobs":
        return asked | {"prompt_logprobs": k, "return_token_ids": True}
    return asked | {"echo": True, "logprobs": k, "return_tokens_as_token_ids": as_ids}


def most_bytes(tokens: int, k: int) -> int:
    """How long an answer may be."""
    return PLAIN_BYTES + BYTES_PER_TOKEN * tokens * (k + 2)


def read_answer(form: Form, reply: bytes, ids: Sequence[int], k: int) -> Answer:
    """The answer about a row. Raises ValueError for one that is none, or is not about these tokens."""
    try:
        content = json.loads(reply)
        choice = content["choices"][0]
        usage = content.get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens")
        given = choice.get("prompt_token_ids")
        entries = choice.get("prompt_logprobs" if form == "prompt_logprobs" else "logprobs")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise GarbledError("no completion") from None
    if type(prompt_tokens) is int and prompt_tokens != len(ids):
        raise ValueError(_length(prompt_tokens, len(ids)))
    if given is not None and given != list(ids):
        raise ValueError("other tokens than those that were sent")
    if entries is None:
        raise ValueError("no log-probabilities of the prompt")
    try:
        return _of_mappings(entries, ids, k) if form == "prompt_logprobs" else _of_echo(entries, ids, k)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("log-probabilities in another form than was asked for") from None


def _of_mappings(entries: Sequence[Mapping[str, Any] | None], ids: Sequence[int], k: int) -> Answer:
    if len(entries) != len(ids):
        raise ValueError(_length(len(entries), len(ids)))
    answer = _blank(len(ids), k)
    texts = [""]
    for place, (token, entry) in enumerate(zip(ids, entries, strict=True)):
        if place == 0:
            if entry is not None:
                raise ValueError("a log-probability of the first token: the server puts a token before it")
            continue
        own = None if entry is None else entry.get(str(token))
        if entry is None or own is None:
            raise ValueError(f"no log-probability of token {token} at place {place}: another model's tokens")
        answer.logp_T[place] = _logp(own["logprob"], place)
        texts.append(str(own.get("decoded_token") or ""))
        if k:
            _put_best(answer, place, {int(name): one["logprob"] for name, one in entry.items()}, k)
    return Answer(answer.logp_T, answer.id_TK, answer.best_TK, tuple(texts) if any(texts) else ())


def _of_echo(entries: Mapping[str, Any], ids: Sequence[int], k: int) -> Answer:
    logps, tokens, best = entries["token_logprobs"], entries["tokens"], entries["top_logprobs"] if k else ()
    if len(logps) not in (len(ids), len(ids) + 1) or len(tokens) != len(logps):
        raise ValueError(_length(len(logps), len(ids)))
    if logps[0] is not None:
        raise ValueError("a log-probability of the first token: the server puts a token before it")
    as_ids = all(str(token).startswith(_AS_ID) for token in tokens)
    if as_ids and [_id_in(token) for token in tokens[: len(ids)]] != list(ids):
        raise ValueError("other tokens than those that were sent")
    answer = _blank(len(ids), k if as_ids else 0)
    for place in range(1, len(ids)):
        answer.logp_T[place] = _logp(logps[place], place)
        if k and as_ids:
            _put_best(answer, place, {_id_in(name): logp for name, logp in best[place].items()}, k)
    texts = () if as_ids else tuple(str(token or "") for token in tokens[: len(ids)])
    return Answer(answer.logp_T, answer.id_TK, answer.best_TK, texts if any(texts) else ())


def _blank(tokens: int, k: int) -> Answer:
    return Answer(np.zeros(tokens, np.float32), np.full((tokens, k), -1, np.int64), np.zeros((tokens, k), np.float32))


def _put_best(answer: Answer, place: int, logps: Mapping[int, float], k: int) -> None:
    """The k most probable of the tokens at a place; the token itself may be one more."""
    best = sorted(((_logp(logp, place), token) for token, logp in logps.items()), key=lambda one: (-one[0], one[1]))
    if len(best) < k:
        raise ValueError(f"{len(best)} of the {k} most probable tokens at place {place}")
    for column, (logp, token) in enumerate(best[:k]):
        answer.best_TK[place, column], answer.id_TK[place, column] = logp, token


def _logp(value: Any, place: int) -> float:
    """A log-probability, rounded to at most 0. Raises ValueError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} at place {place} is no log-probability")
    if not LOWEST <= value <= HIGHEST:
        raise ValueError(f"{value:g} at place {place} is no log-probability")
    return min(0.0, float(value))


def _id_in(name: str) -> int:
    return int(name.removeprefix(_AS_ID))


def _length(got: int, sent: int) -> str:
    added = ": the server puts a token (BOS) before the prompt" if got == sent + 1 else ""
    return f"{got} log-probabilities for {sent} tokens{added}"
