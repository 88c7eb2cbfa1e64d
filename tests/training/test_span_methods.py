"""Every estimator over spans with every method: turn weights, gate, schedule and the reward's term, summed by hand."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from other_teacher import EPISODES, batch_of, other_reader
from sod.alignment.pieces import pieces_of
from sod.build.method import can_align
from sod.build.translation import span_measure
from sod.chat.render import Chat
from sod.models.score import action_logps
from sod.objective.aggregation import loss_weights
from sod.objective.alignments import Alignment, Kind
from sod.objective.batch import TokenBatch
from sod.objective.methods import Method, Signal, advantage, rated
from sod.objective.presets import PRESETS
from sod.objective.scores import ScoreNeed
from sod.recipe import OptimSpec
from sod.teachers.local import LocalTeacher
from sod.teachers.translated import Reader, TranslatedTeacher, Translation
from sod.training.spans import span_terms
from sod.training.update import Updater

STEP = 41
"""Half of ATOD's way: `kappa` has come from 1 to 0.55, `rho` from 1 to 1.5."""
KAPPA, RHO = {"atod": 0.55}, {"atod": 1.5}
METHODS = [name for name, preset in PRESETS.items() if can_align(preset())]
FAST = ("chunk", "simct")
KINDS = [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in get_args(Kind)]


class Bench:
    """A student, its teacher of another tokenizer, and four episodes as both read them."""

    def __init__(self, chat: Chat, student: Any) -> None:
        reader, teacher = other_reader()
        self.student = student
        self.translation = Translation(Reader(chat, pieces_of(chat.tokenizer)), reader, "the-teacher")
        self.teacher = LocalTeacher(teacher, 1000)
        batch = batch_of(chat, EPISODES[:3])
        need = ScoreNeed(top1=True, entropy=True, rendering=True)
        scores = TranslatedTeacher(self.teacher, self.translation).score(batch, batch.episodes, need)
        with torch.no_grad():
            old_BT = action_logps(student, batch)
        scored = batch.scored(old_BT, scores)
        self.batch = scored.filled(loss_weight_BT=loss_weights(batch.turn_BT, "token-mean"))
        self.values = cache(self._values)

    def updater(self, method: Method, alignment: Alignment, dumps: Path) -> Updater:
        return Updater(
            student=self.student,
            optimizer=None,  # type: ignore[arg-type]
            method=method,
            optim=OptimSpec(),
            temperature=1.0,
            teacher=self.teacher,
            teacher_view=None,
            dumps=dumps,
            measured=None,  # type: ignore[arg-type]
            span_measure=span_measure(alignment, self.translation, torch.device("cpu")) if alignment.dense else None,
        )

    def _values(self, kind: Kind) -> Tensor:
        measure = span_measure(Alignment(kind), self.translation, torch.device("cpu"))
        with torch.no_grad():
            return span_terms(self.student, self.teacher.model, self.batch, measure)[1]


@pytest.fixture(scope="module")
def bench(chat: Chat, model: Any) -> Bench:
    return Bench(chat, copy.deepcopy(model))


def grpo(rewards: list[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / (spread + 1e-6) for reward in rewards]


def by_hand(name: str, batch: TokenBatch, signal: Signal, values_BT: Tensor | None) -> float:
    """`sum_t s_t (kappa w_k D_t - A_t)`; without values the teacher's part is the gap, in the advantage."""
    kappa = KAPPA.get(name, 1.0)
    rewards = grpo(batch.reward_B.tolist())
    earns = not PRESETS[name]().rho.never
    weight_BK, gaps_BT = signal.weight_BK, signal.teacher_BT
    assert weight_BK is not None
    assert gaps_BT is not None
    assert batch.scores is not None
    assert batch.scores.old_BT is not None
    assert batch.scores.teacher is not None
    assert batch.scores.teacher.aligned is not None
    total = 0.0
    for row, turns in enumerate(batch.turn_BT.tolist()):
        for at, turn in enumerate(turns):
            if not turn:
                continue
            share = float(batch.loss_weight_BT[row, at])  # type: ignore[index]
            weight = float(weight_BK[row, turn - 1])
            pulled = RHO.get(name, 1.0) * rewards[row] if earns else 0.0
            if values_BT is not None:
                total += share * kappa * weight * float(values_BT[row, at])
            elif batch.scores.teacher.aligned.span_BT[row, at]:
                pulled += kappa * weight * float(gaps_BT[row, at] - batch.scores.old_BT[row, at])
            total -= share * pulled
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_the_sum_of_its_parts(name: str, kind: Kind, bench: Bench, tmp_path: Path) -> None:
    """At the weights that sampled, where the ratio is 1; what is unaligned has the reward's term alone."""
    alignment = Alignment(kind)
    method = replace(PRESETS[name](), alignment=alignment)
    updater = bench.updater(method, alignment, tmp_path)
    batch, signal = updater.weighed(rated(method, bench.batch), STEP)
    _, loss, _ = updater.objective(batch, STEP)
    expected = by_hand(name, batch, signal, bench.values(kind) if alignment.dense else None)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, bench.student.get_output_embeddings().weight)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_turn_weights_and_gate_are_the_same_with_every_estimator(name: str, bench: Bench) -> None:
    """They come from the teacher's log-probabilities over spans; the gate from the rewards."""
    found = []
    for kind in get_args(Kind):
        method = replace(PRESETS[name](), alignment=Alignment(kind))
        found.append(advantage(method, rated(method, bench.batch), STEP).weight_BK)
    assert all(weight_BK is not None and torch.equal(weight_BK, found[0]) for weight_BK in found)
    if name == "gated_opd":
        expected = [0.3 / (1 + math.exp(own)) for own in grpo(bench.batch.reward_B.tolist())]
        assert [float(row[0]) for row in found[0]] == pytest.approx(expected, rel=1e-5)
