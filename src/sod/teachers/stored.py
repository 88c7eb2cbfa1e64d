"""Episodes with a teacher's scores in a file: what `sod teacher score` writes, and a run distils from.

A Parquet file, a row for each trajectory: the trajectory as runs write it (JSON), and the teacher's log-probabilities
at its action tokens, with those of its k most probable tokens. What they depend on stands in the file's metadata.

Legend: N action tokens of a trajectory, K the most probable ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from sod.models.support import vocabulary
from sod.objective.batch import TokenBatch
from sod.objective.scores import Level, ScoreNeed, TeacherScores
from sod.records import Episode, Fault, FaultKind, Message, SodError, Task
from sod.runlog import trajectory_of, trajectory_row
from sod.teachers.answers import HIGHEST
from sod.teachers.base import Offer
from sod.teachers.served import gathered, rows_of
from sod.teachers.server import RowScores

FORMAT = 1
_META = b"sod"
_SCHEMA = pa.schema(
    [
        ("trajectory", pa.large_string()),
        ("source", pa.large_string()),
        ("logps", pa.large_list(pa.float32())),
        ("ids", pa.large_list(pa.int32())),
        ("best", pa.large_list(pa.float32())),
    ]
)


@final
@dataclass(frozen=True)
class About:
    """What the scores of a file are: of which teacher, at which temperature, how many of its most probable tokens; and
    the hash of the vocabulary that the token ids are of.
    """

    teacher: str
    temperature: float
    k: int
    vocabulary: str


@final
@dataclass(frozen=True)
class Scored:
    """An episode, and the scores at its action tokens."""

    episode: Episode
    scores: RowScores


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 (hex) of a tokenizer's tokens and their ids."""
    canonical = json.dumps(sorted(vocabulary(tokenizer).items(), key=lambda item: item[1]))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def write_scores(path: Path, about: About, parts: Iterable[Sequence[Scored]]) -> int:
    """Write the parts as they come, and put the file in its place when all are there; how many episodes are in it.

    Raises SodError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    schema = _SCHEMA.with_metadata({_META: json.dumps({"format": FORMAT, **asdict(about)}).encode()})
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with parquet.ParquetWriter(temporary, schema) as writer:
            for part in parts:
                count += len(part)
                writer.write_table(pa.Table.from_pylist([_row_of(one) for one in part], schema))
        temporary.replace(path)
    except OSError as error:
        raise SodError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_scores(path: Path) -> tuple[About, list[Scored]]:
    """What a file holds. Raises SodError, naming it, for one that is no such file."""
    try:
        table = parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[_META])
        version = about.pop("format")
        known = About(**about) if version == FORMAT else None
        columns = [_lists(table, name) for name in ("logps", "ids", "best")]
        columns += [table[name].to_pylist() for name in ("trajectory", "source")]
    except FileNotFoundError:
        raise SodError(f"{path}: no such file; `sod teacher score FILE --out {path}` writes it") from None
    except (OSError, KeyError, ValueError, TypeError, AttributeError, pa.ArrowInvalid) as error:
        reason = type(error).__name__
        raise SodError(f"{path}: holds no scores of a teacher ({reason}); make it by `sod teacher score`") from error
    if known is None:
        raise SodError(f"{path}: scores of format {version}, written by a later version of sod; read it there")
    scored = []
    for number, row in enumerate(zip(*columns, strict=True), start=1):
        try:
            scored.append(_scored_of(known.k, *row))
        except ValueError as error:
            raise SodError(
                f"{path}: row {number} is damaged ({error}); make the file anew by `sod teacher score`"
            ) from error
    if not scored:
        raise SodError(f"{path}: holds no episodes; make it anew by `sod teacher score`")
    return known, scored


@final
class StoredTeacher:
    """Gives the scores that a file has of its own episodes."""

    def __init__(self, about: About, scored: Sequence[Scored]) -> None:
        self.about = about
        self._scores = {one.episode.trajectory.token_ids: one.scores for one in scored}

    @property
    def highest_token(self) -> int:
        """Of all episodes, and of the teacher's most probable ones."""
        of_teacher = max(int(scores.id_NK.max(initial=0)) for scores in self._scores.values())
        return max(of_teacher, *(max(ids) for ids in self._scores))

    @property
    def offers(self) -> Offer:
        """See `Teacher.offers`."""
        level: Level = "topk" if self.about.k else "sampled"
        return Offer(level, self.about.k, frozenset({self.about.temperature}), entropy=False)

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        """See `Teacher.score`. Reads the batch's tokens; `episodes` are not looked at."""
        if need.entropy or max(need.k, int(need.top1)) > self.about.k:
            raise ValueError(f"the stored scores offer {self.offers}, and {need} was asked for")
        rows = rows_of(batch)
        missing = Fault(FaultKind.BAD_REPLY, "the stored scores have no such trajectory", False)
        return gathered(batch, rows, [self._scores.get(row.ids, missing) for row in rows], need)

    def state(self) -> None:
        """None: it does not change."""

    def load(self, state: object) -> None:
        """Nothing to restore."""


