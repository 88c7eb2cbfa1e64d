"""Which files of a folder are a benchmark's: by their names, or else by their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sod.evaluation.benchmarks.base import Benchmark
from sod.records import SodError
from sod.tasks.sources import is_data_file, read_parts, split_of

DEPTH = 3
"""Folders below the one that is named, at most."""
LOOKED_INTO = 64 << 20
"""Bytes of the largest file that is read to see what it is."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def files_in(folder: Path, benchmark: Benchmark) -> list[Path]:
    """The files of `folder` that hold the benchmark. Raises SodError where there are none, or more than one set."""
    if not folder.is_dir():
        raise SodError(f"--data-dir {folder}: no such folder")
    files = _data_files(folder)
    named = [path for path in files if _is_named(path, folder, benchmark)]
    if named:
        return _one_set(_of_split(named, benchmark, folder), benchmark, folder)
    return _one_set([path for path in files if _has_rows_of(path, benchmark)], benchmark, folder)


def _data_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for depth in range(1, DEPTH + 1):
        found += filter(is_data_file, folder.glob("/".join(["*"] * depth)))
    return sorted(found)


def _is_named(path: Path, folder: Path, benchmark: Benchmark) -> bool:
    name = _plain(f"{folder.resolve().name}/{path.relative_to(folder)}")
    return any(word in name for word in benchmark.words)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _of_split(files: Sequence[Path], benchmark: Benchmark, folder: Path) -> list[Path]:
    """The files that are not said to be of another split. Raises SodError where all are."""
    kept = [path for path in files if benchmark.split is None or split_of(path) in (None, benchmark.split)]
    if not kept:
        raise SodError(
            f"--data-dir {folder}: {benchmark.name} is its {benchmark.split} split, and "
            f"{', '.join(str(path.relative_to(folder)) for path in files)} is of another; add "
            f"{benchmark.split}.jsonl from {benchmark.hub}"
        )
    return kept


def _one_set(files: Sequence[Path], benchmark: Benchmark, folder: Path) -> list[Path]:
    """The files, which have to be parts of one set. Raises SodError for none, and for several sets."""
    exact = [path for path in files if _plain(path.name.partition(".")[0]) in benchmark.words]
    chosen = exact or list(files)
    if not chosen:
        raise SodError(
            f"--data-dir {folder}: no file of {benchmark.name}: none has {' or '.join(benchmark.words)} in its path, "
            f"and none its rows; get it from {benchmark.hub} on the Hub"
        )
    sets = {(path.parent, _SHARD.sub("", path.name)) for path in chosen}
    parts_of_one = benchmark.several and len({(path.parent, path.suffixes[-1]) for path in chosen}) == 1
    if len(sets) > 1 and not parts_of_one:
        named = ", ".join(str(path.relative_to(folder)) for path in chosen)
        raise SodError(f"--data-dir {folder}: several files may be {benchmark.name}: {named}; leave one of them there")
    return chosen


def _has_rows_of(path: Path, benchmark: Benchmark) -> bool:
    """Whether a file's rows are the benchmark's; one that is too large to look into, or cannot be read, is not."""
    if path.stat().st_size > LOOKED_INTO:
        return False
    try:
        rows = [row for part in read_parts(str(path)) for _, row in part.rows]
    except SodError:
        return False
    return benchmark.recognises(rows)
