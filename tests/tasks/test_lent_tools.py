"""Tools of conversations in a file of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.records import Message, SodError
from sod.tasks.base import Conversation
from sod.tasks.lent_tools import tools_file, with_lent_tools
from sod.tasks.loaded import Loaded

FLAT = {"name": "search", "description": "Finds.", "parameters": {"type": "object"}}
SEARCH = {"type": "function", "function": FLAT}
OTHER = {"type": "function", "function": {"name": "other"}}
SAID = (Message("user", "x"), Message("assistant", "y"))


@pytest.mark.parametrize("content", [[FLAT], [SEARCH], {"tools": [SEARCH]}, FLAT, SEARCH])
def test_rows_without_tools_show_those_of_the_file(tmp_path: Path, content: Any) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(content))
    loaded = Loaded([Conversation("a", SAID), Conversation("b", SAID, (OTHER,))], [], [0, 1], {"mood": 1})
    lent = with_lent_tools(loaded, str(tmp_path / "tools.json"))
    assert [item.tools for item in lent.items] == [(SEARCH,), (OTHER,)]
    assert (lent.rows, lent.unused) == ([0, 1], {"mood": 1})
    assert with_lent_tools(loaded, None) is loaded


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        ("[", "holds no function schema"),
        ("[]", "holds no function schema"),
        ("[1]", "a declared tool has no name; it is a JSON list of function schemas"),
        ("3", "the file is not a list but int"),
    ],
)
def test_another_file_is_refused_in_a_line(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "tools.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SodError) as error:
        tools_file(str(path))
    assert f"data.tools={path}: " in str(error.value)
    assert reason in str(error.value)
