"""LFM2 and LFM2.5: a list of calls as Python writes them, between two marks. See `pythonic` for the rule."""

from __future__ import annotations

from sod.chat.dialects.marked import Marked, Thinking
from sod.chat.dialects.pythonic import Pythonic

LFM2 = Marked(
    "lfm2",
    Pythonic("<|tool_call_start|>", "<|tool_call_end|>"),
    words=("List of tools: ", "<|im_start|>"),
    thinking=Thinking(inside="", behind=""),
)
