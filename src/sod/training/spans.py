"""Dense losses between a student and a teacher of another tokenizer, over jointly aligned spans, for the update.

Chunked like `sod.models.dense`: the logits of a few spans at a time, of both models, forward and backward; no tensor of
`tokens x vocabulary` floats ever covers more. The teacher's logits are made again in the backward pass.

Legend: B trajectories, T tokens, N the student's action tokens in row-major order, M the teacher's, S spans, D hidden
size, V and W the vocabularies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sod.alignment.estimators import Chunk
from sod.models.dense import CHUNK_LOGITS, CUDA_ROWS, LEAST_ROWS
from sod.models.device import moved
from sod.models.forward import hidden_before_actions
from sod.models.logits import LogitShape, shape_of
from sod.models.score import logits, logps_after
from sod.models.sharded import within
from sod.models.support import columns_of
from sod.models.team import known_to_all, team_of, to_all
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.scores import Aligned, Rendering

SpanMeasure = Callable[[Chunk], Tensor]
"""From the logits of a few spans to one value (nats) for each; differentiable in the student's."""


@final
@dataclass(frozen=True)
class _Side:
    """One model's tokens: what its decoder says before each, their ids, and the tokens of each span."""

    hidden_ND: Tensor
    id_N: Tensor
    start_S: Tensor
    stop_S: Tensor

    def part(self, first: int, last: int) -> _Side:
        """The spans from `first` to `last`, with their tokens alone."""
        sizes_S = self.stop_S[first:last] - self.start_S[first:last]
        stop_S = sizes_S.cumsum(0)
        start_S = stop_S - sizes_S
        at_n = torch.repeat_interleave(self.start_S[first:last] - start_S, sizes_S) + torch.arange(int(sizes_S.sum()))
        at_n = moved(at_n, self.hidden_ND.device)
        return _Side(self.hidden_ND[at_n], self.id_N[at_n], start_S, stop_S)


