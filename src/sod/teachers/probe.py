"""What a server offers, found out before a run loads weights, and whether its tokens are the ones that we send.

It is asked for the log-probabilities of a short text, in each form until one works (`answers.py`), and as many of the
most probable tokens as the method needs; then how it spells the tokenizer's control tokens. What is found is kept in
the cache: a run whose server is gone goes on with what the cache has. The probe's answer is kept too: a server that
answers otherwise than the one that filled the cache serves another model under the same name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import httpx

from sod.asynchronous import loop_thread
from sod.recipe import Notice
from sod.records import Fault, FaultKind, SodError
from sod.service import DENIED_CODES
from sod.teachers.answers import FORMS, Answer, Form
from sod.teachers.score_cache import row_key
from sod.teachers.server import Offered, Proof, Server

TEXT = "The quick brown fox jumps over 13 lazy dogs; then print(2 + 3 * 7) gives 23, and nothing else happens."
FEWER = (20, 5, 1, 0)
"""Numbers of most probable tokens that are tried where as many as are needed are refused."""
ATTEMPTS = 3  # of each form: some servers answer what they do not know with HTTP 500
CONTROL_TOKENS = 128  # at most, whose spelling is asked for
NAMES_SHOWN = 10  # of the models that a server has
BUSY_CODES = (408, 429, 502, 503, 504)
REFUSALS = (400, 422)  # HTTP codes of a request that asks for too much
OTHER_SPELLING = 0.1  # the share of plain tokens that a tokenizer of the same vocabulary may spell otherwise


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
        server.expect(Proof(ids, kept[1], kept[0]))
        notice(
            f"{server.key}.url={server.spec.url}: {models}; going on with the answers in {server.key}.cache, and what "
            "is not there is a fault of its trajectory"
        )
        return kept[0]
    longest = _longest(server, models)
    offered, answer = loop_thread().run(_tried(server, ids, wanted_k, longest))
    texts = answer.text_T or loop_thread().run(_texts(server, ids, offered))
    if not texts:
        notice(
            f"{server.key}.url={server.spec.url}: does not say how its tokens are spelled; see to it that "
            f"{server.model} has the student's tokenizer"
        )
    _refuse_other_tokens(server, tokenizer, ids, texts)
    loop_thread().run(_refuse_other_control_tokens(server, tokenizer, ids[:1], offered))
    logps = [float(logp) for logp in answer.logp_T]
    if kept is not None:
        Proof(ids, kept[1], offered).refuse_other(logps, server)
    else:
        server.cache.put(key, json.dumps([vars(offered), logps]).encode())
    server.expect(Proof(ids, logps, offered), proven=True)
    return offered


def _kept(server: Server, key: bytes) -> tuple[Offered, list[float]] | None:
    """What the cache knows; None for nothing, and for what a damaged disk made of it."""
    try:
        offered, logps = json.loads(server.cache.get(key) or b"null")
        return Offered(**offered), [float(logp) for logp in logps]
    except (ValueError, TypeError):
        return None


async def _models(server: Server) -> httpx.Response | str:
    """The server's list of models, whatever that is; or why nobody answers at the url.

    Raises SodError where the url is that of another address.
    """
    try:
        response = await server.service.get("models")
    except httpx.HTTPError as error:
        return f"cannot be reached ({server.service.why(error)})"
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:  # a proxy before a server that is not there
        return f"answers HTTP {response.status_code}"
    if response.is_redirect:
        there = str(response.next_request.url).removesuffix("/models") if response.next_request else "elsewhere"
        raise SodError(f"{server.key}.url={server.spec.url}: redirects to {there}; set the url to that")
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
    name = server.model if server.model in rows else server.model.partition(":")[0]  # SGLang: base:adapter
    if rows and name not in rows:
        if any("*" in name for name in rows):  # a router's pattern
            return own
        near = get_close_matches(server.model, rows, NAMES_SHOWN, 0.0)
        more = f" and {len(rows) - len(near)} more" if len(rows) > len(near) else ""
        raise SodError(
            f"{server.key}.model={server.model}: {server.spec.url} serves {', '.join(near)}{more}; take one of these"
        )
    said = rows[name].get("max_model_len") if rows else None
    # One token is generated for each request.
    limits = [limit for limit in (own, said - 1 if type(said) is int else None) if limit is not None]
    return min(limits, default=None)


async def _tried(server: Server, ids: Sequence[int], wanted: int, longest: int | None) -> tuple[Offered, Answer]:
    """The form that gives most of the most probable tokens, up to `wanted`, the first of several; and its answer."""
    refusals: list[str] = []
    found: list[tuple[Offered, Answer]] = []
    for form in FORMS:
        answer, asked = await _in_form(server, ids, wanted, form)
        if isinstance(answer, Answer):
            given = answer.id_TK.shape[1]
            found.append((Offered(form, given, longest, asked if wanted == 0 else 0), answer))
            if given >= wanted:
                break
        else:
            refusals.append(f"{form}: {_reason(answer, server)}")
    if found:
        return max(found, key=lambda one: one[0].largest_k)
    beside = "generate: "  # another address, which most servers do not have
    unknown = any("HTTP 404" in refusal for refusal in refusals if not refusal.startswith(beside))
    prefix = "a url goes up to /v1; " if unknown else ""
    raise SodError(
        f"{server.key}.url={server.spec.url}: gives no log-probabilities of given tokens ({'; '.join(refusals)}); "
        f"{prefix}serve the teacher by vLLM or SGLang, which do, or load it here with teacher.path"
    )


async def _in_form(server: Server, ids: Sequence[int], wanted: int, form: Form) -> tuple[Answer | Fault, int]:
    """The answer in a form, with as many of the most probable tokens as it gives up to `wanted`; and how many it was
    asked for.

    Of a server that takes 0 for no log-probabilities with 1. Raises SodError where it is the server, not the form;
    what is beside the url may be closed, or another's.
    """
    for k in [wanted, *(fewer for fewer in FEWER if fewer < wanted)] if wanted else [0, 1]:
        answer = await server.asked(ids, k, form, attempts=ATTEMPTS)
        if isinstance(answer, Answer):
            break
        code = _code_of(answer)
        away = answer.kind in (FaultKind.UNREACHABLE, FaultKind.TIMEOUT) or code in {*DENIED_CODES, *BUSY_CODES}
        if away and form != "generate":
            raise SodError(answer.detail)
        if wanted and code not in REFUSALS:
            break  # it is no question of how many
    return answer, k


def _code_of(fault: Fault) -> int | None:
    """The HTTP code that a fault tells of."""
    found = re.search(r": HTTP (\d{3}):", fault.detail)
    return int(found[1]) if found else None


def _reason(fault: Fault, server: Server) -> str:
    return fault.detail.removeprefix(f"{server.key}: {server.spec.url}: ")


async def _texts(server: Server, ids: Sequence[int], offered: Offered) -> tuple[str, ...]:
    """The tokens as the server spells them; empty where it does not say."""
    if offered.form == "prompt_logprobs":  # it has said what it would
        return ()
    answer = await server.asked(ids, offered.least_k, offered.form, spelled=True, attempts=ATTEMPTS)
    return answer.text_T if isinstance(answer, Answer) else ()


def _refuse_other_tokens(server: Server, tokenizer: Any, ids: Sequence[int], texts: Sequence[str]) -> None:
    """Raises SodError where the server spells the tokens otherwise than our tokenizer."""
    if not texts:
        return
    pairs = [(_plain(tokenizer.decode([token])), _plain(text)) for token, text in zip(ids[1:], texts[1:], strict=True)]
    known = [(ours, theirs) for ours, theirs in pairs if ours.isascii() and ours]
    other = [(ours, theirs) for ours, theirs in known if ours != theirs]
    if len(other) > OTHER_SPELLING * len(known):
        raise SodError(_other_tokens(server, *other[0]))


async def _refuse_other_control_tokens(server: Server, tokenizer: Any, before: Sequence[int], offered: Offered) -> None:
    """Raises SodError where control tokens are others: of one family, models may share all tokens but these."""
    control = sorted(tokenizer.added_tokens_decoder)[:CONTROL_TOKENS]
    if not control:
        return
    answer = await server.asked([*before, *control], offered.least_k, offered.form, spelled=True, attempts=ATTEMPTS)
    if isinstance(answer, Fault):
        if _code_of(answer) in REFUSALS:
            raise SodError(
                f"{server.key}.model={server.model}: does not take the student's control tokens "
                f"({_reason(answer, server)}); serve a model of the same tokenizer, or name its own in "
                f"{server.key}.tokenizer (docs/alignment.md)"
            )
        return
    for token, text in zip(control, answer.text_T[len(before) :], strict=False):
        ours = tokenizer.decode([token])
        if text.strip() and text.strip() != ours.strip():
            raise SodError(_other_tokens(server, ours, text))


def _plain(text: str) -> str:
    """A token's text without the spaces around it, in whichever way they are written."""
    return text.strip(" \t\n\u0120\u2581")


def _other_tokens(server: Server, ours: str, theirs: str) -> str:
    return (
        f"{server.key}.model={server.model}: has other tokens than the student, e.g. {theirs!r} in place of "
        f"{ours!r}; name its tokenizer in {server.key}.tokenizer (docs/alignment.md), or serve another model"
    )
