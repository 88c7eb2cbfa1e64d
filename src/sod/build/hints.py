"""Hints for tasks written by a model, from each task and its reference solution."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sod.chat.render import Chat
from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.choice import choose_engine
from sod.models.device import find_device
from sod.models.length import context_bounds
from sod.models.load import load_model, load_tokenizer
from sod.records import Message
from sod.report.console import notice
from sod.seeds import derive
from sod.tasks.hints import HintMaker, NoHint, Posed, states_answer

ROWS = 32  # hints that are written side by side

WORDING = """\
A student is to solve this task:

{task}

{known}

Write a hint for the student: one to three sentences on how to begin and on the idea that leads to the solution. \
Do not state the answer, nor any result on the way to it, and do not write the solution down. \
Reply with the hint alone."""


def model_hints(path: str, max_tokens: int, temperature: float, seed: int) -> HintMaker:
    """A `HintMaker` that asks the model at `path`, loaded as it is asked, in bfloat16; `temperature` 0 is greedy.

    No hint comes of a reply that states the answer, is cut off at `max_tokens`, holds a program or says nothing, nor
    for a task too long for the model. The maker raises SodError where the model cannot be loaded or sampled from.
    """

    def make(rows: Sequence[Posed]) -> list[str | NoHint]:
        chat = Chat(load_tokenizer(path), template_kwargs={"enable_thinking": False})
        model = load_model(path, "bfloat16", device=find_device("auto", "--model"))
        longest = min((bound.tokens for bound in context_bounds(model.config)), default=sys.maxsize)
        sampling = Sampling(temperature)
        prompts = {one.row: chat.prompt_ids(asked(one)) for one in rows}
        fitting = [one for one in rows if len(prompts[one.row]) + max_tokens <= longest]
        reaching = max((len(prompts[one.row]) + max_tokens for one in fitting), default=0)
        engine = choose_engine(model, chat.stop_ids, reaching, notice, ROWS)
        said: dict[int, Sampled] = {}
        for start in range(0, len(fitting), ROWS):
            some = fitting[start : start + ROWS]
            requests = [_request(one, prompts[one.row], max_tokens, seed) for one in some]
            said |= zip((one.row for one in some), engine.generate(requests, sampling), strict=True)
            engine.forget(request.session for request in requests)
        return [read_hint(one, said.get(one.row), chat) for one in rows]

    return make


def asked(posed: Posed) -> list[Message]:
    """The messages in which a model is asked for the hint of a task. The wording is ours."""
    task = "\n\n".join(message.content for message in posed.task.prompt if message.role == "user")
    known = f"The answer is: {posed.task.ground_truth}"
    if posed.reference:
        known = f"This is a solution of it, which the student does not know:\n\n{posed.reference}"
    return [Message("user", WORDING.format(task=task, known=known))]


def _request(posed: Posed, prompt_ids: Sequence[int], max_tokens: int, seed: int) -> SampleRequest:
    return SampleRequest(f"hint-{posed.row}", prompt_ids, max_tokens, derive(seed, "hint", posed.task.id))


def read_hint(posed: Posed, sampled: Sampled | None, chat: Chat) -> str | NoHint:
    """What a reply is worth as a hint."""
    if sampled is None:
        return NoHint("task and solution are too long for the model")
    if not sampled.stopped:
        return NoHint("the model's hint is cut off at --max-tokens")
    hint = chat.parse(sampled.token_ids).answer.strip()
    if not hint:
        return NoHint("the model said nothing")
    if "```" in hint:
        return NoHint("the model's hint holds a program")
    return NoHint("the model's hint states the answer") if states_answer(hint, posed) else hint