def _row_of(one: Scored) -> dict[str, Any]:
    row = trajectory_row(one.episode.trajectory, one.episode.task)
    return {
        "trajectory": json.dumps(row),
        "source": one.episode.task.data_source,
        "logps": one.scores.logp_N,
        "ids": one.scores.id_NK.ravel().astype(np.int32),
        "best": one.scores.best_NK.ravel(),
    }


def _lists(table: Any, name: str) -> list[Any]:
    """A column of lists as arrays, without a Python object for every number."""
    column = table[name].combine_chunks()
    ends = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=False)
    return [values[start:stop] for start, stop in pairwise(ends)]


def _scored_of(k: int, logps: Any, ids: Any, best: Any, text: str, source: str) -> Scored:
    """A row as it was written. Raises ValueError for one that was not written so."""
    try:
        row = json.loads(text)
    except TypeError:
        raise ValueError("no trajectory") from None
    episode = episode_of_row(row, source)
    actions = sum(turn > 0 for turn in episode.trajectory.turn_ids)
    if len(logps) != actions or len(ids) != actions * k or len(best) != actions * k:
        raise ValueError(f"{len(logps)}, {len(ids)} and {len(best)} scores of {actions} tokens and the top {k} of each")
    scores = RowScores(logps, ids.reshape(actions, k).astype(np.int64), best.reshape(actions, k))
    if not scores.finite or (logps > HIGHEST).any() or (best > HIGHEST).any():
        raise ValueError("a number that is no log-probability")
    if (ids < 0).any():
        raise ValueError("a token below 0")
    return Scored(episode, scores)


def episode_of_row(row: Any, source: str = "unknown") -> Episode:
    """The episode that a run wrote as this row. Raises ValueError, saying why, for a row that no run writes."""
    try:
        episode = Episode(task_of_row(row, source), trajectory_of(row))
    except KeyError as error:
        raise ValueError(f"no field {error}") from None
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    trajectory = episode.trajectory
    if any(type(number) is not int or number < 0 for number in (*trajectory.token_ids, *trajectory.turn_ids)):
        raise ValueError("token_ids and turn_ids are numbers from 0")
    if not trajectory.turn_ids or trajectory.turn_ids[0]:
        raise ValueError("no prompt before the first turn")
    if type(trajectory.reward) not in (int, float) or not math.isfinite(trajectory.reward):
        raise ValueError(f"reward {trajectory.reward!r:.40} is no number")
    return episode


def task_of_row(row: dict[str, Any], source: str = "unknown") -> Task:
    """The task that a row of a trajectory is about, as far as the row says."""
    prompt = tuple(Message(one["role"], one["content"]) for one in row.get("prompt") or ())
    truth, *others = row.get("truths") or [""]
    return Task(str(row["task_id"]), prompt, truth, source, truths=tuple(others))
