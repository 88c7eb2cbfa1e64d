"""Texts, and which of them fit a query best: BM25, by the package `bm25s`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, final

import numpy as np

from sod.records import SodError


@final
class Ranking:
    """An index of texts; what it finds depends on nothing but the texts and the query.

    Raises SodError, beginning with `where`, where `bm25s` is missing.
    """

    def __init__(self, texts: Sequence[str], where: str) -> None:
        self._package = _package(where)
        self._ranked = self._package.BM25(backend="numpy")
        self._ranked.index(
            self._package.tokenize(list(texts), stopwords="en", show_progress=False), show_progress=False
        )

    def best(self, query: str, count: int) -> list[int]:
        """Numbers of the texts that share words with the query, best first, the earlier of equals; at most `count`."""
        (words,) = self._package.tokenize([query], stopwords="en", return_ids=False, show_progress=False)
        known = self._ranked.get_tokens_ids(words)
        if not known:
            return []
        scores = self._ranked.get_scores_from_ids(known)
        found = np.flatnonzero(scores > 0)
        order = np.argsort(-scores[found], kind="stable")[:count]
        return [int(number) for number in found[order]]


def _package(where: str) -> Any:
    try:
        return import_module("bm25s")
    except ImportError:
        raise SodError(f"{where}: needs the package bm25s; `pip install bm25s`") from None
