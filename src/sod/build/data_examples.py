"""Small rows of every shape that is read, and of some that are refused: what `docs/data.md` shows and its test loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

Row = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Example:
    """A row under a title; `settings` are the recipe's keys that it takes, `sft` whether it is a conversation."""

    title: str
    row: Row
    settings: Mapping[str, Any] = field(default_factory=dict)
    sft: bool = False


CODE = {"type": "object", "properties": {"code": {"type": "string"}}}
CALL = {"type": "function", "function": {"name": "python", "arguments": '{"code": "print(17*23)"}'}}
PYTHON = {"type": "function", "function": {"name": "python", "description": "runs code", "parameters": CODE}}
ASKS = {"role": "user", "content": "What is 17*23?"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "391"}
SAYS = {"role": "assistant", "content": "It is 391."}

TASKS: Sequence[Example] = (
    Example(
        "verl, DAPO, Open-AgentRL: messages and a truth in `reward_model`",
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": 'What is 17*23? Output the final answer after "####".'}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "391"},
            "extra_info": {"index": 7},
        },
    ),
)
CONVERSATIONS: Sequence[Example] = (
    Example("OpenAI: `messages` and `tools`", {"messages": [ASKS, CALLS, RESULT, SAYS], "tools": [PYTHON]}, sft=True),
)
REFUSED: Sequence[Example] = (Example("a task without a truth", {"prompt": [ASKS], "reward_model": {"style": "rule"}}),)
