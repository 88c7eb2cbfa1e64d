"""Dense distillation terms: at every action token, a divergence between the student's and the teacher's distributions.

Chunked like `score`: no tensor of `tokens x vocabulary` floats ever covers more than one chunk, forward or backward.
The teacher's logits are made again in the backward pass too, which costs a second projection and saves keeping them.

Legend: B trajectories, T tokens, N action tokens, D hidden size, V vocabulary, K the teacher's most probable tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sod.models.device import moved
from sod.models.forward import hidden_before_actions
from sod.models.logits import LogitShape, shape_of
from sod.models.score import logits, over_actions, picked
from sod.models.support import columns_of
from sod.models.team import own_share
from sod.objective.batch import TokenBatch

# Logits of one model per chunk. In the backward pass 11 floats of each are alive at once for a jsd, 7 for a KL, 5 for
# the top k, and 4 in `score` (counted): half of its chunk keeps the peak near its own.
CHUNK_LOGITS = 2**22
LEAST_ROWS = 64  # fewer rows would mostly read the output embedding and add up its gradient
CUDA_ROWS = 1024  # the same on CUDA; as above half of what `score` takes there

Measure = Callable[[Tensor, Tensor], Tensor]
ChoiceMeasure = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense_terms(
    student: Any,
    teacher: Any,
    batch: TokenBatch,
    teacher_batch: TokenBatch,
    measure: Measure,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The student's log-probabilities of the action tokens (as `action_logps`), and a divergence at each.

    Both in nats, float32, B x T in the shape of `batch`, 0 at context, from one forward of the student; differentiable
    in the student alone. `teacher_batch` holds the same trajectories, row by row, as the teacher sees them: what is
    around the action tokens may differ. `measure(student_logits_NV, teacher_logits_NV)` returns the N values of a
    chunk, from float32 logits as the models give them: `temperature` is that of the log-probabilities, the measure
    brings its own. The two may be on different devices; what is returned is on the batch's. A teacher that is the
    student itself counts as a constant. Both are limited to one support
    (`sod.models.support`): where that has holes, their logits are minus infinity in both. Raises ValueError where the
    vocabularies differ in size or the two batches in their action tokens.
    """
    sizes = [columns_of(model) for model in (student, teacher)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the student's vocabulary has {sizes[0]} tokens and the teacher's {sizes[1]}")
    check_same_actions(batch, teacher_batch)
    with torch.no_grad():
        hidden_ND = hidden_before_actions(teacher, teacher_batch)
    rows = max(CUDA_ROWS if student.device.type == "cuda" else LEAST_ROWS, CHUNK_LOGITS // sizes[0])
    shapes = shape_of(student.config), shape_of(teacher.config)
    values = partial(_values, teacher.get_output_embeddings(), shapes, measure, temperature)
    logp_BT, value_BT = over_actions(student, batch, rows, values, hidden_ND)
    return logp_BT, value_BT


def choice_terms(
    student: Any, batch: TokenBatch, measure: ChoiceMeasure, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """As `dense_terms`, with a teacher of whom only the most probable tokens are known: those in the batch's scores.

    `measure(student_logits_NV, id_NK, logp_NK)` returns the N values of a chunk. Raises ValueError for scores without
    them.
    """
    teacher = None if batch.scores is None else batch.scores.teacher
    if teacher is None or teacher.ids_NK is None or teacher.logps_NK is None:
        raise ValueError("the scores lack the teacher's most probable tokens")
    rows = max(CUDA_ROWS if student.device.type == "cuda" else LEAST_ROWS, CHUNK_LOGITS // columns_of(student))
    values = partial(_choice_values, shape_of(student.config), measure, temperature)
    chosen = (own_share(student, teacher.ids_NK), own_share(student, teacher.logps_NK))
    logp_BT, value_BT = over_actions(student, batch, rows, values, *chosen)
    return logp_BT, value_BT


def _choice_values(
    shape: LogitShape,
    measure: ChoiceMeasure,
    temperature: float,
    head: Any,
    hidden_ND: Tensor,
    target_N: Tensor,
    id_NK: Tensor,
    logp_NK: Tensor,
) -> Tensor:
    student_NV = logits(head, hidden_ND, 1.0, shape)
    (own_N,) = picked(student_NV if temperature == 1.0 else student_NV / temperature, target_N)
    id_NK, logp_NK = moved(id_NK, student_NV.device), moved(logp_NK, student_NV.device)
    return torch.stack([own_N, measure(student_NV, id_NK, logp_NK).float()])


def check_same_actions(batch: TokenBatch, teacher_batch: TokenBatch) -> None:
    """Raises ValueError unless both batches have the same action tokens, row by row."""
    if len(batch) != len(teacher_batch):
        raise ValueError(f"the student's batch has {len(batch)} trajectories and the teacher's {len(teacher_batch)}")
    counts = [(b.turn_BT > 0).sum(1).tolist() for b in (batch, teacher_batch)]
    for row, (ours, theirs) in enumerate(zip(*counts, strict=True)):
        if ours != theirs:
            raise ValueError(f"row {row}: the student's batch has {ours} action tokens and the teacher's {theirs}")
    if not torch.equal(*(b.token_BT[b.turn_BT > 0] for b in (batch, teacher_batch))):
        raise ValueError("the action tokens of the teacher's batch are not those of the student's")


def _values(
    teacher_head: Any,
    shapes: tuple[LogitShape, LogitShape],
    measure: Measure,
    temperature: float,
    head: Any,
    hidden_ND: Tensor,
    target_N: Tensor,
    teacher_hidden_ND: Tensor,
) -> Tensor:
    shape, teacher_shape = shapes
    student_NV = logits(head, hidden_ND, 1.0, shape)
    with torch.no_grad():
        # Where the two models are on different devices their logits have to meet, chunk by chunk.
        teacher_NV = moved(logits(teacher_head, teacher_hidden_ND, 1.0, teacher_shape), student_NV.device)
    (logp_N,) = picked(student_NV if temperature == 1.0 else student_NV / temperature, target_N)
    return torch.stack([logp_N, measure(student_NV, teacher_NV).float()])
