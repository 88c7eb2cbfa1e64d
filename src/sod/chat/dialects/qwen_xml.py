"""Qwen3-Coder's and Qwen3.5's calls, which Nemotron 3 and Step 3.5 write as well; and Seed-OSS's, with other marks.

`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`; see `tagged` for the rule.
"""

from __future__ import annotations

from dataclasses import replace

from sod.chat.dialects.marked import Marked, Thinking
from sod.chat.dialects.tagged import Tags

_TAGS = Tags(
    head="<tool_call>\n<function={name}>\n",
    argument="<parameter={key}>\n{value}\n</parameter>\n",
    tail="</function>\n</tool_call>",
    lead="\n\n",
    python_words=True,
)
_WORDS = ("<tool_call>", "<function=", "<parameter=")
_NEMOTRON, _STEP = "truncate_history_thinking", "<|im_start|>tool_response"
QWEN_XML = Marked("qwen-xml", _TAGS, _WORDS, others=(_NEMOTRON, _STEP))

# The same with other line breaks, which tells what their models write from what ours would.
NEMOTRON3 = Marked(
    "nemotron3",
    replace(_TAGS, tail=_TAGS.tail + "\n", lead="\n", between=""),
    words=(*_WORDS, _NEMOTRON),
    thinking=Thinking(behind="\n"),
)
STEP3_5 = Marked("step3.5", replace(_TAGS, lead="", between=""), words=(*_WORDS, _STEP), thinking=Thinking(behind="\n"))

SEED_OSS = Marked(
    "seed-oss",
    Tags(
        head="<seed:tool_call>\n<function={name}>\n",
        argument="<parameter={key}>{value}</parameter>\n",
        tail="</function>\n</seed:tool_call>",
        python_words=True,
    ),
    words=("<seed:tool_call>", "<function=", "<parameter="),
    thinking=Thinking("<seed:think>", "</seed:think>", inside="", behind="\n"),
)
