"""Servers over the tests' model, and teachers of them that have been probed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoring_server import ScoringServer
from sod.recipe import TeacherSpec
from sod.teachers.probe import probed
from sod.teachers.served import ServedTeacher
from sod.teachers.server import Server

QUICK = {"model": "t", "backoff_seconds": 0.0, "seconds": 20.0, "attempts": 3}


@pytest.fixture
def serving(model: Any, tokenizer: Any) -> Iterator[Callable[..., ScoringServer]]:
    """`serving(...)`: a server over the tests' model."""
    opened: list[ScoringServer] = []

    def serve(own: Any = None, spelling: Any = None, **options: Any) -> ScoringServer:
        opened.append(ScoringServer(own or model, spelling or tokenizer, **options))
        return opened[-1]

    yield serve
    for server in opened:
        server.__exit__()


@pytest.fixture
def teacher_of(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ServedTeacher]]:
    """`teacher_of(url, k, ...)`: a teacher that has been probed, with a cache of the test's own."""
    monkeypatch.delenv("SOD_TEACHER_API_KEY", raising=False)
    opened: list[ServedTeacher] = []

    def make(url: str, k: int = 0, told: list[str] | None = None, **options: Any) -> ServedTeacher:
        spec = TeacherSpec.model_validate({"url": url, "cache": str(tmp_path / "cache"), **QUICK, **options})
        server = Server(spec, "teacher", len(tokenizer))
        notices: list[str] = []
        opened.append(ServedTeacher(server, probed(server, tokenizer, k, (notices if told is None else told).append)))
        assert told is not None or notices == []
        return opened[-1]

    yield make
    for teacher in opened:
        teacher.close()
