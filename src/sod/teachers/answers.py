"""What a server is asked about a row of tokens, and what it answers, in the forms there are.

prompt_logprobs  vLLM's own field of `/completions`: for each token of the prompt a mapping of token id to its
                 log-probability, the k most probable ones and the token itself
generate         SGLang's own address, beside `/v1`: lists of [log-probability, token id], of the input and of the k
                 most probable ones
echo             OpenAI's: the prompt is said again, with the log-probabilities of its tokens; as token ids where the
                 server can write them so (vLLM's `return_tokens_as_token_ids`), else as text, which names no token:
                 of the most probable ones nothing is known then, as several may be spelled alike
echo_text        the same for a server that refuses fields that OpenAI does not have

An answer is untrusted: one of another length, about other tokens, or with what is no log-probability raises ValueError;
one that is no completion at all, as if it were cut short, `GarbledError`.

Legend: T tokens of the row, K the most probable ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

Form = Literal["prompt_logprobs", "generate", "echo", "echo_text"]
FORMS: tuple[Form, ...] = get_args(Form)
LOWEST = -9_000.0  # nats: servers write -9999 for minus infinity, and no two logits of a model lie so far apart
HIGHEST = 1e-3  # rounding may end above 0
MOST_TOGETHER = 1.02  # of the probabilities at a place, rounded to bfloat16
BYTES_PER_TOKEN = 400  # of an answer, for each log-probability in it; vLLM writes about 70 and the token's text
PLAIN_BYTES = 1 << 20  # of an answer, whatever its length
_AS_ID = "token_id:"
_ENTRIES: Mapping[Form, str] = {
    "prompt_logprobs": "prompt_logprobs",
    "generate": "input_token_logprobs",
    "echo": "logprobs",
    "echo_text": "logprobs",
}


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


def address(form: Form) -> str:
    """Where a form is asked for, from the url up to `/v1` on."""
    return "../generate" if form == "generate" else "completions"


def request_body(form: Form, model: str, ids: Sequence[int], k: int, spelled: bool = False) -> dict[str, Any]:
    """The request for the log-probabilities of `ids`, and of the `k` most probable tokens at each place.

    `spelled` asks for tokens as text where they come as ids else. One token is generated too, as some servers take 0
    for no limit.
    """
    if form == "generate":
        sampling = {"max_new_tokens": 1, "temperature": 1.0}
        asked = {"input_ids": list(ids), "sampling_params": sampling, "return_logprob": True, "logprob_start_len": 0}
        asked |= {"top_logprobs_num": k, "return_text_in_logprobs": spelled}
        _, _, adapter = model.partition(":")  # SGLang names an adapter so
        return asked | {"lora_path": adapter} if adapter else asked
    asked = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "n": 1}
    if form == "prompt_logprobs":
        return asked | {"prompt_logprobs": k, "return_token_ids": True}
    asked |= {"echo": True, "logprobs": k}
    return asked if form == "echo_text" else asked | {"return_tokens_as_token_ids": not spelled}


def most_bytes(tokens: int, k: int) -> int:
    """How long an answer may be."""
    return PLAIN_BYTES + BYTES_PER_TOKEN * tokens * (k + 2)


def read_answer(form: Form, reply: bytes, ids: Sequence[int], k: int) -> Answer:
    """The answer about a row. Raises ValueError for one that is none, or is not about these tokens."""
    try:
        content = json.loads(reply)
        choice = content["meta_info"] if form == "generate" else content["choices"][0]
        usage = choice if form == "generate" else content.get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens")
        given = choice.get("prompt_token_ids")
        entries = choice.get(_ENTRIES[form])
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        if reply.lstrip().startswith(b"<"):
            raise ValueError("a web page") from None
        raise GarbledError("no completion") from None
    if type(prompt_tokens) is int and prompt_tokens != len(ids):
        raise ValueError(_length(prompt_tokens, len(ids)))
    if given is not None and given != list(ids):
        raise ValueError("other tokens than those that were sent")
    if entries is None:
        raise ValueError("no log-probabilities of the prompt")
    try:
        if form == "prompt_logprobs":
            answer = _of_mappings(entries, ids, k)
        elif form == "generate":
            answer = _of_pairs(entries, choice.get("input_top_logprobs") or (), ids, k)
        else:
            answer = _of_echo(entries, ids, k)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("log-probabilities in another form than was asked for") from None
    _refuse_no_distribution(answer)
    return answer


def _of_mappings(entries: Sequence[Mapping[str, Any] | None], ids: Sequence[int], k: int) -> Answer:
    if len(entries) != len(ids):
        raise ValueError(_length(len(entries), len(ids)))
    answer = _blank(len(ids), k)
    texts = [""]
    for place, (token, entry) in enumerate(zip(ids, entries, strict=True)):
        if place == 0:
            _refuse_first(entry)
            continue
        own = None if entry is None else entry.get(str(token))
        if entry is None or own is None:
            raise ValueError(f"no log-probability of token {token} at place {place}: another model's tokens")
        answer.logp_T[place] = _logp(own["logprob"], place)
        texts.append(str(own.get("decoded_token") or ""))
        if k:
            _put_best(answer, place, {int(name): one["logprob"] for name, one in entry.items()}, k)
    return Answer(answer.logp_T, answer.id_TK, answer.best_TK, tuple(texts) if any(texts) else ())


def _of_pairs(
    entries: Sequence[Sequence[Any]], best: Sequence[Sequence[Any] | None], ids: Sequence[int], k: int
) -> Answer:
    if len(entries) != len(ids):
        raise ValueError(_length(len(entries), len(ids)))
    if [entry[1] for entry in entries] != list(ids):
        raise ValueError("other tokens than those that were sent")
    _refuse_first(entries[0][0])
    answer = _blank(len(ids), k)
    for place in range(1, len(ids)):
        answer.logp_T[place] = _logp(entries[place][0], place)
        if k:
            _put_best(answer, place, {int(one[1]): one[0] for one in best[place] or ()}, k)
    texts = tuple(str(entry[2] or "") if len(entry) > 2 else "" for entry in entries)
    return Answer(answer.logp_T, answer.id_TK, answer.best_TK, texts if any(texts) else ())


def _of_echo(entries: Mapping[str, Any], ids: Sequence[int], k: int) -> Answer:
    logps, tokens = entries["token_logprobs"], entries["tokens"]
    if len(logps) not in (len(ids), len(ids) + 1) or len(tokens) != len(logps):
        raise ValueError(_length(len(logps), len(ids)))
    _refuse_first(logps[0])
    as_ids = all(str(token).startswith(_AS_ID) for token in tokens)
    named = [_id_in(token) for token in tokens] if as_ids else entries.get("token_ids")
    if named is not None and list(named[: len(ids)]) != list(ids):
        raise ValueError("other tokens than those that were sent")
    answer = _blank(len(ids), k if as_ids else 0)
    for place in range(1, len(ids)):
        answer.logp_T[place] = _logp(logps[place], place)
        if k and as_ids:
            best = entries["top_logprobs"][place]
            _put_best(answer, place, {_id_in(name): logp for name, logp in best.items()}, k)
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


def _refuse_first(value: Any) -> None:
    """A first token has no log-probability: null, or 0 as some servers fill the place."""
    if value:
        raise ValueError("a log-probability of the first token: the server puts a token before it")


def _refuse_no_distribution(answer: Answer) -> None:
    """Raises ValueError where the most probable tokens have more than all probability together, as logits would."""
    if not answer.best_TK.size:
        return
    most = float(np.exp(answer.best_TK[1:].astype(np.float64)).sum(1).max(initial=0.0))
    if most > MOST_TOGETHER:
        raise ValueError(f"the most probable tokens have a probability of {most:.2f} together: no log-probabilities")


def _id_in(name: str) -> int:
    return int(name.removeprefix(_AS_ID))


def _length(got: int, sent: int) -> str:
    added = ": the server puts a token (BOS) before the prompt" if got == sent + 1 else ""
    return f"{got} log-probabilities for {sent} tokens{added}"
