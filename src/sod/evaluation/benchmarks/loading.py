"""The problems of a benchmark, from the Hub or from a folder, and the fingerprint of what was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, final

from sod.evaluation.benchmarks.base import Benchmark
from sod.evaluation.benchmarks.finding import files_in
from sod.evaluation.benchmarks.problem import Problem
from sod.hub import dataset_snapshot, refuse_without_token
from sod.records import SodError
from sod.tasks.files import row_id
from sod.tasks.formats.base import BadRowError, Fields, Row
from sod.tasks.loaded import skips_line
from sod.tasks.sources import read_parts


@final
@dataclass(frozen=True)
class ProblemSet:
    """The problems of a benchmark as they were read from `source`, of the Hub's `revision` where that is known."""

    benchmark: Benchmark
    problems: tuple[Problem, ...]
    source: str
    files: tuple[str, ...]
    revision: str | None = None

    def about(self) -> dict[str, Any]:
        """What a result says about it: where it is from, and sha256 over all that was read of its problems."""
        ids = [problem.id for problem in self.problems]
        return {
            "name": self.benchmark.name,
            "title": self.benchmark.title,
            "source": self.source,
            "files": list(self.files),
            "revision": self.revision,
            "problems": len(self.problems),
            "published_problems": self.benchmark.count,
            "sha256": _sha256([_content(problem) for problem in self.problems]),
            "ids_sha256": _sha256(ids),
        }


def load_problems(benchmark: Benchmark, data_dir: Path | None, notice: Callable[[str], None]) -> ProblemSet:
    """All problems of the benchmark, from `data_dir` or else from the Hub; `notice` hears of a number that is not the
    published one.

    Raises SodError where there are no files of it, and for a row that is not as published: a benchmark of which rows
    are left out is another one.
    """
    if data_dir is None:
        folder = _fetched(benchmark)
        files = _published(folder, benchmark)
        source, revision = benchmark.hub, folder.name
    else:
        files = files_in(data_dir, benchmark)
        folder, source, revision = data_dir, str(data_dir), None
    problems = tuple(_problems(files, benchmark))
    _tell_number(len(problems), benchmark, source, notice)
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    return ProblemSet(benchmark, problems, source, names, revision)


def _fetched(benchmark: Benchmark) -> Path:
    try:
        if benchmark.gated:
            refuse_without_token(benchmark.hub)
        return dataset_snapshot(benchmark.hub, benchmark.files)
    except SodError as error:
        raise SodError(f"{benchmark.name}: {error}; or name a folder with its files by --data-dir") from error


def _published(folder: Path, benchmark: Benchmark) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in found if any(fnmatch(path.relative_to(folder).as_posix(), at) for at in benchmark.files)]
    if not files:
        raise SodError(
            f"{benchmark.hub}: has no file {' or '.join(benchmark.files)} any more, or it was not fetched whole; "
            "name a folder with it by --data-dir"
        )
    return files


def _problems(files: Sequence[Path], benchmark: Benchmark) -> list[Problem]:
    problems: list[Problem] = []
    taken: set[str] = set()
    for file in files:  # one after another: those of LiveCodeBench take gigabytes
        for number, row in benchmark.select(_rows(file, benchmark)):
            name = row_id(Fields(row)) or f"{benchmark.name}-{len(problems)}"
            if name in taken:
                name = f"{name}-{len(problems)}"
            taken.add(name)
            problems.append(_problem(file, number, row, name, benchmark))
    return problems


def _rows(file: Path, benchmark: Benchmark) -> list[tuple[int, Row]]:
    parts = read_parts(str(file), benchmark.split or "train")
    skipped = [skip for part in parts for skip in part.skipped]
    if skipped:
        raise SodError(f"{file}: {skips_line(skipped)}; {benchmark.name} needs every row")
    return [row for part in parts for row in part.rows]


def _problem(file: Path, number: int, row: Row, name: str, benchmark: Benchmark) -> Problem:
    missing = benchmark.missing(row)
    if missing is not None:
        others = f" or {', '.join(missing[1:])}" if len(missing) > 1 else ""
        raise SodError(
            f"{file}: row {number}: no column '{missing[0]}'{others}, as {benchmark.name} has it "
            f"({benchmark.hub}); columns found: {', '.join(row) or 'none'}"
        )
    try:
        return benchmark.read(row, name)
    except BadRowError as error:
        raise SodError(f"{file}: row {number}: {error}; {benchmark.name} is published as {benchmark.hub}") from error


def _tell_number(found: int, benchmark: Benchmark, source: str, notice: Callable[[str], None]) -> None:
    if found == benchmark.count:
        return
    known = benchmark.others.get(found)
    meant = f" ({known})" if known else ""
    notice(
        f"{source}: {found:,} problems{meant}, and {benchmark.name} has {benchmark.count:,}: figures do not compare "
        "with those of the whole set; the result says so"
    )


def _content(problem: Problem) -> list[Any]:
    tests = "" if problem.task is None else problem.task.ground_truth
    return [problem.id, problem.question, problem.answer, problem.choices, problem.right, problem.difficulty, tests]


def _sha256(values: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()
