"""What goes to the generate route of a vLLM server, and what comes back. Replies are checked, not trusted.

A turn is one request: token ids in, token ids and the log-probabilities of the distribution that they were drawn from
out. Its seed is a hash of the noise key and of the turn's first position, so that a turn that is sampled again, on
whichever server, has the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.engines.base import SampleRequest, Sampling
from sod.records import Fault, FaultKind, SodError
from sod.seeds import derive

GENERATE = "/inference/v1/generate"
MOST_BANNED = 1024
"""Tokens that a request can rule out: vLLM's limit of a `logit_bias`."""
BANNED = -100.0  # what is added to the logit of a row without a token; vLLM allows no more
TOP_OF_CHECK = 8  # tokens whose log-probabilities are asked for after a text
TEMPERATURES = 0.01, 2.0
"""Least and highest temperature besides 0: vLLM samples below as if it were the least, and refuses what is above."""
NOT_FINITE = -9000.0  # vLLM writes -9999 where a log-probability is no number


@final
@dataclass(frozen=True)
class Vocabulary:
    """What a turn may hold: the rows of the model's output embedding but the `banned`; at `stop_ids` it ends."""

    rows: int
    stop_ids: frozenset[int]
    banned: frozenset[int] = frozenset()


@final
@dataclass(frozen=True)
class Reply:
    """A turn as a server gave it, by weights that it calls `label`.

    `prompt_tokens` and `cached_tokens` are counted by a server with `--enable-prompt-tokens-details`, else 0.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    label: str
    prompt_tokens: int = 0
    cached_tokens: int = 0


def refuse_other_temperature(temperature: float, key: str) -> None:
    """Raises SodError, naming the recipe's `key`, for a temperature that vLLM does not sample at."""
    least, highest = TEMPERATURES
    if temperature and not least <= temperature <= highest:
        raise SodError(
            f"{key}: vLLM samples at temperatures from {least:g} to {highest:g}, and this is {temperature:g}; set "
            f"one of these{', or 0 (greedy)' if key.startswith('evaluation') else ''}, or engine.kind=torch"
        )


def turn_body(request: SampleRequest, sampling: Sampling, vocabulary: Vocabulary, label: str) -> dict[str, Any]:
    """The request for a turn. Prompts are cached under the weights' `label` alone."""
    return _body(request.token_ids, label) | {
        "sampling_params": _params(sampling, vocabulary)
        | {
            "max_tokens": request.max_new_tokens,
            "seed": derive(request.noise_key, "turn", len(request.token_ids)),
            "logprobs": 0,
        }
    }


def scored_body(
    token_ids: Sequence[int], sampling: Sampling, vocabulary: Vocabulary, label: str, top: int
) -> dict[str, Any]:
    """A request for the `top` most probable tokens after a text, by way of sampling one."""
    return _body(token_ids, label) | {
        "sampling_params": _params(sampling, vocabulary) | {"max_tokens": 1, "seed": 0, "logprobs": top}
    }


def _body(token_ids: Sequence[int], label: str) -> dict[str, Any]:
    """What all requests have in common."""
    return {"token_ids": list(token_ids), "cache_salt": label, "stream": False}


def _params(sampling: Sampling, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "detokenize": False,
        "ignore_eos": True,  # the model's own end tokens are not those that our turns end at
        "stop_token_ids": sorted(vocabulary.stop_ids),
        "logit_bias": dict.fromkeys(map(str, sorted(vocabulary.banned)), BANNED) or None,
    }


def read_turn(content: Any, request: SampleRequest, sampling: Sampling, vocabulary: Vocabulary) -> Reply | Fault:
    """The turn in a reply; a fault where it is none."""
    try:
        choice = content["choices"][0]
        token_ids = tuple(choice["token_ids"])
        logps = _logps(choice, token_ids)
        label = _label(choice)
        reason = choice["finish_reason"]
        prompt_tokens, cached_tokens = _counted(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return Fault(FaultKind.BAD_REPLY, f"no reply of {GENERATE}: {type(error).__name__}: {error}")
    wrong = _wrong(token_ids, request, vocabulary, reason)
    if wrong is not None:
        return Fault(FaultKind.BAD_REPLY, wrong)
    if sampling.temperature == 0.0:
        logps = (0.0,) * len(logps)  # greedy decoding is a point mass; the server tells of what it chose from
    return Reply(token_ids, logps, label, prompt_tokens, cached_tokens)


def read_top(content: Any) -> dict[int, float] | Fault:
    """The tokens with their log-probabilities in the reply to a `scored_body`."""
    try:
        (position,) = content["choices"][0]["logprobs"]["content"]
        return {_whole(entry["token_id"]): float(entry["logprob"]) for entry in [position, *position["top_logprobs"]]}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return Fault(FaultKind.BAD_REPLY, f"no reply of {GENERATE}: {type(error).__name__}: {error}")


def _logps(choice: Any, token_ids: Sequence[int]) -> tuple[float, ...]:
    """The log-probabilities of the tokens. Raises ValueError where they are of others."""
    entries = choice["logprobs"]["content"] or []
    if [entry["token_id"] for entry in entries] != list(token_ids):
        raise ValueError("log-probabilities of other tokens than those sampled")
    return tuple(float(entry["logprob"]) for entry in entries)


def _label(choice: Any) -> str:
    """The weights that all of a turn was sampled with. Raises ValueError for several, or none."""
    (span,) = choice["weight_versions"]
    return str(span["version"])


def _counted(content: Any) -> tuple[int, int]:
    """Tokens of the prompt and those of them that were cached, where the server says so."""
    usage = content.get("usage") or {}
    details = usage.get("prompt_tokens_details")
    if details is None:
        return 0, 0
    return _whole(usage["prompt_tokens"]), _whole(details["cached_tokens"] or 0)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _wrong(token_ids: tuple[int, ...], request: SampleRequest, vocabulary: Vocabulary, reason: Any) -> str | None:
    """What cannot be in a turn of this request; None where nothing is."""
    if reason not in ("stop", "length"):
        return f"the turn ended by {reason!r}"
    if not token_ids or len(token_ids) > request.max_new_tokens:
        return f"{len(token_ids)} tokens where 1 to {request.max_new_tokens} were asked for"
    for token_id in token_ids:
        if type(token_id) is not int or not 0 <= token_id < vocabulary.rows or token_id in vocabulary.banned:
            return f"token {token_id!r}, which the student's tokenizer does not have"
    if any(token_id in vocabulary.stop_ids for token_id in token_ids[:-1]):
        return "the turn went on after a token to stop at"
    if token_ids[-1] not in vocabulary.stop_ids and len(token_ids) < request.max_new_tokens:
        return f"the turn ended after {len(token_ids)} tokens, of {request.max_new_tokens}, without a token to stop at"
    return None


def not_finite(logps: Sequence[float]) -> bool:
    """Whether log-probabilities show that the model's logits were no numbers."""
    return not all(math.isfinite(logp) and logp > NOT_FINITE for logp in logps)
