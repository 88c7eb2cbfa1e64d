"""Families that write their calls in JSON behind a mark or between two: see `listed` for the rule."""

from __future__ import annotations

from sod.chat.dialects.listed import Listed
from sod.chat.dialects.marked import Marked, Thinking

GRANITE3 = Marked("granite3", Listed("<|tool_call|>"), words=("<|tool_call|>",), others=("<|/tool_call|>",))
TOOL_CALLS = Marked("tool-calls", Listed("<tool_calls>", "</tool_calls>"), words=("<tool_calls>[",))
APRIEL = Marked(
    "apriel",
    Listed("<tool_calls>", "</tool_calls>", ids=True, lead="\n"),
    words=("<tool_calls>[", "[BEGIN FINAL RESPONSE]"),
    thinking=Thinking("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", behind="\n"),
)
MINIMAX_M1 = Marked(
    "minimax-m1",
    Listed("<tool_calls>", "</tool_calls>", brackets=("\n", "\n"), separator="\n", lead="\n"),
    words=("<tool_calls>\\n{", "<beginning_of_sentence>"),
)
NEMOTRON_NANO_2 = Marked(
    "nemotron-nano-2", Listed("<TOOLCALL>", "</TOOLCALL>", lead="\n"), words=("<TOOLCALL>", "</TOOLCALL>")
)
GRANITE_20B = Marked(
    "granite-20b",
    Listed("<function_call>", brackets=(" ", ""), separator="\n<function_call> "),
    words=("<function_call> ", "<|function_call_library|>"),
)
GIGACHAT3_1 = Marked(
    "gigachat3.1", Listed("<|function_call|>", brackets=("", ""), separator="\n"), words=("<|function_call|>",)
)
INTERNLM2 = Marked(
    "internlm2",
    Listed(
        "<|action_start|><|plugin|>",
        "<|action_end|>",
        brackets=("\n", ""),
        separator="<|action_end|><|action_start|><|plugin|>\n",
    ),
    words=("<|action_start|><|plugin|>", "<|action_end|>"),
)
# The end of the list is the end of the turn, too: one of the tokens that end what Apertus samples.
APERTUS = Marked(
    "apertus",
    Listed("<|tools_prefix|>", keys=None),
    words=("<|tools_prefix|>", "<|tools_suffix|>"),
    thinking=Thinking("<|inner_prefix|>", "<|inner_suffix|>", inside="", behind=""),
)


def _cohere(name: str, answer: str) -> Marked:
    return Marked(
        name,
        Listed(
            "<|START_ACTION|>",
            "<|END_ACTION|>",
            brackets=("[\n    ", "\n]"),
            separator=",\n    ",
            keys=("tool_name", "parameters"),
            number="tool_call_id",
        ),
        words=("<|START_ACTION|>", f"<|START_{answer}|>"),
        thinking=Thinking("<|START_THINKING|>", "<|END_THINKING|>", inside="", behind=""),
        answer=(f"<|START_{answer}|>", f"<|END_{answer}|>"),
    )


COHERE_R7B = _cohere("cohere-r7b", "RESPONSE")
COHERE_MOE = _cohere("cohere-moe", "TEXT")
