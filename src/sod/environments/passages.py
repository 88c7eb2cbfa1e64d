"""Passages that can be searched: BM25 by the package `bm25s`, over a fictional world or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from sod.environments.fiction import Passage
from sod.environments.ranking import Ranking
from sod.records import SodError

WHERE = "sod.environments.search_qa"


@final
class Index:
    """Passages, and which of them fit a query. Raises SodError where `bm25s` is missing, or there is no passage."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = tuple(passages)
        if not self.passages:
            raise SodError(f"{WHERE}: there are no passages to search; name a corpus that has some")
        self._ranking = Ranking([f"{passage.title} {passage.text}" for passage in self.passages], WHERE)

    def search(self, query: str, count: int) -> list[Passage]:
        """The passages that share words with the query, best first, at most `count`."""
        return [self.passages[number] for number in self._ranking.best(query, count)]
