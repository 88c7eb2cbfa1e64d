"""Teachers by the source of a task, each with a weight on its signal.

Legend: B trajectories, T tokens, N action tokens in row-major order, K the most probable ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from sod.objective.batch import TokenBatch
from sod.objective.columns import action_numbers
from sod.objective.scores import LEVELS, ScoreNeed, TeacherScores
from sod.records import Episode, Fault
from sod.teachers.base import Offer, Teacher


@final
@dataclass(frozen=True)
class Route:
    """A teacher, the sources of the tasks that it teaches (None: all that no other has), and its weight."""

    teacher: Teacher
    sources: frozenset[str] | None = None
    weight: float = 1.0


@final
class RoutedTeacher:
    """Each trajectory is scored by the teacher of its task's source. Its weights are in the scores.

    One teacher alone may read another tokenizer than the student's; several must share it.
    """

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self.routes = dict(routes)

    @property
    def offers(self) -> Offer:
        """What all of them can give."""
        return common_offer([route.teacher.offers for route in self.routes.values()])

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        """See `Teacher.score`. Reads the sources of `episodes`. Raises ValueError where a source has no teacher."""
        if len(episodes) != len(batch):
            raise ValueError(f"{len(batch)} trajectories and {len(episodes)} episodes")
        names = [self.name_of(episode.task.data_source) for episode in episodes]
        weight_B = torch.tensor([self.routes[name].weight for name in names])
        parts: list[tuple[list[int], TeacherScores]] = []
        for name in dict.fromkeys(names):
            rows = [row for row, taught_by in enumerate(names) if taught_by == name]
            part = batch if len(rows) == len(batch) else batch.rows(rows)
            scores = self.routes[name].teacher.score(part, [episodes[row] for row in rows], need)
            parts.append((rows, scores))
        merged = parts[0][1] if len(parts) == 1 else _merged(batch, parts, need)
        return replace(merged, weight_B=weight_B)

    def name_of(self, source: str) -> str:
        """The name of the teacher of a source. Raises ValueError where there is none."""
        found = [name for name, route in self.routes.items() if route.sources is not None and source in route.sources]
        found += [name for name, route in self.routes.items() if route.sources is None]
        if not found:
            raise ValueError(f"no teacher has tasks of source {source!r}")
        return found[0]

    def state(self) -> Any:
        """The one teacher's; None of several, which do not change."""
        return next(iter(self.routes.values())).teacher.state() if len(self.routes) == 1 else None

    def load(self, state: Any) -> None:
        """See `Teacher.load`."""
        if len(self.routes) == 1:
            next(iter(self.routes.values())).teacher.load(state)


def common_offer(offers: Sequence[Offer]) -> Offer:
    """What all of these offer."""
    known = [offer.largest_k for offer in offers if offer.largest_k is not None]
    limits = [offer.temperatures for offer in offers if offer.temperatures is not None]
    return Offer(
        min((offer.level for offer in offers), key=LEVELS.index),
        min(known, default=None),
        frozenset.intersection(*limits) if limits else None,
        all(offer.entropy for offer in offers),
    )


def _merged(batch: TokenBatch, parts: Sequence[tuple[list[int], TeacherScores]], need: ScoreNeed) -> TeacherScores:
    """Scores of some rows each as those of the whole batch."""
    if any(scores.aligned is not None for _, scores in parts):
        raise ValueError("several teachers, of which one has another tokenizer")
    number_BT = action_numbers(batch.turn_BT > 0)
    columns: dict[str, Tensor] = {"logp_BT": torch.zeros(batch.token_BT.shape)}
    for name in [name for name, asked in (("top1_BT", need.top1), ("entropy_BT", need.entropy)) if asked]:
        columns[name] = torch.zeros(batch.token_BT.shape)
    if need.k:
        actions = batch.action_tokens()
        columns["ids_NK"] = torch.zeros(actions, need.k, dtype=torch.int64)
        columns["logps_NK"] = torch.zeros(actions, need.k)
    faults: dict[int, Fault] = {}
    for rows, scores in parts:
        at_B = torch.tensor(rows)
        for name, column in columns.items():
            value = getattr(scores, name)
            if name.endswith("_NK"):
                number_bT = number_BT[at_B]
                column[number_bT[number_bT >= 0]] = value
            else:
                column[at_B, : value.shape[1]] = value
        faults |= {rows[row]: fault for row, fault in scores.faults.items()}
    return replace(TeacherScores(columns.pop("logp_BT"), faults=faults), **columns)  # type: ignore[arg-type]
