"""Prompts that a chat template has been put around already, in ChatML's marks (TinyZero, Search-R1, Qwen2.5-Math)."""

from __future__ import annotations

import re

from sod.tasks.formats.base import BadRowError, Row

_START = "<|im_start|>"
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL)


def chatml_or_none(text: str) -> list[Row] | None:
    """The messages of such a prompt; None for a prompt that is simply text.

    Raises BadRowError for one that begins the answer: a template that is put around messages cannot go on with it.
    """
    if not text.lstrip().startswith(_START):
        return None
    turns = [{"role": turn[1], "content": turn[2]} for turn in _TURN.finditer(text)]
    if not turns:
        return None
    open_answer = turns[-1]["role"] == "assistant" and not text.rstrip().endswith("<|im_end|>")
    if open_answer and turns[-1]["content"].strip():
        raise BadRowError(f"its prompt is ChatML that begins the answer: {turns[-1]['content'].strip()[:40]!r}")
    return turns[:-1] if open_answer else turns
