"""What a data key names: files, folders of files, globs, or a data set of the Hub, and lists of these.

A row that is no JSON object is skipped and counted; a source that cannot be used stops the run.
"""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pyarrow as pa

from sod.hub import is_cached_dataset, is_hub_id, unreachable, why_unreachable
from sod.records import SodError
from sod.tasks.csv_rows import csv_rows
from sod.tasks.formats.base import Row
from sod.tasks.json_rows import SPLITS, conversation_column, json_values
from sod.tasks.loaded import RowNumber, SkippedRow, skips_line
from sod.tasks.tables import COMPRESSED, read_table

JSON = (".jsonl", ".json", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
READABLE = (".parquet", *JSON, *DELIMITERS)
FILE_SUFFIXES = {*READABLE, *COMPRESSED, ".txt", ".arrow"}
_HUB = re.compile(r"(?P<id>[^:@\s]+)(?::(?P<config>[^:@\s]+))?(?:@(?P<split>\S+))?")
_OTHER_JSON = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
"""Files beside data that are none."""

Source = str | Sequence[str]


@final
@dataclass(frozen=True)
class HubSource:
    """`owner/name:config@split`: a data set of the Hub; None is its only configuration, and `data.split`."""

    id: str
    config: str | None = None
    split: str | None = None


@final
@dataclass(frozen=True)
class Part:
    """The rows of one file or data set of a source: `name` is what messages call it, `stem` begins its rows' ids."""

    name: str
    stem: str
    rows: list[tuple[int, Row]]
    skipped: list[SkippedRow]


def names_of(source: Source) -> list[str]:
    """Every source that a data key names."""
    return [source] if isinstance(source, str) else list(source)


def shown(source: Source) -> str:
    """A source in a message."""
    return ", ".join(names_of(source))


def hub_source(source: str) -> HubSource | None:
    """The data set of the Hub that a source can only mean; None where it means a file, there or not."""
    match = _HUB.fullmatch(source)
    if match is None or Path(source).exists():
        return None
    if Path(match["id"]).suffix in FILE_SUFFIXES or not is_hub_id(match["id"]):
        return None
    return HubSource(match["id"], match["config"], match["split"])


def ignores_split(source: str) -> bool:
    """Whether `data.split` says nothing about a source: it is a file that cannot hold several splits."""
    return hub_source(source) is None and not Path(source).is_dir() and ".json" not in Path(source).suffixes


def files_of(source: Source, split: str = "train") -> list[Path]:
    """The files on this machine that `source` names; none for what is not here, and for data sets of the Hub."""
    found: list[Path] = []
    for name in names_of(source):
        with contextlib.suppress(SodError):
            found += [] if hub_source(name) is not None else _files(name, split)
    return found


def read_parts(source: Source, split: str = "train") -> list[Part]:
    """The rows of every file and data set that `source` names, numbered from 0 in each; over several as `RowNumber`.

    Raises SodError when one does not exist, is empty or unreadable.
    """
    if not names_of(source):
        raise SodError("no data file is named; the list is empty")
    parts = [part for name in names_of(source) for part in _parts(name, split)]
    return parts if len(parts) == 1 else _numbered(parts)


_POINTER = b"version https://git-lfs.github.com/spec/"


def read_rows(source: Source, split: str = "train") -> tuple[list[tuple[int, Row]], list[SkippedRow]]:
    """(row number, row) for each row as plain Python, and the rows that are not JSON objects. Raises SodError."""
    parts = read_parts(source, split)
    return [row for part in parts for row in part.rows], [skip for part in parts for skip in part.skipped]


def refuse_missing(source: str, rows: Sequence[tuple[int, Row]], needed: Sequence[str]) -> None:
    """Raises SodError where no row has a column that is needed."""
    columns = dict.fromkeys(name for _, row in rows for name in row)
    if missing := [column for column in needed if column not in columns]:
        raise SodError(f"{source}: no column '{missing[0]}' (columns found: {', '.join(columns) or 'none'})")


def _numbered(parts: Sequence[Part]) -> list[Part]:
    """The parts with rows that say which one they are of."""
    short = [Path(part.name).name for part in parts]
    numbered, before = [], 0
    for part in parts:
        name = Path(part.name).name
        name = part.name if short.count(name) > 1 else name
        rows = [(RowNumber.of(before + number, number, name), row) for number, row in part.rows]
        skipped = [SkippedRow(RowNumber.of(before + skip.row, skip.row, name), skip.reason) for skip in part.skipped]
        numbered.append(Part(part.name, part.stem, list(rows), skipped))
        before += len(rows) + len(skipped)
    return numbered


def _parts(source: str, split: str) -> list[Part]:
    hub = hub_source(source)
    if hub is not None:
        rows = _read_hub(hub, hub.split or split)
        return [Part(source, Path(hub.id).name, rows, _refused_empty(source, rows, []))]
    return [_part(path, split) for path in _files(source, split)]


def _refuse_pointer(path: Path) -> None:
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return  # the reader says what is wrong
    if pointer:
        raise SodError(f"{path}: is a pointer of Git LFS, not the data; run `git lfs pull` where it was cloned")


def _part(path: Path, split: str) -> Part:
    _refuse_pointer(path)
    packed = path.suffix in COMPRESSED
    kind = Path(path.stem).suffix if packed else path.suffix
    skipped: list[SkippedRow] = []
    if kind == ".parquet" and not packed:
        rows = _read_parquet(path)
    elif kind in JSON:
        rows, skipped = _read_json(path, split)
    elif kind in DELIMITERS:
        rows, skipped = _read_csv(path, DELIMITERS[kind])
    else:
        raise SodError(
            f"{path}: unknown suffix '{path.suffix}', expected {', '.join(READABLE)}, all but parquet also with .gz or "
            ".zst behind it"
        )
    stem = Path(path.stem).stem if packed else path.stem
    return Part(str(path), stem, rows, _refused_empty(str(path), rows, skipped))


def _refused_empty(name: str, rows: Sequence[Any], skipped: list[SkippedRow]) -> list[SkippedRow]:
    """The skipped rows. Raises SodError where there are no others."""
    if not rows:
        raise SodError(f"{name}: " + (f"no usable row, {skips_line(skipped)}" if skipped else "no rows"))
    return skipped


def _is_glob(source: str) -> bool:
    return any(mark in source for mark in "*?[")


def _files(source: str, split: str) -> list[Path]:
    """The files that a source names. Raises SodError where there are none."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path, split)
    if _is_glob(source):
        found = sorted(Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file())
        if not found:
            raise SodError(f"{source}: no file matches")
        return found
    raise SodError(f"{source}: no such data file")


def _in_folder(folder: Path, split: str) -> list[Path]:
    """The data files of a folder or of `data` in it, in order; of files named by split those of `split`."""
    for place in (folder, folder / "data"):
        found = sorted(path for path in place.glob("*") if is_data_file(path))
        named = {path: split_of(path) for path in found}
        if any(named.values()):
            chosen = [path for path in found if named[path] == split]
            if not chosen:
                have = ", ".join(dict.fromkeys(name for name in named.values() if name))
                raise SodError(f"{place}: no file of split '{split}', there are {have}; set data.split")
            return chosen
        if found:
            return found
    raise SodError(f"{folder}: no such data file, and as a folder it has none that ends in {', '.join(READABLE)}")


def is_data_file(path: Path) -> bool:
    """Whether a file is of a kind that is read, by its name."""
    inner = Path(path.stem) if path.suffix in COMPRESSED else path
    return path.is_file() and inner.suffix in READABLE and path.name not in _OTHER_JSON


def split_of(path: Path) -> str | None:
    """The split that a file's name begins with, as the Hub's files are named (`train-00000-of-00002.parquet`)."""
    return next((name for name in SPLITS if re.match(rf"{name}(?![a-zA-Z])", path.name)), None)


def _read_parquet(path: Path) -> list[tuple[int, Row]]:
    try:
        rows = read_table(path)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise SodError(f"{path}: not a readable parquet file ({_one_line(error)})") from error
    return [(n, without_nones(row)) for n, row in enumerate(rows)]


def _read_json(path: Path, split: str) -> tuple[list[tuple[int, Row]], list[SkippedRow]]:
    try:
        values = json_values(path, split)
    except (pa.ArrowException, ValueError, RecursionError, OSError, MemoryError) as error:
        raise SodError(f"{path}: not readable as JSON ({_one_line(error)})") from error
    rows, skipped = [], []
    for number, (where, value) in enumerate(values):
        row = _as_row(value)
        if row is None:
            skipped.append(SkippedRow(number, f"{where} a JSON object"))
        else:
            rows.append((number, row))
    return rows, skipped


def _as_row(value: Any) -> Row | None:
    """A value of a JSON file as a row: a list of messages is a conversation. None for what is no row."""
    column = conversation_column(value)
    if column is not None:
        return {column: value}
    return value if isinstance(value, dict) else None


def _read_csv(path: Path, delimiter: str) -> tuple[list[tuple[int, Row]], list[SkippedRow]]:
    try:
        read = csv_rows(path, delimiter)
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        raise SodError(f"{path}: not readable as a table of text ({_one_line(error)})") from error
    skipped = [SkippedRow(n, "it has more cells than there are columns") for n, row in enumerate(read) if row is None]
    return [(n, row) for n, row in enumerate(read) if row is not None], skipped


def _read_hub(source: HubSource, split: str) -> list[tuple[int, Row]]:
    try:
        import datasets  # optional: only this branch needs it
    except ImportError as error:
        raise SodError(f"{source.id}: no such file; for the Hub, pip install 'sod-distill[hub]'") from error
    reason = why_unreachable()
    if reason is not None and not is_cached_dataset(source.id):
        raise unreachable(source.id, "data file", reason)
    config = {} if source.config is None else {"name": source.config}
    try:
        table = datasets.load_dataset(source.id, **config, split=split, trust_remote_code=False)
    except Exception as error:  # the client raises many unrelated types (network, hub, arrow, scripts)
        raise SodError(
            f"{source.id}: cannot load split '{split}' from the Hub ({_one_line(error)}); {source.id}:CONFIG@SPLIT "
            "names another"
        ) from error
    return [(n, without_nones(row)) for n, row in enumerate(table)]


def without_nones(value: Any) -> Any:
    """Drop None-valued keys: arrow gives every struct the keys of all rows."""
    if isinstance(value, dict):
        return {key: without_nones(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nones(item) for item in value]
    return value


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
