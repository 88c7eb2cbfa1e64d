"""Search-QA: a question, a search tool over passages (BM25, package `bm25s`), and an answer that has to be exact.

Without files the passages tell of a fictional world (`sod.environments.fiction`) and the questions are about it. With
`questions`, files as HotpotQA and 2WikiMultihopQA publish them, both come from there (`sod.environments.qa_files`).
With `corpus` the passages come from that file; questions then from `questions`, or from `data.train`: rows with a
question and its answer or answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, final

from sod.environments.base import Action
from sod.environments.fiction import fiction
from sod.environments.passages import Index
from sod.environments.qa_files import needed_titles, passages_of, read_passages, read_questions
from sod.environments.shared import shared, stamped
from sod.environments.short_answers import Score, answer_score
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
ASK_IN_TEXT = (
    "To search an encyclopedia, write <search>what to look for</search>: the passages that fit best come back between "
    "<information> and </information>. When you know the answer, write <answer>...</answer>."
)
NEITHER = "Write <search>...</search> or <answer>...</answer>."
FICTIONAL = {"train": 1000, "validation": 200}
"""Questions of each split about the fictional world, where nobody says how many."""

Questions = str | Mapping[str, str]
"""A file, whose questions are drawn into both splits; or one for each split."""


@final
class SearchQA:
    """`sod.environments.base.Environment`: a turn without a call is the answer, and ends the episode.

    With `tools: false` there is no tool: `<search>`, `<information>` and `<answer>` stand in the text instead.
    `score` is what an answer earns: `em` 1 for an exact match (case, articles and punctuation aside) and 0 else, `f1`
    the overlap of words. Raises SodError where `bm25s` is missing or a file cannot be used.
    """

    def __init__(
        self,
        people: int = 200,
        hops: int = 2,
        train: int | None = None,
        validation: int | None = None,
        seed: int = 0,
        passages: int = 3,
        score: Score = "em",
        corpus: str | None = None,
        questions: Questions | None = None,
        tools: bool = True,
    ) -> None:
        if score not in ("em", "f1"):
            raise SodError(f"environment.score={score!r}: an answer is scored by em or f1")
        self._world = (people, seed)
        self._hops = hops
        self._counts = {"train": train, "validation": validation}
        self._seed = seed
        self._shown = passages
        self._score = score
        self._corpus = corpus
        self._questions = _by_split(questions)
        self._tools = tools
        self._index = self._passages()
        self._task = Task("", (), "")
        self._asked: list[str] = []

    def tasks(self, split: str) -> list[Task]:
        """The questions of a split, none in both; `plan` in `Task.extra` are the queries that find the answer."""
        if self._questions:
            return _drawn(self._questions, split, self._counts, self._seed)
        if self._corpus is not None:
            raise SodError(
                f"environment.corpus={self._corpus!r}: has passages and no questions; name a file of them in "
                "environment.questions or data.train"
            )
        counts = {name: FICTIONAL[name] if count is None else count for name, count in self._counts.items()}
        seed = derive(self._seed, "questions", self._hops)
        every = fiction(*self._world).questions(sum(counts.values()), self._hops, seed)
        mine = every[: counts["train"]] if split == "train" else every[counts["train"] :]
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
        self._task = task
        self._asked = []
        return (ASK, [SEARCH]) if self._tools else (ASK_IN_TEXT, [])

    def step(self, action: Action) -> tuple[str | list[ToolResult], float, bool]:
        """See `Environment.step`."""
        self._asked += _queries(action)
        if not isinstance(action, str):
            return [self._found(call) for call in action], 0.0, False
        query = None if self._tools else _searched(action)
        if query is not None:
            return f"<information>\n{self._told(query)}\n</information>", 0.0, False
        if not self._tools and "<answer>" not in action:
            return NEITHER, 0.0, False
        truths = (self._task.ground_truth, *self._task.truths)
        return "", answer_score(answer_in(action), truths, self._score), True

    def replay(self, actions: Sequence[Action]) -> None:
        """Searches leave nothing behind but that they were made."""
        self._asked += [query for action in actions for query in _queries(action)]

    def expert(self) -> Action:
        """The next query of the task's plan that was not made yet, then the answer; without a plan, the question."""
        extra = self._task.extra
        plan = extra.get("plan") or needed_titles(extra) or [self._question()]
        following = next((query for query in plan if query not in self._asked), None)
        return self._answer(self._task.ground_truth) if following is None else self._search(following)

    def choices(self) -> list[Action]:
        """A search for the question; after one, searches for the titles that it found, and these as answers."""
        if not self._asked:
            return [self._search(self._question())]
        titles = [passage.title for passage in self._index.search(self._asked[-1], self._shown)]
        searches = [self._search(query) for query in dict.fromkeys((self._question(), *titles))]
        return [*searches, *(self._answer(title) for title in dict.fromkeys(titles))]

    def _passages(self) -> Index:
        """The index of what is searched, one for all environments that search the same."""
        if self._corpus is not None:
            corpus = self._corpus
            index: Index = shared(("passages", *stamped(corpus)), lambda: Index(read_passages(corpus)))
        elif self._questions:
            files = tuple(dict.fromkeys(self._questions.values()))
            index = shared(("contexts", *map(stamped, files)), lambda: Index(_contexts(files)))
        else:
            index = shared(("fiction", *self._world), lambda: Index(fiction(*self._world).passages()))
        return index

    def _question(self) -> str:
        return next((message.content for message in self._task.prompt[::-1] if message.role == "user"), "")

    def _search(self, query: str) -> Action:
        return (ToolCall("search", {"query": query}),) if self._tools else f"<search>{query}</search>"

    def _answer(self, answer: str) -> Action:
        return f"<answer>{answer}</answer>"

    def _found(self, call: ToolCall) -> ToolResult:
        query = call.arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            return ToolResult("Error: query has to be text", error="wrong_arguments")
        return ToolResult(self._told(query))

    def _told(self, query: str) -> str:
        found = self._index.search(query, self._shown)
        return "\n\n".join(f"{passage.title}: {passage.text}" for passage in found) or "Nothing was found."


