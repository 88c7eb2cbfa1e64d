"""Losses over spans in the update: the estimators on the right rows of both models, a few spans at a time."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from other_teacher import EPISODES, batch_of, other_reader
from sod.alignment import estimators
from sod.alignment.estimators import Chunk
from sod.alignment.pieces import pieces_of
from sod.alignment.turns import match_trajectory
from sod.build.translation import span_measure
from sod.chat.render import Chat
from sod.models.dense import dense_terms
from sod.models.score import action_logps
from sod.objective.alignments import Alignment, Kind
from sod.objective.batch import TokenBatch
from sod.objective.divergence import Divergence, divergence
from sod.objective.scores import ScoreNeed
from sod.teachers.local import LocalTeacher
from sod.teachers.translated import Reader, TranslatedTeacher, Translation
from sod.training import spans
from sod.training.spans import SpanMeasure, span_terms


@pytest.fixture(scope="module")
def own(chat: Chat) -> Reader:
    return Reader(chat, pieces_of(chat.tokenizer))


@pytest.fixture(scope="module")
def other() -> tuple[Reader, Any]:
    return other_reader()


def scored(own: Reader, reader: Reader, teacher: Any) -> TokenBatch:
    """A batch with what the teacher read of it."""
    batch = batch_of(own.chat, EPISODES[:3])
    translated = TranslatedTeacher(LocalTeacher(teacher, 1000), Translation(own, reader, "the-teacher"))
    return batch.scored(None, translated.score(batch, batch.episodes, ScoreNeed(rendering=True)), "update")


def measure_of(kind: Kind, own: Reader, reader: Reader) -> SpanMeasure:
    """The loss that a run takes for the name."""
    return span_measure(Alignment(kind, top_k=4), Translation(own, reader, "the-teacher"), torch.device("cpu"))


def gradient(model: Any, loss: Tensor) -> Tensor:
    """By the model's output embedding and by its first layer."""
    layer = model.get_decoder().layers[0].mlp.up_proj.weight
    found = torch.autograd.grad(loss, [model.get_output_embeddings().weight, layer])
    return torch.cat([one.flatten() for one in found])


def by_hand(own: Reader, reader: Reader, batch: TokenBatch, student: Any, teacher: Any, measure: Any) -> Tensor:
    """The values of all spans in order, from whole forwards of single rows and the matching itself."""
    values = []
    for row, episode in enumerate(batch.episodes):
        ids, turns = reader.chat.encode_conversation(episode.messages)
        mine = own.ledger(episode.trajectory.token_ids, episode.trajectory.turn_ids, None)
        at = torch.nonzero(batch.turn_BT[row]).flatten()
        student_TV = student(input_ids=batch.token_BT[row : row + 1, : len(mine.ids)]).logits[0]
        with torch.no_grad():
            teacher_LW = teacher(input_ids=torch.tensor([ids])).logits[0]
        for turn in match_trajectory(mine, reader.ledger(ids, turns, None)):
            found = turn.spans
            part = Chunk(
                student_TV[at - 1],
                torch.cat([teacher_LW[:1], teacher_LW[:-1]]),
                batch.token_BT[row][at],
                torch.tensor(ids),
                *(torch.as_tensor(edge) for edge in (found.student_start, found.student_stop)),
                *(torch.as_tensor(edge) for edge in (found.teacher_start, found.teacher_stop)),
            )
            values.append(measure(part))
    return torch.cat(values)


@pytest.mark.parametrize("name", ["simct", "shared_tokens", "gold", "strict_topk", "uld", "bpm"])
def test_each_span_has_its_estimators_value_and_gradient(
    name: Kind, own: Reader, other: tuple[Reader, Any], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by hand from whole logits; never more rows of either model than a chunk may hold."""
    monkeypatch.setattr(spans, "LEAST_ROWS", 7)
    monkeypatch.setattr(spans, "CHUNK_LOGITS", 1)
    reader, teacher = other
    batch, student = scored(own, reader, teacher), copy.deepcopy(model)
    measure, rows = measure_of(name, own, reader), []

    def watched(part: Chunk) -> Tensor:
        rows.append(max(len(part.student_id_N), len(part.teacher_id_M)))
        found: Tensor = measure(part)
        return found

    logp_BT, value_BT = span_terms(student, teacher, batch, watched)
    expected_S = by_hand(own, reader, batch, student, teacher, measure)
    torch.testing.assert_close(value_BT[value_BT != 0], expected_S[expected_S != 0], atol=1e-5, rtol=1e-4)
    assert len(expected_S) > 40
    assert batch.scores is not None
    assert batch.scores.teacher is not None
    assert batch.scores.teacher.aligned is not None
    span_BT = batch.scores.teacher.aligned.span_BT
    for row, at in value_BT.nonzero().tolist():  # a value stands at the first token of its span
        assert not (span_BT[row, :at] == span_BT[row, at]).any()
    mine, whole = gradient(student, value_BT.sum()), gradient(student, expected_S.sum())
    torch.testing.assert_close(mine, whole, atol=1e-4, rtol=1e-3)
    assert whole.abs().max() > 1e-3
    assert max(rows) <= 7
    torch.testing.assert_close(logp_BT, action_logps(student, batch))


def test_one_tokenizer_gives_the_reverse_kl_to_the_bit(own: Reader, model: Any, random_model: Any) -> None:
    """Value and gradient, as the update of `method.divergence: reverse_kl` has them, at a temperature."""
    teacher = random_model(seed=7, sharpness=4.0)
    batch, student = scored(own, own, teacher), copy.deepcopy(model)
    _, value_BT = span_terms(student, teacher, batch, measure_of("simct", own, own), 0.7)
    measure = partial(divergence, spec=Divergence("reverse_kl"), temperature=0.7)
    _, expected_BT = dense_terms(student, teacher, batch, batch, measure, 0.7)
    assert torch.equal(value_BT, expected_BT)
    assert torch.equal(gradient(student, value_BT.sum()), gradient(student, expected_BT.sum()))
    assert value_BT.sum() > 1.0


def test_a_part_of_a_batch_has_the_values_of_its_rows(own: Reader, other: tuple[Reader, Any], model: Any) -> None:
    reader, teacher = other
    batch, measure = scored(own, reader, teacher), measure_of("simct", own, reader)
    with torch.no_grad():
        whole_BT, part_BT = (span_terms(model, teacher, one, measure)[1] for one in (batch, batch.rows([2, 0])))
    torch.testing.assert_close(part_BT, whole_BT[[2, 0]][:, : part_BT.shape[1]], atol=1e-5, rtol=1e-4)


def test_a_batch_without_renderings_is_refused(own: Reader, other: tuple[Reader, Any], model: Any) -> None:
    reader, teacher = other
    batch = scored(own, reader, teacher)
    assert batch.scores is not None
    assert batch.scores.teacher is not None
    bare = replace(batch.scores.teacher, aligned=None)
    with pytest.raises(ValueError, match="needs the teacher's renderings"):
        span_terms(model, teacher, replace(batch, scores=replace(batch.scores, teacher=bare)), estimators.uld)
