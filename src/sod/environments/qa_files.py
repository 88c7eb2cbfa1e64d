"""Questions and passages from files: HotpotQA's and 2WikiMultihopQA's as they are published, or from the Hub.

A row has a question, its answer or answers, and mostly the passages that it was written for (`context`) with the titles
of those that are needed (`supporting_facts`). Lists of pairs, the Hub's mappings of lists, and JSON text of either are
read alike. MuSiQue's `paragraphs` are too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.environments.fiction import Passage
from sod.environments.shared import shared, stamped
from sod.records import Message, SodError, Task
from sod.tasks.sources import read_rows
from sod.tasks.tables import json_or_none

ANSWERS = ("answer", "answers", "golden_answers", "answer_aliases")
CONTEXT, FACTS, PARAGRAPHS = "context", "supporting_facts", "paragraphs"
KEPT = ("type", "level")
"""What files tell of a question beside: its kind (`bridge`, `comparison`, ...) and how hard it is."""
KEY = "environment"


@final
@dataclass(frozen=True)
class FileQuestion:
    """A question of a file as a task, and the passages that came with it."""

    task: Task
    passages: tuple[Passage, ...]


def read_questions(source: str, key: str = f"{KEY}.questions") -> list[FileQuestion]:
    """The questions of a file, a folder or a data set of the Hub, read once in a process.

    `Task.extra["plan"]` has the titles of the passages that are needed. Raises SodError naming `key`, file and row.
    """
    found: list[FileQuestion] = shared(("questions", *stamped(source)), lambda: _questions(source, key))
    return found


def read_passages(source: str, key: str = f"{KEY}.corpus") -> list[Passage]:
    """The passages of a file: rows of `title` and `text`, or of `contents`, whose first line is the title.

    Raises SodError naming `key`, file and row.
    """
    return [_passage(row, f"{key}={source!r}: row {number}") for number, row in _rows(source, key)]


def passages_of(questions: Sequence[FileQuestion]) -> list[Passage]:
    """All passages that came with the questions, each once, in order."""
    return list(dict.fromkeys(passage for question in questions for passage in question.passages))


def needed_titles(row: Mapping[str, Any]) -> list[str]:
    """The titles of the passages that a row's answer takes, each once, in order; none where it does not tell."""
    facts = _decoded(row.get(FACTS))
    if isinstance(facts, Mapping):
        titles = list(facts.get("title") or [])
    elif isinstance(facts, list):
        titles = [fact[0] for fact in facts if isinstance(fact, list) and fact]
    else:
        paragraphs = row.get(PARAGRAPHS)
        needed = paragraphs if isinstance(paragraphs, list) else []
        titles = [one.get("title") for one in needed if isinstance(one, Mapping) and one.get("is_supporting")]
    return list(dict.fromkeys(title for title in titles if isinstance(title, str)))


def _questions(source: str, key: str) -> list[FileQuestion]:
    found: dict[str, FileQuestion] = {}
    for number, row in _rows(source, key):
        name = str(row.get("_id", row.get("id", f"row-{number}")))
        name = f"{name}-{number}" if name in found else name
        found[name] = _question(row, name, f"{key}={source!r}: row {number}")
    return list(found.values())


def _question(row: Mapping[str, Any], name: str, where: str) -> FileQuestion:
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise SodError(f"{where} has no question; rows need question and answer, columns: {', '.join(row)}")
    answers = [answer for column in ANSWERS for answer in _texts(row.get(column))]
    if not answers:
        raise SodError(f"{where} has no answer (a test set without them?); leave such rows out")
    extra = {"plan": needed_titles(row), **{column: row[column] for column in KEPT if column in row}}
    prompt = (Message("user", question.strip()),)
    task = Task(name, prompt, answers[0], "search-qa", extra=extra, truths=tuple(answers[1:]))
    return FileQuestion(task, tuple(_context(row, where)))


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text.strip()]


def _context(row: Mapping[str, Any], where: str) -> list[Passage]:
    """The passages of a row; none where it has no context."""
    if isinstance(row.get(PARAGRAPHS), list):
        return [_passage(paragraph, f"{where}: {PARAGRAPHS}") for paragraph in row[PARAGRAPHS]]
    context = _decoded(row.get(CONTEXT))
    if context is None:
        return []
    if isinstance(context, Mapping):
        titles, texts = context.get("title") or [], context.get("sentences", context.get("content")) or []
        context = list(zip(titles, texts, strict=True)) if len(titles) == len(texts) else titles
    if not isinstance(context, list) or not all(_is_titled(entry) for entry in context):
        raise SodError(f"{where}: context is no list of [title, [sentence, ...]], as HotpotQA and 2Wiki have it")
    return [Passage(title, " ".join(str(sentence).strip() for sentence in sentences)) for title, sentences in context]


def _is_titled(entry: Any) -> bool:
    pair = isinstance(entry, list | tuple) and len(entry) == 2
    return pair and isinstance(entry[0], str) and isinstance(entry[1], list)


def _passage(row: Any, where: str) -> Passage:
    row = row if isinstance(row, Mapping) else {}
    text = next((row[name] for name in ("text", "paragraph_text") if isinstance(row.get(name), str)), None)
    if isinstance(row.get("title"), str) and text is not None:
        return Passage(row["title"], text)
    if isinstance(row.get("contents"), str):
        title, _, rest = row["contents"].partition("\n")
        return Passage(title.strip().strip('"'), rest.strip())
    raise SodError(f"{where} is no passage; it needs title and text, or contents; columns: {', '.join(row) or 'none'}")


def _rows(source: str, key: str) -> list[tuple[int, dict[str, Any]]]:
    try:
        rows, skipped = read_rows(os.path.expanduser(source))
    except SodError as error:
        raise SodError(f"{key}: {error}") from None
    if skipped:
        raise SodError(f"{key}={source!r}: row {skipped[0].row}: {skipped[0].reason}; mend or remove it")
    return rows


def _decoded(value: Any) -> Any:
    """A nested column, which some files store as JSON text."""
    return json_or_none(value) if isinstance(value, str) else value
