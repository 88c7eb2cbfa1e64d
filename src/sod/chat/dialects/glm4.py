"""GLM 4.5 to 4.7, and those that write as they do: Spark 2.5, Ling 3, Laguna and, with other marks, Hunyuan 3.

`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`, up to 4.6 with line breaks between the
marks; either is read by both, and a template is of
the first kind if it has no such line break. See `tagged` for the rule.
"""

from __future__ import annotations

from sod.chat.dialects.marked import Marked, Thinking
from sod.chat.dialects.tagged import Tags

GLM4_5 = Marked(
    "glm4.5",
    Tags(
        head="<tool_call>{name}\n",
        argument="<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
        tail="</tool_call>",
    ),
    words=("<tool_call>", "<arg_key>", "<arg_value>"),
    thinking=Thinking(before="\n", inside="", behind="\n"),
)

GLM4_7 = Marked(
    "glm4.7",
    Tags(
        head="<tool_call>{name}",
        argument="<arg_key>{key}</arg_key><arg_value>{value}</arg_value>",
        tail="</tool_call>",
        lead="",
        between="",
    ),
    words=("<tool_call>", "<arg_key>", "<arg_value>"),
    others=("</arg_key>\n", "</arg_key>\\n"),
    thinking=Thinking(inside="", behind=""),
)

HUNYUAN3 = Marked(
    "hunyuan3",
    Tags(
        head="<tool_call:opensource>{name}<tool_sep:opensource>\n",
        argument="<arg_key:opensource>{key}</arg_key:opensource>\n<arg_value:opensource>{value}</arg_value:opensource>\n",
        tail="</tool_call:opensource>",
        section=("<tool_calls:opensource>\n", "\n</tool_calls:opensource>"),
        lead="",
    ),
    words=("<tool_sep", "<arg_key", "opensource"),
    thinking=Thinking("<think:opensource>", "</think:opensource>", inside="", behind=""),
)
