"""Where a row of recorded outputs has the model's texts, under the names that harnesses give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.evaluation.benchmarks.problem import Kind
from sod.tasks.formats.base import BadRowError, Row
from sod.tasks.formats.columns import column_of, holds

OWN = "turns"
"""Of an episode that an evaluation of ours wrote."""
WRITTEN = (
    *("completion", "completions", "generation", "generations", "response", "responses", "resps"),
    *("model_output", "model_outputs", "model_response", "output", "outputs", "output_list", "generated_text"),
    *("predictions", "code", "code_list"),
)
"""What columns of whole texts are called, the first that a row has; `code` is that of ToRA and its heirs, whole too."""
PROGRAMS = ("solution", "solutions")
"""Texts where problems are programs (evalplus); of other sets they are the published ones."""
TEXT = ("text", "content", "generation", "completion", "response", "output", "message")
"""Where an output that is itself a mapping has its text."""


def output_column(row: Row, kind: Kind) -> str | None:
    """The column with a row's outputs; None where no name is one."""
    names = (OWN, *WRITTEN, *PROGRAMS) if kind == "code" else (OWN, *WRITTEN)
    column = column_of(row, names)
    return column if column is not None and holds(row, (column,)) else None


def texts_of(row: Row, column: str) -> list[str]:
    """The outputs of a row, one for each sample. Raises BadRowError for what is none."""
    if column not in row:
        raise BadRowError(f"no column '{column}' (columns found: {', '.join(row) or 'none'})")
    value = row[column]
    if column == OWN:
        return [_last_said(value)]
    texts = _texts(value, column)
    if not texts:
        raise BadRowError(f"{column} is an empty list: a model that said nothing said ''")
    return texts


def _texts(value: Any, column: str) -> list[str]:
    """All texts in a value, however deep: lm-eval has a list of samples in a list of requests."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, column)]
    if isinstance(value, Mapping):
        inner = column_of(value, TEXT)
        if inner is not None:
            return _texts(value[inner], column)
    said = "null" if value is None else f"no text but {type(value).__name__}"
    raise BadRowError(f"{column} is {said}: an output that was not written cannot be judged; give '' for an empty one")


def _last_said(turns: Any) -> str:
    """What the last turn of an episode says beside thoughts and calls."""
    last = turns[-1] if isinstance(turns, list) and turns else None
    said = last.get("said") if isinstance(last, Mapping) else None
    answer = said.get("answer") if isinstance(said, Mapping) else None
    if not isinstance(answer, str):
        raise BadRowError(f"{OWN} has no turn in which something is said")
    return answer
