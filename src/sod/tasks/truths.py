"""`reward_model.ground_truth` of a data row: one answer, or a list of answers of which any is accepted."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sod.tasks.tables import json_or_none


def truths_of(value: Any) -> tuple[str, ...]:
    """The accepted answers as text, the first one first; none where the row has none.

    Several are a list of texts and numbers, or JSON text of a list of texts; or a mapping that says them under the
    names of question-answering sets (`{"target": [...]}`, `{"value": ..., "aliases": [...]}`), as JSON or Python text
    too. The text `[1, 2]` may be an interval, so it stays text; lists and mappings of anything else become JSON text.
    """
    value = _mapping(value)
    if _says_truths(value):
        value = [item for name in _SAID_IN_ORDER for item in _listed(value.get(name))]
    if isinstance(value, str) and value.lstrip().startswith("["):
        listed = json_or_none(value)
        value = listed if _several(listed) and all(isinstance(item, str) for item in listed) else value
    if isinstance(value, list):
        value = [item for item in value if item is not None]
    items = value if _several(value) else [value]
    return tuple(dict.fromkeys(text for text in map(_text, items) if text))


def ground_truth_column(truths: Sequence[str]) -> str:
    """The text from which `truths_of` reads these answers."""
    single = truths[0]
    return single if len(truths) == 1 and truths_of(single) == (single,) else json.dumps(truths, ensure_ascii=False)


_SAID_IN_ORDER = ("ground_truth", "value", "target", "targets", "text", "aliases")
_SAID = frozenset(_SAID_IN_ORDER)
_BESIDE = frozenset(
    (
        *("answer_start", "type", "pass_at_n", "normalized_value", "normalized_aliases"),
        *("matched_wiki_entity_name", "normalized_matched_wiki_entity_name"),
    )
)
"""What TriviaQA and SQuAD say beside it, in other spellings or for other ends."""


_LONGEST = 10_000
"""Characters of a text that is looked at for a mapping: tests of programs, which may be long, are none."""


def _mapping(value: Any) -> Any:
    """The mapping that a text writes, as JSON or as Python does, where it says truths; else the value itself."""
    if not isinstance(value, str) or not value.lstrip().startswith("{") or len(value) > _LONGEST:
        return value
    found = json_or_none(value)
    if found is None:
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return value
    return found if _says_truths(found) else value


def _says_truths(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value.keys() & _SAID) and value.keys() <= _SAID | _BESIDE


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _several(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | bool | int | float) for item in value)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # how tables spell a gap
        return ""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, bool | int | float) else json.dumps(value, ensure_ascii=False)
