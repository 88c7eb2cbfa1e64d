"""Qwen3-Coder's and Qwen3.5's calls, which Nemotron 3 and Step 3.5 write as well; and Seed-OSS's, with other marks.

`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`; see `tagged` for the rule.
"""

from __future__ import annotations

from sod.chat.dialects.marked import Marked, Thinking
from sod.chat.dialects.tagged import Tags

QWEN_XML = Marked(
    "qwen-xml",
    Tags(
        head="<tool_call>\n<function={name}>\n",
        argument="<parameter={key}>\n{value}\n</parameter>\n",
        tail="</function>\n</tool_call>",
        lead="\n\n",
        python_words=True,
    ),
    words=("<tool_call>", "<function=", "<parameter="),
)

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