def answer_in(said: str) -> str:
    """The answer in what was said: between the last `<answer>` tags, else the last line."""
    tagged = re.findall(r"<answer>(.*?)</answer>", said, re.DOTALL)
    lines = said.strip().splitlines()
    return str(tagged[-1]) if tagged else lines[-1] if lines else ""


def _searched(said: str) -> str | None:
    """The query of a text whose first tags are those of a search: what follows it was said without its result."""
    first = re.search(r"<(search|answer)>(.*?)</\1>", said, re.DOTALL)
    return first[2].strip() if first and first[1] == "search" else None


def _queries(action: Action) -> list[str]:
    if isinstance(action, str):
        query = _searched(action)
        return [] if query is None else [query]
    return [str(call.arguments.get("query")) for call in action]


def _by_split(questions: Questions | None) -> dict[str, str]:
    """The file of each split. Raises SodError for splits that there are not."""
    if questions is None:
        return {}
    if isinstance(questions, str):
        return {"train": questions, "validation": questions}
    if not questions or not set(questions) <= set(FICTIONAL):
        raise SodError(f"environment.questions={dict(questions)}: name one file, or {{train: FILE, validation: FILE}}")
    return dict(questions)


def _contexts(files: Sequence[str]) -> list[Any]:
    """The passages that came with the questions of some files. Raises SodError where there are none."""
    passages = passages_of([question for file in files for question in read_questions(file)])
    if not passages:
        raise SodError(
            f"environment.questions={', '.join(files)}: its rows bring no passages (context); name environment.corpus"
        )
    return passages


def _drawn(files: Mapping[str, str], split: str, counts: Mapping[str, int | None], seed: int) -> list[Task]:
    """The questions of a split: its own file's in order, or drawn by the seed from the one file of both."""
    if split not in files:
        raise SodError(f"environment.questions: has no file for {split}; add {split}: FILE")
    source = files[split]
    tasks = [question.task for question in read_questions(source)]
    if len(set(files.values())) < len(files):
        Random(derive(seed, "split")).shuffle(tasks)
        held_out = counts["validation"]
        held_out = min(FICTIONAL["validation"], max(1, len(tasks) // 10)) if held_out is None else held_out
        tasks = tasks[held_out:] if split == "train" else tasks[:held_out]
    count = counts[split]
    if not tasks or (count is not None and count > len(tasks)):
        raise SodError(
            f"environment.questions={source!r}: has {len(tasks)} questions for {split}, not {count or 'any'}; set "
            "environment.train and environment.validation to fewer"
        )
    return tasks[:count]
