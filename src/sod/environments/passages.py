"""Passages that can be searched: BM25 by the package `bm25s`, over a fictional world or a file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, final

from sod.environments.fiction import Passage
from sod.records import SodError


@final
class Index:
    """Passages, and which of them fit a query. Raises SodError where `bm25s` is missing, or there is no passage."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = tuple(passages)
        if not self.passages:
            raise SodError("sod.environments.search_qa: there are no passages to search; name a corpus that has some")
        self._bm25s = _package()
        self._ranked = self._bm25s.BM25()
        texts = [f"{passage.title} {passage.text}" for passage in self.passages]
        self._ranked.index(self._bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def search(self, query: str, count: int) -> list[Passage]:
        """The passages that share words with the query, best first, at most `count`."""
        tokens = self._bm25s.tokenize([query], stopwords="en", show_progress=False)
        most = min(count, len(self.passages))
        found, scores = self._ranked.retrieve(tokens, k=most, show_progress=False)
        ranked = zip(found[0].tolist(), scores[0].tolist(), strict=True)
        return [self.passages[number] for number, score in ranked if score > 0]


def _package() -> Any:
    try:
        return import_module("bm25s")
    except ImportError:
        raise SodError("sod.environments.search_qa: needs the package bm25s; `pip install bm25s`") from None
