"""What a teacher of another tokenizer changes in a plan: it reads tokens of its own, and losses may be over spans.

The two tokenizers are read for it, no conversations: how many tokens the teacher needs is found on a short text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import torch
from torch import Tensor

from sod.build.method import alignment_of
from sod.build.translation import is_translated, longest_read, measure_between, named_pieces
from sod.models.load import load_tokenizer
from sod.objective.alignments import Alignment
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER
from sod.objective.scores import Aligned, Rendering, Scores, TeacherScores
from sod.recipe import Recipe
from sod.teachers.local import LocalTeacher
from sod.training.spans import SpanMeasure

SAMPLE = """The store sold 4,725 boxes in March and 12.5% fewer in April, so I have to multiply before I add.

{"name": "python", "arguments": {"code": "total = 4725 * (1 + 0.875)\\nprint(round(total, 2))"}}

def shares(values):
    whole = sum(values)
    return [value / whole for value in values]

That makes 8859.375, which I round: the answer is \\boxed{8859}. Na\u00efve caf\u00e9 owners \u2014 \u20ac 30 each."""
"""Text, numbers, a call and code, as episodes have them."""


@final
@dataclass(frozen=True)
class Crossing:
    """Between the student's tokens and the teacher's.

    `ratio` is how many of the teacher's there are for one of the student's, `longest` the most that it reads (None: no
    limit), `measure` the loss over spans where the method has one.
    """

    ratio: float
    longest: int | None = None
    measure: SpanMeasure | None = None

    def tokens(self, student: int) -> int:
        """How many tokens of the teacher's so many of the student's are, at most."""
        needed = math.ceil(student * self.ratio)
        return needed if self.longest is None else min(needed, self.longest)


def crossing_of(recipe: Recipe, method: Method) -> Crossing | None:
    """What lies between the two models of a recipe; None where the teacher reads the student's tokens.

    Raises SodError where a tokenizer cannot be loaded, or the two cannot be aligned.
    """
    if recipe.teacher is None or method.needs & SELF_TEACHER:
        return None
    student, teacher = recipe.student.path, recipe.teacher.path
    if not is_translated(recipe, method, _tokenizer(student), _tokenizer(teacher)):
        return None
    alignment = alignment_of(recipe.method, LocalTeacher.offers)
    return Crossing(
        ratio=_ratio(student, teacher),
        longest=longest_read(teacher),
        measure=_measure(alignment, student, teacher) if alignment.dense else None,
    )


@cache
def _tokenizer(path: str) -> Any:
    return load_tokenizer(path)


@cache
def _ratio(student: str, teacher: str) -> float:
    own, theirs = (len(_tokenizer(path).encode(SAMPLE, add_special_tokens=False)) for path in (student, teacher))
    return theirs / max(1, own)


@cache
def _measure(alignment: Alignment, student: str, teacher: str) -> SpanMeasure:
    own, theirs = (named_pieces(_tokenizer(path), path) for path in (student, teacher))
    return measure_between(alignment, own, theirs, teacher, torch.device("cpu"))


def rendered(batch: TokenBatch, crossing: Crossing) -> TokenBatch:
    """The batch with a rendering of each row in the teacher's tokens, as many as it takes, all of them in spans."""
    rows, spans_BT = [], torch.zeros_like(batch.token_BT)
    spans_theirs: list[Tensor] = []
    first = 1
    for row, length in enumerate(batch.length_B.tolist()):
        own_at = torch.nonzero(batch.turn_BT[row]).flatten()
        longer = crossing.tokens(length)
        theirs = min(longer - 1, max(1, round(len(own_at) * crossing.ratio)))
        spans = min(len(own_at), theirs)
        spans_BT[row, own_at] = _spread(len(own_at), spans) + first
        spans_theirs.append(_spread(theirs, spans) + first)
        rows.append(([row] * longer, [0] + [1] * theirs + [0] * (longer - 1 - theirs)))
        first += spans
    view = supervised_batch(rows)
    spans_BL = torch.zeros_like(view.token_BT).masked_scatter(view.turn_BT > 0, torch.cat(spans_theirs))
    rendering = Rendering(view.token_BT, view.turn_BT, spans_BL, view.length_B)
    none_BUC, unread_B = torch.zeros(len(batch), 1, 6, dtype=torch.int64), torch.zeros(len(batch), dtype=torch.bool)
    aligned = Aligned(spans_BT, none_BUC, unread_B, rendering)
    scores = TeacherScores(torch.zeros(batch.token_BT.shape), aligned=aligned)
    return replace(batch, scores=Scores(None, scores, "update"))


def _spread(tokens: int, spans: int) -> Tensor:
    """The number of the span, from 0 on, of each of so many tokens."""
    return torch.arange(tokens) * spans // max(1, tokens)
