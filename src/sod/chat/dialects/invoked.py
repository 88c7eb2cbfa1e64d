"""Calls as `<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`, all of a turn between two marks.

MiniMax M2, and DeepSeek V3.2 and V4, which say of each value whether it is text; and MiniCPM 5, which writes
`<function name="NAME"><param name="KEY">VALUE</param></function>`. See `tagged` for the rule.
"""

from __future__ import annotations

from sod.chat.dialects.marked import Marked, Thinking
from sod.chat.dialects.tagged import Tags

MINIMAX_M2 = Marked(
    "minimax-m2",
    Tags(
        head='<invoke name="{name}">\n',
        argument='<parameter name="{key}">{value}</parameter>\n',
        tail="</invoke>",
        section=("<minimax:tool_call>\n", "\n</minimax:tool_call>"),
    ),
    words=("<minimax:tool_call>", "<invoke name=", "<parameter name="),
)


def _dsml(name: str, section: str) -> Marked:
    mark = "\uff5cDSML\uff5c"
    return Marked(
        name,
        Tags(
            head=f'<{mark}invoke name="{{name}}">\n',
            argument=f'<{mark}parameter name="{{key}}" string="{{text}}">{{value}}</{mark}parameter>\n',
            tail=f"</{mark}invoke>",
            section=(f"<{mark}{section}>\n", f"\n</{mark}{section}>"),
            lead="\n\n",
        ),
        words=(mark, f"{section}>"),
        thinking=Thinking(inside="", behind=""),
    )


DEEPSEEK_V3_2 = _dsml("deepseek-v3.2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek-v4", "tool_calls")
MINICPM5 = Marked(
    "minicpm5",
    Tags(
        head='<function name="{name}">',
        argument='<param name="{key}">{value}</param>',
        tail="</function>",
        python_words=True,
        cdata=True,
    ),
    words=("<function name=", "<param name="),
)
