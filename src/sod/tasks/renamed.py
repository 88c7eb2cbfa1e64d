"""`data.columns`: which of a file's columns is the prompt, the truth, ... where no shape knows them by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sod.records import SodError
from sod.tasks.formats.base import Fields, Row
from sod.tasks.formats.columns import PROMPTS, TRUTHS, plain
from sod.tasks.tables import json_or_none

_LISTED = 30
"""So many columns a message lists."""


def renamed(row: Row, columns: Mapping[str, str]) -> Fields:
    """The row with its columns under the names that `columns` gives them (our name: the row's, with dots)."""
    if not columns:
        return Fields(row)
    found = {target: value_at(row, path) for target, path in columns.items()}
    given = {target: value for target, value in found.items() if value is not None}
    fields = Fields({**row, **given}, given)
    for target in given:
        fields.use(*_used(row, columns[target]))
    return fields


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or behind dots of what is in it, numbers counting in lists; None where there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if isinstance(value, str):
            value = json_or_none(value)
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _used(row: Mapping[str, Any], path: str) -> list[str]:
    """The names down to the mapping, the list or the value of which all counts as used."""
    if path in row:
        return [path]
    used: list[str] = []
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping):
            break
        used.append(name)
        value = value.get(name)
    return used


def refuse_absent(source: str, rows: Iterable[Row], columns: Mapping[str, str]) -> None:
    """Raises SodError for a column that `columns` names and that no row has."""
    rows = list(rows)
    for target, path in columns.items():
        if not any(value_at(row, path) is not None for row in rows):
            raise SodError(
                f"{source}: data.columns.{target}={path}: no row has that, the columns are "
                f"{listed(rows)}; correct it, or set data.columns={{}} for data of another form"
            )


def unknown_shape(source: str, rows: Iterable[Row], wanted: Sequence[str]) -> SodError:
    """The line for rows that no shape recognises: their columns, and the `data.columns` that is most likely meant."""
    rows = list(rows)
    text = f"{source}: its rows are of no known shape; columns: {listed(rows)}"
    if any("input_ids" in row for row in rows):
        return SodError(f"{text}; these are tokens of a model: give the texts that they were made of")
    pair = ("prompt", "completion")
    if "messages" in wanted and not any(_holds_messages(row) for row in rows[:100]) and _guessed(rows, pair):
        wanted = pair
    guess = ", ".join(f"{target}: {column}" for target, column in _guessed(rows, wanted).items())
    return SodError(f"{text}; say which is which, e.g. data.columns='{{{guess}}}'" if guess else text)


def _holds_messages(row: Row) -> bool:
    """Whether a column, or what stands right below one, is a list of mappings, as messages are."""
    inside = [value.values() if isinstance(value, Mapping) else [value] for value in row.values()]
    return any(isinstance(item, list) and item and isinstance(item[0], Mapping) for values in inside for item in values)


def listed(rows: Sequence[Row]) -> str:
    """The columns of the rows, those inside a mapping with dots; what is long is cut."""
    names: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, Mapping):
                names.update(dict.fromkeys(f"{name}.{below}" for below in value))
            else:
                names[name] = None
    return ", ".join([*names][:_LISTED]) + (f", and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")


_LIKELY = {
    "prompt": (*PROMPTS, "text", "q", "task", "request", "user"),
    "ground_truth": (*TRUTHS, "gold", "truth", "result", "response", "a", "ref", "gt"),
    "completion": ("completion", "response", "answer", "output", "reply", "summary", "program", "code", "a"),
    "messages": ("messages", "conversation", "chat", "dialog", "turns", "history"),
}


def _guessed(rows: Sequence[Row], wanted: Sequence[str]) -> dict[str, str]:
    """For each wanted name a column of a like name; else for a prompt the longest text, for a truth the shortest."""
    lengths = _lengths(rows[:100])
    guess: dict[str, str] = {}
    for target in wanted:
        left = [column for column in lengths if column not in guess.values()]
        alike = [column for likely in _LIKELY[target] for column in left if _alike(plain(column), plain(likely))]
        texts = sorted(left, key=lambda column: lengths[column], reverse=target != "ground_truth")
        found = (alike or texts)[:1]
        if not found:
            return {}
        guess[target] = found[0]
    return guess


def _alike(column: str, likely: str) -> bool:
    return column == likely or (len(likely) > 2 and likely in column.rpartition(".")[2])


def _lengths(rows: Sequence[Row]) -> dict[str, float]:
    """Of every column with text or a list of messages the mean length, those inside mappings with dots."""
    total: dict[str, list[int]] = {}
    for row in rows:
        for name, value in row.items():
            inside = [(f"{name}.{key}", item) for key, item in value.items()] if isinstance(value, Mapping) else []
            for column, item in inside or [(name, value)]:
                if isinstance(item, str | int | float | list) and not isinstance(item, bool) and item not in ("", []):
                    total.setdefault(column, []).append(len(str(item)))
    return {column: sum(found) / len(found) for column, found in total.items()}
