"""A teacher with another tokenizer: it reads its own rendering of each episode and scores its own tokens.

The same messages, calls and tool results go through the teacher's chat template and dialect; spans of the student's
tokens and of the teacher's that spell the same bytes are found turn by turn (`sod.alignment`), and the teacher's
log-probability of a span stands at each of the student's tokens in it. What is in no span has no score: call syntax
and control tokens that differ, what a normalizer changes, and all of an episode that cannot be shown to the teacher.

Legend: B trajectories, T tokens, N the student's action tokens in row-major order, M the teacher's tokens, S spans, n
and m the tokens in spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sod.alignment.estimators import members
from sod.alignment.pieces import Pieces
from sod.alignment.spans import Spans
from sod.alignment.turns import Coverage, Ledger, MatchedTurn, match_trajectories
from sod.chat.render import Chat
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.scores import Aligned, Rendering, ScoreNeed, TeacherScores
from sod.records import Episode
from sod.teachers.base import Offer, Teacher
from sod.teachers.coverage import refuse_low_coverage

Tools = Sequence[Mapping[str, Any]]


@final
@dataclass(frozen=True)
class Reader:
    """How one model reads episodes: its chat, and the bytes of its tokens."""

    chat: Chat
    pieces: Pieces

    def ledger(self, token_ids: Sequence[int], turn_ids: Sequence[int], tools: Tools | None) -> Ledger:
        """These tokens as the model reads them, after a prompt that shows `tools` (None: the chat's own)."""
        return Ledger(self.chat, self.pieces, token_ids, turn_ids, tools)


@final
@dataclass(frozen=True)
class Translation:
    """Between whom is translated, and when to stop.

    `path` names the teacher in errors, `longest` is the most tokens that it can read (None: no limit). A batch of
    whose contents less than `min_coverage` is matched stops the run.
    """

    student: Reader
    teacher: Reader
    path: str
    min_coverage: float = 0.0
    longest: int | None = None


@final
@dataclass(frozen=True)
class _Read:
    """An episode as the teacher reads it, None where it cannot, and what became of each turn, by number from 1."""

    ledger: Ledger | None
    turns: Mapping[int, MatchedTurn]


@final
class TranslatedTeacher:
    """Scores with `inner`, whose tokens are others than the student's, at jointly aligned spans."""

    def __init__(self, inner: Teacher, translation: Translation) -> None:
        self.inner = inner
        self.translation = translation
        self.offers = Offer("top1", temperatures=inner.offers.temperatures)

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        """See `Teacher.score`. Reads the messages of `episodes`, and the student's tokens in the batch.

        Raises ValueError where there is not an episode for each row, or the k most probable tokens are asked for;
        SodError where less is matched than `min_coverage`, naming turn and kind.
        """
        if need.k:
            raise ValueError("the most probable tokens of a teacher with another tokenizer are not the student's")
        if len(episodes) != len(batch):
            raise ValueError(f"{len(batch)} trajectories and {len(episodes)} episodes")
        read = self._read(episodes)
        coverage = [{number: turn.coverage for number, turn in one.turns.items()} for one in read]
        refuse_low_coverage(coverage, self.translation.min_coverage, self.translation.path)
        shown = [one.ledger for one in read if one.ledger is not None]
        view = supervised_batch([(ledger.token_ids, ledger.turn_ids) for ledger in shown]) if shown else None
        theirs = None if view is None else self.inner.score(view, (), need)
        scores = _at_the_students(batch, read, theirs, coverage)
        if view is None or scores.aligned is None or not need.rendering:
            return scores
        aligned = replace(scores.aligned, rendering=_rendering(batch, read, view))
        return replace(scores, aligned=aligned)

    def state(self) -> Any:
        """See `Teacher.state`."""
        return self.inner.state()

    def load(self, state: Any) -> None:
        """See `Teacher.load`."""
        self.inner.load(state)

    def _read(self, episodes: Sequence[Episode]) -> list[_Read]:
        """All episodes, matched together."""
        ledgers = [self._ledgers(episode) for episode in episodes]
        both = [(student, teacher) for student, teacher in ledgers if teacher is not None]
        matched = iter(match_trajectories(both))
        read = []
        for student, teacher in ledgers:
            if teacher is None:
                read.append(_unread(student))
            else:
                numbers = sorted(set(student.turn_ids) - {0})
                read.append(_Read(teacher, dict(zip(numbers, next(matched), strict=True))))
        return read

    def _ledgers(self, episode: Episode) -> tuple[Ledger, Ledger | None]:
        """An episode in the student's tokens, and in the teacher's where that can be shown it."""
        trajectory, translation = episode.trajectory, self.translation
        tools = None if trajectory.opening is None else trajectory.opening.tools
        student = translation.student.ledger(trajectory.token_ids, trajectory.turn_ids, tools)
        try:
            ids, turns = translation.teacher.chat.encode_conversation(episode.messages, tools)
        except ValueError:  # what the student said cannot be written in the teacher's dialect
            return student, None
        if translation.longest is not None and len(ids) > translation.longest:
            return student, None
        return student, translation.teacher.ledger(ids, turns, tools)


def _unread(student: Ledger) -> _Read:
    """An episode of which the teacher reads nothing: but for control tokens, all that was said is unmatched."""
    turn_N = np.asarray(student.turn_ids)
    control_N = student.pieces.control[student.ids]
    none = np.zeros(0, np.int64)
    turns = {}
    for number in sorted(set(turn_N.tolist()) - {0}):
        tokens, control = int((turn_N == number).sum()), int(control_N[turn_N == number].sum())
        left_out = Coverage(control=control, unmatched=tokens - control)
        turns[number] = MatchedTurn(Spans(none, none, none, none), left_out)
    return _Read(None, turns)


def _at_the_students(
    batch: TokenBatch, read: Sequence[_Read], theirs: TeacherScores | None, coverage: Sequence[Mapping[int, Coverage]]
) -> TeacherScores:
    """The teacher's scores of its own tokens at the student's, span by span."""
    action_BT = batch.turn_BT > 0
    width = 0 if theirs is None else theirs.logp_BT.shape[1]
    spans = _spans_of_batch(read, action_BT.sum(1).tolist(), width)
    span_n, at_n = members(spans.student_start, spans.student_stop)
    span_m, at_m = members(spans.teacher_start, spans.teacher_stop)
    size_S = torch.zeros(len(spans)).index_add(0, span_m, torch.ones(len(span_m)))

    def placed(value_n: Tensor) -> Tensor:
        value_N = value_n.new_zeros(int(action_BT.sum()))
        value_N[at_n] = value_n
        return value_n.new_zeros(action_BT.shape).masked_scatter(action_BT, value_N)

    def summed(value_BT: Tensor) -> Tensor:
        return torch.zeros(len(spans)).index_add(0, span_m, value_BT.flatten()[at_m])

    def means(value_BT: Tensor | None) -> Tensor | None:
        return None if value_BT is None else placed((summed(value_BT) / size_S)[span_n])

    aligned = Aligned(placed(span_n + 1), _counts(coverage, batch), torch.tensor([one.ledger is None for one in read]))
    if theirs is None:  # of no episode the teacher could read
        return TeacherScores(torch.zeros(action_BT.shape), aligned=aligned)
    logp_BT = placed(summed(theirs.logp_BT)[span_n])
    return TeacherScores(logp_BT, means(theirs.top1_BT), means(theirs.entropy_BT), aligned=aligned)


def _rendering(batch: TokenBatch, read: Sequence[_Read], view: TokenBatch) -> Rendering:
    """The teacher's tokens by rows of the batch, those of an unread trajectory empty."""
    spans = _spans_of_batch(read, (batch.turn_BT > 0).sum(1).tolist(), view.token_BT.shape[1])
    span_m, at_m = members(spans.teacher_start, spans.teacher_stop)
    span_RL = torch.zeros_like(view.token_BT)
    span_RL.view(-1)[at_m] = span_m + 1
    read_B = torch.tensor([one.ledger is not None for one in read])

    def placed(value_R: Tensor) -> Tensor:
        value_B = value_R.new_zeros(len(read), *value_R.shape[1:])
        value_B[read_B] = value_R
        return value_B

    return Rendering(placed(view.token_BT), placed(view.turn_BT), placed(span_RL), placed(view.length_B))


def _spans_of_batch(read: Sequence[_Read], actions: Sequence[int], width: int) -> Spans:
    """All spans in numbers of the batch's action tokens, and of the teacher's tokens in rows of `width`."""
    parts, own, row = [], 0, 0
    for one, count in zip(read, actions, strict=True):
        if one.ledger is not None:
            parts += [turn.spans.moved(own, row * width) for turn in one.turns.values()]
            row += 1
        own += count
    empty = np.zeros(0, np.int64)
    columns = ([getattr(part, known.name) for part in parts] for known in fields(Spans))
    return Spans(*(np.concatenate([empty, *column]) for column in columns))


def _counts(coverage: Sequence[Mapping[int, Coverage]], batch: TokenBatch) -> Tensor:
    """The counts of each turn, by its number."""
    names = [known.name for known in fields(Coverage)]
    counts_BUC = torch.zeros(len(batch), int(batch.turn_BT.max()), len(names), dtype=torch.int64)
    for row, turns in enumerate(coverage):
        for number, found in turns.items():
            counts_BUC[row, number - 1] = torch.tensor([getattr(found, name) for name in names])
    return counts_BUC
