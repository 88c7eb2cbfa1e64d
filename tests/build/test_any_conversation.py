"""Whatever messages a row has: they make a ledger, or the row is skipped with a reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sod.build.conversations import example_of
from sod.records import SodError
from sod.tasks.formats.base import BadRowError, Fields
from sod.tasks.formats.sft_messages import MESSAGES

TEXTS = st.sampled_from(
    (
        *("", "x", "a\n", "<think>a", "</think>", "<think>\na\n</think>\n\nb", "<tool_call>", "<|im_end|>", "\ud800"),
        *('<tool_call>\n{"name": "python", "arguments": {"code": "<tool_call>"}}\n</tool_call>', "<tools>[]</tools>"),
    )
)
ARGUMENTS = st.dictionaries(st.sampled_from(("code", "</tool_call>", "")), TEXTS | st.floats() | st.none(), max_size=2)
CALL = st.fixed_dictionaries(
    {"name": st.sampled_from(("python", "other", "<tool_call>"))}, optional={"arguments": ARGUMENTS}
)
ITEM = st.fixed_dictionaries(
    {"role": st.sampled_from(("system", "user", "assistant", "tool", "function_call")), "content": TEXTS},
    optional={
        "tool_calls": st.lists(CALL, max_size=2),
        "reasoning_content": TEXTS,
        "weight": st.sampled_from((0, 1, 0.5)),
        "name": TEXTS,
    },
)
ROW = st.fixed_dictionaries(
    {"messages": st.lists(ITEM, min_size=2, max_size=6)},
    optional={
        "tools": st.lists(st.fixed_dictionaries({"name": TEXTS}, optional={"parameters": ARGUMENTS}), max_size=2)
    },
)


def encodes_or_refuses(row: Any, chat: Any) -> bool:
    try:
        example = example_of(MESSAGES.read(Fields(row), "r"), chat)
    except (BadRowError, ValueError, SodError):
        return False
    assert len(example.token_ids) == len(example.turn_ids)
    assert max(example.turn_ids) == len(example.weights)
    return True


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROW)
def test_no_row_ends_in_a_traceback(chat: Any, row: Any) -> None:
    encodes_or_refuses(row, chat)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROW)
def test_many_rows(chat: Any, row: Any) -> None:
    encodes_or_refuses(row, chat)
