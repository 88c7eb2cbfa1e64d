"""A teacher behind HTTP: vLLM, or any OpenAI-compatible server that gives log-probabilities of given tokens.

What the student sampled is sent as token ids, a request for each trajectory. Answers are checked (`answers.py`), kept
on disk (`score_cache.py`) and asked for with patience (`sod.service`); a trajectory that could not be scored is a fault
of that trajectory. Distributions are those of the server: at temperature 1, over all ids that the model has.

Legend: B trajectories, T tokens, N action tokens in row-major order, K the most probable ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from sod.asynchronous import loop_thread
from sod.objective.batch import TokenBatch
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.records import Episode, Fault
from sod.teachers.base import Offer
from sod.teachers.server import Offered, Row, RowScores, Server


@final
class ServedTeacher:
    """Scores by a server that has been `probed`."""

    def __init__(self, server: Server, offered: Offered) -> None:
        self.server = server
        self.offered = offered

    @property
    def offers(self) -> Offer:
        """See `Teacher.offers`."""
        return self.offered.offer

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        """See `Teacher.score`. Reads the batch's tokens; `episodes` are not looked at."""
        k = max(need.k, int(need.top1))
        if need.entropy or k > self.offered.largest_k:
            raise ValueError(f"{self.server.model} offers {self.offered.offer}, and {need} was asked for")
        rows = rows_of(batch)
        answers = loop_thread().run(self.server.scored(rows, k, self.offered))
        return gathered(batch, rows, answers, need)

    def state(self) -> None:
        """None: it does not change."""

    def load(self, state: object) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Close its connections and cache. Safe to call twice."""
        loop_thread().run(self.server.close())


def rows_of(batch: TokenBatch) -> list[Row]:
    """The batch's trajectories, with the places of their action tokens; a first token has no log-probability."""
    rows = []
    for row, length in enumerate(batch.length_B.tolist()):
        places = torch.nonzero(batch.turn_BT[row, :length]).flatten().tolist()
        rows.append(Row(tuple(batch.token_BT[row, :length].tolist()), tuple(place for place in places if place)))
    return rows


def gathered(
    batch: TokenBatch, rows: Sequence[Row], answers: Sequence[RowScores | Fault], need: ScoreNeed
) -> TeacherScores:
    """The rows' scores as those of the batch; what could not be scored is 0 and has a fault."""
    logp_BT = torch.zeros(batch.token_BT.shape)
    top1_BT = torch.zeros(batch.token_BT.shape) if need.top1 else None
    ids, logps, faults = [], [], {}
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        places = torch.tensor(row.places, dtype=torch.int64)
        if isinstance(answer, Fault):
            faults[number] = answer
            ids.append(np.zeros((len(places), need.k), np.int64))
            logps.append(np.zeros((len(places), need.k), np.float32))
            continue
        logp_BT[number, places] = torch.from_numpy(answer.logp_N.copy())
        if top1_BT is not None:
            top1_BT[number, places] = torch.from_numpy(answer.best_NK[:, 0].copy()).exp()
        ids.append(answer.id_NK[:, : need.k])
        logps.append(answer.best_NK[:, : need.k])
    return TeacherScores(
        logp_BT,
        top1_BT,
        ids_NK=torch.from_numpy(np.concatenate(ids)) if need.k else None,
        logps_NK=torch.from_numpy(np.concatenate(logps)) if need.k else None,
        faults=faults,
    )
