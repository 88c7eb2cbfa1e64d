"""A teacher of another tokenizer says what it thinks of a span of the student's tokens, not of each: its scores are
shared out among the tokens of each span (DPCA, arXiv 2606.09456).

Legend: B trajectories, T tokens, n tokens in spans, S spans.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sod.objective.scores import TeacherScores


def shared_out(own_n: Tensor, span_n: Tensor, teacher_S: Tensor) -> Tensor:
    """Each token's part of the teacher's log-probability of its span, as large as its part of the student's. Shape n.

    `own_n` are the student's log-probabilities, `span_n` (int64) the number of each token's span. The only token of a
    span gets the teacher's own number, to the bit. Where the student is certain of a whole span the parts are equal.
    """
    student_S = torch.zeros_like(teacher_S).index_add(0, span_n, own_n)
    size_S = torch.zeros_like(teacher_S).index_add(0, span_n, torch.ones_like(own_n))
    certain_n = student_S[span_n] == 0.0
    part_n = torch.where(certain_n, 1.0 / size_S[span_n], own_n / student_S[span_n].masked_fill(certain_n, 1.0))
    return teacher_S[span_n] * torch.where(size_S[span_n] == 1.0, 1.0, part_n)


def by_token(teacher: TeacherScores, old_BT: Tensor) -> TeacherScores:
    """The scores with a log-probability for each aligned token of the student's, given its own (B x T, nats).

    Those of a teacher with the student's tokenizer as they are. Tokens that are in no span have 0, which means nothing.
    """
    if teacher.aligned is None:
        return teacher
    span_BT = teacher.aligned.span_BT
    at_BT = span_BT > 0
    spans, span_n = torch.unique(span_BT[at_BT], return_inverse=True)
    theirs_n = teacher.logp_BT[at_BT]
    teacher_S = theirs_n.new_zeros(len(spans)).scatter(0, span_n, theirs_n)  # the same at all tokens of a span
    own_n = shared_out(old_BT.detach()[at_BT], span_n, teacher_S)
    return replace(teacher, logp_BT=torch.zeros_like(teacher.logp_BT).masked_scatter(at_BT, own_n))