def span_terms(
    student: Any, teacher: Any, batch: TokenBatch, measure: SpanMeasure, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The student's log-probabilities of the action tokens (as `action_logps`), and the measure of each span.

    Both in nats, float32, B x T, 0 at context, from one forward of the student; differentiable in it alone. A span's
    value stands at its first token, 0 at all others. Raises ValueError for a batch without the teacher's renderings.
    """
    aligned = None if batch.scores is None or batch.scores.teacher is None else batch.scores.teacher.aligned
    if aligned is None or aligned.rendering is None:
        raise ValueError("a loss over spans needs the teacher's renderings of the batch")
    rendering = aligned.rendering
    return within(student, lambda: _terms(student, teacher, batch, aligned, rendering, measure, temperature))


def _terms(
    student: Any,
    teacher: Any,
    batch: TokenBatch,
    aligned: Aligned,
    rendering: Rendering,
    measure: SpanMeasure,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """`span_terms`, with the student's weights together."""
    action_BT = batch.turn_BT > 0
    hidden_ND = hidden_before_actions(student, batch)
    logp_BT = logps_after(student, batch, hidden_ND, temperature)
    id_N = batch.token_BT[action_BT]
    value_N = torch.zeros(len(id_N))
    if bool((aligned.span_BT > 0).any()):
        whole_ND = to_all(hidden_ND, len(id_N), team_of(student))
        own = _side(whole_ND, id_N, aligned.span_BT[action_BT])
        theirs = _teachers_side(teacher, aligned, rendering)
        value_N = value_N.index_add(0, own.start_S, _shared_out(student, teacher, own, theirs, measure, temperature))
    return logp_BT, torch.zeros(action_BT.shape).masked_scatter(action_BT, value_N)


def _side(hidden_ND: Tensor, id_N: Tensor, span_N: Tensor) -> _Side:
    """The tokens in spans, which are whole and of one piece on either side, by the number of their span."""
    at_n = torch.nonzero(span_N > 0).flatten()
    spans, span_n, size_S = torch.unique(span_N[at_n], return_inverse=True, return_counts=True)
    start_S = torch.full((len(spans),), len(span_N)).scatter_reduce(0, span_n, at_n, "amin")
    return _Side(hidden_ND, moved(id_N, hidden_ND.device), start_S, start_S + size_S)


def _teachers_side(teacher: Any, aligned: Aligned, rendering: Rendering) -> _Side:
    read_B = (~aligned.unread_B).nonzero().flatten()
    turn_BL = rendering.turn_BL[read_B]
    lengths = rendering.length_B[read_B].tolist()
    rows = zip(rendering.token_BL[read_B].tolist(), turn_BL.tolist(), lengths, strict=True)
    view = supervised_batch([(ids[:length], turns[:length]) for ids, turns, length in rows])
    with torch.no_grad():
        hidden_MD = hidden_before_actions(teacher, view)
    id_M = view.token_BT[view.turn_BT > 0]
    return _side(to_all(hidden_MD, len(id_M), team_of(teacher)), id_M, rendering.span_BL[read_B][turn_BL > 0])


def _shared_out(
    student: Any, teacher: Any, own: _Side, theirs: _Side, measure: SpanMeasure, temperature: float
) -> Tensor:
    """`_values`, of which each rank of the student's team makes its share."""
    team, count = team_of(student), len(own.start_S)
    first, last = team.share(count)
    if first == last:  # fewer spans than ranks: the others wait for this one's part of the backward pass
        return known_to_all(moved(own.hidden_ND[:0, 0].float(), torch.device("cpu"))[None], count, team)[0]
    if team.size > 1:
        own, theirs = own.part(first, last), theirs.part(first, last)
    return known_to_all(_values(student, teacher, own, theirs, measure, temperature)[None], count, team)[0]


def _values(student: Any, teacher: Any, own: _Side, theirs: _Side, measure: SpanMeasure, temperature: float) -> Tensor:
    """The measure of each span. Shape S, float32, on the CPU."""
    least = CUDA_ROWS if student.device.type == "cuda" else LEAST_ROWS
    rows = max(least, CHUNK_LOGITS // max(columns_of(student), columns_of(teacher)))
    heads = student.get_output_embeddings(), teacher.get_output_embeddings()
    projection = _Projection(*heads, shape_of(student.config), shape_of(teacher.config), measure, temperature)
    parts = []
    for first, last in _parts(own, theirs, rows):
        some, others = own.part(first, last), theirs.part(first, last)
        edges = (some.start_S, some.stop_S, others.start_S, others.stop_S)
        given = (some.hidden_ND, some.id_N, others.hidden_ND, others.id_N, *edges)
        if torch.is_grad_enabled():
            parts.append(checkpoint(projection.values, *given, use_reentrant=False))
        else:
            parts.append(projection.values(*given))
    return moved(torch.cat(parts).float(), torch.device("cpu"))


@final
@dataclass(frozen=True)
class _Projection:
    """From hidden states of a few spans to their values."""

    student_head: Any
    teacher_head: Any
    student_shape: LogitShape
    teacher_shape: LogitShape
    measure: SpanMeasure
    temperature: float

    def values(self, own_ND: Tensor, own_N: Tensor, theirs_MD: Tensor, theirs_M: Tensor, *edges: Tensor) -> Tensor:
        """The measure of each span, on the student's device. Shape S."""
        student_NV = logits(self.student_head, own_ND, self.temperature, self.student_shape)
        with torch.no_grad():
            teacher_MW = logits(self.teacher_head, theirs_MD, self.temperature, self.teacher_shape)
        device = student_NV.device
        on_device = [moved(edge, device) for edge in edges]
        part = Chunk(student_NV, moved(teacher_MW, device), own_N, moved(theirs_M, device), *on_device)
        return self.measure(part)


def _parts(own: _Side, theirs: _Side, rows: int) -> Iterator[tuple[int, int]]:
    """Neighbouring spans with at most so many tokens on either side; a longer span is a part of its own."""
    sizes = torch.stack([own.stop_S - own.start_S, theirs.stop_S - theirs.start_S], dim=1).tolist()
    first, ours, others = 0, 0, 0
    for number, (size, other) in enumerate(sizes):
        if number > first and (ours + size > rows or others + other > rows):
            yield first, number
            first, ours, others = number, 0, 0
        ours, others = ours + size, others + other
    yield first, len(sizes)
