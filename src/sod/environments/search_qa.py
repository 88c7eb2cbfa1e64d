"""Search-QA: a question, a search tool over passages (BM25, package `bm25s`), and an answer that has to be exact.

Without files the passages tell of a fictional world (`sod.environments.fiction`) and the questions are about it, with
plans that a scripted player can follow. With `corpus`, a JSON file of `{"title", "text"}`, questions come from
`data.train`: rows with a question and its answer or answers.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, final

from sod.environments.base import Action
from sod.environments.fiction import Passage, fiction
from sod.records import Message, SodError, Task, ToolCall, ToolResult
from sod.seeds import derive

SEARCH: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the encyclopedia. Returns the passages that fit the query best.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to look for."}},
            "required": ["query"],
        },
    },
}
ASK = "Use the search tool, then answer in the form <answer>...</answer>."


@final
class SearchQA:
    """`sod.environments.base.Environment`: a turn without a call is the answer, and ends the episode.

    `score` is what an answer earns: `em` 1 for an exact match (case, articles and punctuation aside) and 0 else, `f1`
    the overlap of words. Raises SodError where `bm25s` is missing or the corpus cannot be read.
    """

    def __init__(
        self,
        people: int = 200,
        hops: int = 2,
        train: int = 1000,
        validation: int = 200,
        seed: int = 0,
        passages: int = 3,
        score: Literal["em", "f1"] = "em",
        corpus: str | None = None,
    ) -> None:
        self._world = (people, seed)
        self._hops = hops
        self._counts = {"train": train, "validation": validation}
        self._seed = seed
        self._shown = passages
        self._score = score
        self._index = _fictional_index(people, seed) if corpus is None else _file_index(corpus)
        self._truths: tuple[str, ...] = ()

    def tasks(self, split: str) -> list[Task]:
        """The questions of a split, none in both; `plan` in `Task.extra` are the queries that find the answer."""
        train, validation = self._counts["train"], self._counts["validation"]
        seed = derive(self._seed, "questions", self._hops)
        every = fiction(*self._world).questions(train + validation, self._hops, seed)
        mine = every[:train] if split == "train" else every[train:]
        return [
            Task(
                f"{split}-{number}",
                (Message("user", question.text),),
                question.answer,
                "search-qa",
                extra={"plan": list(question.lookups)},
            )
            for number, question in enumerate(mine)
        ]

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        """See `Environment.reset`."""
        self._truths = (task.ground_truth, *task.truths)
        return ASK, [SEARCH]

    def step(self, action: Action) -> tuple[str | list[ToolResult], float, bool]:
        """See `Environment.step`."""
        if isinstance(action, str):
            return "", answer_score(answer_in(action), self._truths, self._score), True
        return [self._found(call) for call in action], 0.0, False

    def replay(self, actions: Sequence[Action]) -> None:
        """Nothing to do: searches leave nothing behind."""

    def _found(self, call: ToolCall) -> ToolResult:
        query = call.arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            return ToolResult("Error: query has to be text", error="wrong_arguments")
        found = self._index.search(query, self._shown)
        return ToolResult("\n\n".join(f"{passage.title}: {passage.text}" for passage in found) or "Nothing was found.")


@final
class _Index:
    """Passages, and which of them fit a query."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = list(passages)
        self._bm25s = _package()
        self._ranked = self._bm25s.BM25()
        texts = [f"{passage.title} {passage.text}" for passage in self._passages]
        self._ranked.index(self._bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def search(self, query: str, count: int) -> list[Passage]:
        """The passages that share words with the query, best first, at most `count`."""
        tokens = self._bm25s.tokenize([query], stopwords="en", show_progress=False)
        most = min(count, len(self._passages))
        found, scores = self._ranked.retrieve(tokens, k=most, show_progress=False)
        ranked = zip(found[0].tolist(), scores[0].tolist(), strict=True)
        return [self._passages[number] for number, score in ranked if score > 0]


def answer_in(said: str) -> str:
    """The answer in what was said: between the last `<answer>` tags, else the last line."""
    tagged = re.findall(r"<answer>(.*?)</answer>", said, re.DOTALL)
    lines = said.strip().splitlines()
    return str(tagged[-1]) if tagged else lines[-1] if lines else ""


def answer_score(answer: str, truths: Sequence[str], score: Literal["em", "f1"]) -> float:
    """How good an answer is, by the truth that fits it best, from 0 to 1."""
    measure = _exact if score == "em" else _overlap
    return max((measure(_words(answer), _words(truth)) for truth in truths if truth.strip()), default=0.0)


def _words(text: str) -> list[str]:
    """As SQuAD's evaluation compares: lower case, without punctuation and articles."""
    plain = "".join(" " if char in string.punctuation else char for char in text.lower())
    return [word for word in plain.split() if word not in ("a", "an", "the")]


def _exact(answer: list[str], truth: list[str]) -> float:
    return float(answer == truth)


def _overlap(answer: list[str], truth: list[str]) -> float:
    shared = (Counter(answer) & Counter(truth)).total()
    return 2 * shared / (len(answer) + len(truth)) if shared else 0.0


@cache
def _fictional_index(people: int, seed: int) -> _Index:
    """One for all environments of a run."""
    return _Index(fiction(people, seed).passages())


@cache
def _file_index(corpus: str) -> _Index:
    try:
        rows = json.loads(Path(corpus).expanduser().read_text(encoding="utf-8"))
        return _Index([Passage(str(row["title"]), str(row["text"])) for row in rows])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SodError(
            f"environment.corpus={corpus!r}: no JSON list of passages with title and text: {error}"
        ) from None


def _package() -> Any:
    try:
        return import_module("bm25s")
    except ImportError:
        raise SodError("sod.environments.search_qa: needs the package bm25s; `pip install bm25s`") from None
