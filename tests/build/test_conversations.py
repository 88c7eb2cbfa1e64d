"""SFT rows that no rollout could have written, and rows that were written with other tools than the run's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.build.supervised import prepare_sft
from sod.models.load import save_model
from sod.recipe import Recipe
from sod.records import SodError

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is 2+2?"}
ASSISTANT = {"role": "assistant", "content": "4"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "python", "arguments": {"code": "1"}}]}
RESULT = {"role": "tool", "content": "1"}
PYTHON = {"name": "python", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}}
GOOD = {"messages": [USER, ASSISTANT]}
ALTERNATE = (
    "{% for m in messages %}{% if loop.index0 and m.role == 'user' and messages[loop.index0 - 1].role == 'user' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
"""How the templates of Gemma and Mistral begin."""
SHORT = "{% if messages[0].content | length > 90 %}{{ raise_exception('no question is that long') }}{% endif %}"


@pytest.fixture
def start(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> Callable[..., list[str]]:
    """`start(row, ...)`: prepare a supervised run on these rows; what it told until its one step was done."""

    numbers = itertools.count()

    def prepare(*rows: dict[str, Any], template: str | None = None, **sections: Any) -> list[str]:
        save_model(clone(acting_model), chat.tokenizer, template or chat.template, chat.end_id, tmp_path / "model")
        (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        content = {
            "student": {"path": str(tmp_path / "model")},
            "chat": {"template": "tokenizer" if template else "hermes"},
            "data": {"sft": str(tmp_path / "sft.jsonl")},
            "sft": {"steps": 1, "batch_size": 1},
            **sections,
        }
        told: list[str] = []
        job = prepare_sft(Recipe.model_validate(content), tmp_path / f"run-{next(numbers)}", False, told.append)
        job.start([])
        job.close()
        return told

    return prepare


UNTRAINABLE = {
    "two user turns": ([USER, ASSISTANT, USER, ASSISTANT], "message 2: a user message after an assistant turn"),
    "a user at the end": ([USER, ASSISTANT, USER], "message 2: a user message after an assistant turn"),
    "a user after a tool": ([USER, CALL, RESULT, USER, ASSISTANT], "message 3: a user message after an assistant turn"),
    "two assistant turns": ([USER, ASSISTANT, ASSISTANT], "message 2: an assistant turn directly after another"),
    "a system message in the middle": (
        [USER, ASSISTANT, SYSTEM, ASSISTANT],
        "message 2: a system message that is not the first message",
    ),
    "a system message after the user's": (
        [USER, SYSTEM, ASSISTANT],
        "message 1: a system message that is not the first message",
    ),
    "the assistant first": ([ASSISTANT, USER, ASSISTANT], "no user message before the first assistant turn"),
    "no user": ([SYSTEM, ASSISTANT], "no user message before the first assistant turn"),
}


@pytest.mark.parametrize(("messages", "reason"), UNTRAINABLE.values(), ids=list(UNTRAINABLE))
def test_a_row_of_another_shape_is_skipped_by_its_number(messages: list[Any], reason: str, start: Any) -> None:
    """Rows are counted as they stand in the file: one that was skipped at reading counts too."""
    broken = {"messages": [USER]}
    told = start(GOOD, broken, {"messages": messages, "tools": [PYTHON]}, GOOD)
    assert [line.partition("sft.jsonl: ")[2] for line in told] == [
        "3 rows, 1 skipped: row 1: no assistant message",
        f"2 rows, 1 skipped: row 2: {reason}",
    ]


def test_all_rows_are_of_another_shape(start: Any) -> None:
    rows = [{"messages": messages, "tools": [PYTHON]} for messages, _ in UNTRAINABLE.values()]
    with pytest.raises(SodError, match=r"no row that can be trained on: .* 8 skipped: row 0: message 2: .* 5 more$"):
        start(*rows)


def test_a_row_that_the_template_refuses(start: Any, chat: Any) -> None:
    """Two user messages in a row are one where the template wants them so; what it refuses is skipped by its number."""
    twice = {"messages": [USER, USER, ASSISTANT]}
    assert start(twice) == start(GOOD, twice, template=ALTERNATE + chat.template) == []
    long = {"messages": [{"role": "user", "content": "1" * 99}, ASSISTANT]}
    (line,) = start(GOOD, long, template=SHORT + chat.template)
    assert "1 rows, 1 skipped: row 1: chat template: no question is that long" in line


def test_the_shapes_of_a_rollout_are_kept(start: Any) -> None:
    rows = [
        GOOD,
        {"messages": [SYSTEM, USER, ASSISTANT]},
        {"messages": [SYSTEM, USER, CALL, RESULT, CALL, RESULT, ASSISTANT], "tools": [PYTHON]},
        {"messages": [USER, CALL, RESULT], "tools": [{"name": "python"}]},
    ]
    assert start(*rows) == []


WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
ASKED = {"role": "assistant", "content": "", "tool_calls": [{"name": "get_weather", "arguments": {}}]}


class TestOtherTools:
    """The prompts show the run's tools, whatever the rows declare."""

    def test_names_and_counts(self, start: Any) -> None:
        declared = {"messages": [USER, ASSISTANT], "tools": [WEATHER, PYTHON]}
        called = {"messages": [USER, ASKED, RESULT, ASSISTANT], "tools": [WEATHER]}
        (line,) = start(GOOD, declared, called, called)
        assert "tools that the run does not have are declared in 3 rows: get_weather (3 rows)" in line
        assert "the run's own (python) are shown instead" in line
        assert "the calls of get_weather (2 rows) are trained on all the same" in line

    def test_a_run_without_tools(self, start: Any) -> None:
        (line,) = start({"messages": [USER, ASSISTANT], "tools": [PYTHON]}, tools={"python": None})
        assert (
            "tools that the run does not have are declared in 1 row: python (1 row); no tool is shown instead" in line
        )

    @pytest.mark.parametrize("properties", [{}, {"program": {"type": "string"}}, {"code": {"type": "array"}}])
    def test_other_parameters(self, properties: Any, start: Any) -> None:
        other = {"name": "python", "parameters": {"type": "object", "properties": properties}}
        (line,) = start(GOOD, {"messages": [USER, ASSISTANT], "tools": [other]})
        assert "a tool of the run's is declared with other parameters in 1 row: python (1 row)" in line

    def test_other_words_are_no_difference(self, start: Any) -> None:
        properties = {"code": {"type": "string", "description": "A program."}}
        worded = {"name": "python", "description": "Runs it.", "parameters": {"properties": properties}}
        assert start({"messages": [USER, ASSISTANT], "tools": [worded]}) == []
