"""A teacher with another tokenizer, another chat template and another way of writing calls, and episodes for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from sod.alignment.pieces import pieces_of
from sod.chat.render import Chat
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.objective.batch import TokenBatch, pack
from sod.records import Group, Message, Task
from sod.teachers.translated import Reader
from sod.tools.python import SCHEMA
from support import played

TEMPLATE = """
{{- '<|im_start|>system\n' + (tools | tojson) + '\n<tool_call>\n<function=f>\n<|im_end|>\n' if tools }}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + m.content }}
{%- for c in m.tool_calls or [] %}
{{- ('\n\n' if loop.first and m.content else ('' if loop.first else '\n')) + '<tool_call>\n<function=' }}
{{- c.function.name + '>\n' }}
{%- for k, v in c.function.arguments | items %}
{{- '<parameter=' + k + '>\n' + (v if v is string else v | tojson) + '\n</parameter>\n' }}
{%- endfor %}
{{- '</function>\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\n' if add_generation_prompt }}"""
CALL = '<tool_call>\n{{"name": "python", "arguments": {{"code": "print({})"}}}}\n</tool_call>'
EPISODES = (
    (f"I add the two.\n{CALL.format('2 + 3')}", CALL.format("5 * 12 - 7"), "It is 53: \\boxed{53}"),
    (CALL.format("17 - 4 * 2"), "The caf\u00e9 has 9 seats \U0001f642."),
    ("\\boxed{5}",),
    ("<tool_call>\nprint(1)\n</tool_call>", "So it is 1."),  # a call that cannot be read
)
TASK = Task("t", (Message("user", "?"),), "5")


def other_tokenizer() -> Any:
    """One of other merges, whose words are longer, with the template above."""
    words = ["The two numbers: I add them, it is ", "print(seats) has the cafe", '{"arguments": "name"}', "boxed{"]
    tokenizer = train_tokenizer(words * 4, 340)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def other_model(tokenizer: Any, sharpness: float = 8.0) -> Any:
    """A random model of it, far from uniform."""
    model = new_qwen3(tokenizer, layers=2, hidden=32, heads=2, ffn=64, context=2048, seed=5).eval()
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(sharpness)
    return model


def other_reader() -> tuple[Reader, Any]:
    """How that model reads, and it."""
    tokenizer = other_tokenizer()
    return Reader(Chat(tokenizer, [SCHEMA]), pieces_of(tokenizer)), other_model(tokenizer)


def batch_of(chat: Chat, episodes: Sequence[Sequence[str]] = EPISODES) -> TokenBatch:
    """Episodes whose turns are sampled in the tokens that the chat's tokenizer makes of them, one group."""
    trajectories = [replace(played(chat, turns)[0], reward=float(n)) for n, turns in enumerate(episodes)]
    return pack([Group("t", tuple(trajectories))], tasks=[TASK])
