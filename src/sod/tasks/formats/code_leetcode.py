"""LeetCodeDataset: `query` or `problem_description` with `starter_code`, and a `check` of `entry_point`.

Its first version has the `query` in `meta`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.code_base import how, in_words, programming_task, said, used

_STATEMENTS = ("query", "problem_description")


def _matches(row: Mapping[str, Any]) -> bool:
    if "test" not in row or "entry_point" not in row:
        return False
    return any(isinstance(row.get(name), str) for name in _STATEMENTS) or _in_meta(row)


def _in_meta(row: Mapping[str, Any]) -> bool:
    meta = row.get("meta")
    return isinstance(meta, Mapping) and isinstance(meta.get("query"), str)


def _read(fields: Fields, name: str) -> Task:
    tests = used(fields, ("prompt", "entry_point", "test"))
    if "test" not in tests:
        raise BadRowError("no tests in test")
    in_meta = _in_meta(fields.row)
    statement = fields.use("meta", "query").strip() if in_meta else said(fields, *_STATEMENTS)
    shows_block = (in_meta or "query" in fields.row) and "```" in statement  # that is to be filled in
    prompt = in_words(statement, "" if shows_block else how(fields, tests))
    return programming_task(fields, name, "leetcode", prompt, tests, ("completion",))


LEETCODE = Shape("LeetCodeDataset", _matches, _read)
