"""The page of the data that is read: every example in it is read, and every shape has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sod.build.data_examples import CONVERSATIONS, REFUSED, TASKS, Example
from sod.build.document_data import data_page, read_example
from sod.records import SodError
from sod.tasks.formats.conversation_shapes import CONVERSATION_SHAPES
from sod.tasks.formats.sft_preference import PREFERENCE
from sod.tasks.formats.shapes import TASK_SHAPES

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def shape_of(example: Example) -> str:
    return dict(read_example(example).facts)["read as"].rpartition("; ")[2].partition(" (")[0]


def test_the_page_in_the_repository_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == data_page(), "python -m sod.build.document_data > docs/data.md"


def test_every_shape_has_an_example() -> None:
    assert {shape_of(example) for example in TASKS} == {shape.name for shape in TASK_SHAPES}
    usable = {shape.name for shape in CONVERSATION_SHAPES} - {PREFERENCE.name}  # which is there to be refused
    assert {shape_of(example) for example in CONVERSATIONS} == usable


@pytest.mark.parametrize("example", REFUSED, ids=lambda example: example.title)
def test_what_is_said_to_be_refused_is(example: Example) -> None:
    with pytest.raises(SodError):
        read_example(example)
