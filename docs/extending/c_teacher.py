"""Proof of `c-teacher.diff`: several teachers as one, from the mean of their probabilities to a resumed run."""

from __future__ import annotations

import math
import signal
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from small import refused, small_world

from sod.build.training import prepare_train
from sod.models.load import load_model
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.recipe import parse_recipe
from sod.records import Episode, Fault, FaultKind
from sod.teachers.base import Offer
from sod.teachers.ensemble import EnsembleTeacher
from sod.training.loop import InterruptedRunError


class Table:
    """Gives the probabilities that it was made with, and the faults."""

    offers = Offer("topk", temperatures=frozenset({1.0}))

    def __init__(self, probability_BT: list[list[float]], faults: dict[int, Fault]) -> None:
        self.scores = TeacherScores(torch.tensor(probability_BT).log(), faults=faults)

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        return self.scores

    def state(self) -> None:
        """Nothing."""

    def load(self, state: None) -> None:
        """Nothing."""


def prepared(content: dict[str, Any], directory: Path, resume: bool = False) -> Any:
    """A run of the recipe, to be closed."""
    return closing(prepare_train(parse_recipe(content, "r.yaml"), directory, resume, lambda _: None))


def probabilities(model: Any, ids: list[int]) -> list[float]:
    """The model's probability of each token given those before it; 1 for the first."""
    with torch.inference_mode():
        p_TV = model(input_ids=torch.tensor([ids])).logits[0].double().softmax(-1)
    return [1.0, *(float(p_TV[place - 1, token]) for place, token in enumerate(ids) if place)]


# 1. By hand: 0.75 * 0.8 + 0.25 * 0.4 = 0.7 and so on; 0 at context, whatever stands there, and every fault is kept.
batch = supervised_batch([([5, 17, 9, 30], [0, 1, 0, 2]), ([8, 8], [0, 1])])
lost, late = Fault(FaultKind.SERVER, "lost"), Fault(FaultKind.TIMEOUT, "late")
one = Table([[1.0, 0.8, 0.3, 0.1], [1.0, 1e-30, 1.0, 1.0]], {0: lost})
other = Table([[1.0, 0.4, 1.0, 0.5], [1.0, 0.4, 1.0, 1.0]], {1: late})
ensemble = EnsembleTeacher([(one, 0.75), (other, 0.25)])
scores = ensemble.score(batch, (), ScoreNeed())
expected = torch.tensor([[0.0, math.log(0.7), 0.0, math.log(0.2)], [0.0, math.log(0.1), 0.0, 0.0]])
assert torch.allclose(scores.logp_BT, expected, atol=1e-6), scores.logp_BT
assert scores.logp_BT[0, 2] == 0.0
assert scores.faults == {0: lost, 1: late}
assert ensemble.offers == Offer("sampled", temperatures=frozenset({1.0}), entropy=False)
assert ensemble.state() is None
for need in (ScoreNeed(top1=True), ScoreNeed(entropy=True), ScoreNeed(k=2)):
    try:
        ensemble.score(batch, (), need)
    except ValueError:
        continue
    raise AssertionError(f"{need} was given")

with tempfile.TemporaryDirectory() as name:
    world = {**small_world(Path(name)), "method": "opd"}
    student, teacher = world["student"]["path"], world.pop("teacher")["path"]
    two = {"able": {"path": teacher, "share": 0.7}, "weak": {"path": student, "share": 0.3}}

    # 2. What a step learns from is the mixture, by each model's whole distribution, and so is its loss.
    with prepared({**world, "teachers": two}, Path(name) / "one-step") as job:
        report = job.take_step(1)
        assert "(70% of the ensemble)" in dict(job.facts)["teacher"]
    models = [load_model(path, "float32") for path in (teacher, student)]
    gaps = []
    for row in report.trajectories:
        able, weak = (probabilities(model, row["token_ids"]) for model in models)
        for place, turn in enumerate(row["turn_ids"]):
            if turn == 0:
                continue
            mixed = math.log(0.7 * able[place] + 0.3 * weak[place])
            assert abs(row["teacher_logps"][place] - mixed) < 1e-4, (row["teacher_logps"][place], mixed)
            gaps.append(row["sampled_logps"][place] - mixed)
    loss = report.metrics["loss"]
    assert abs(loss - sum(gaps) / len(gaps)) < 1e-4, (loss, sum(gaps) / len(gaps))
    # A model mixed with itself is that model.
    twice = {"a": {"path": teacher, "share": 0.7}, "b": {"path": teacher, "share": 0.3}}
    alike = []
    for number, asked in enumerate(({"teacher": {"path": teacher}}, {"teachers": twice})):
        with prepared({**world, **asked}, Path(name) / f"alike-{number}") as job:
            alike.append(job.take_step(1).metrics["loss"])
    assert abs(alike[0] - alike[1]) < 1e-5 < abs(alike[0] - loss), (alike, loss)

    # 3. What it does not offer, and shares that do not go together, are told before any model is looked for.
    nowhere = {key: spec | {"path": str(Path(name) / f"no-{key}")} for key, spec in two.items()}
    wrong = {**world, "student": {"path": str(Path(name) / "nowhere")}, "teachers": nowhere}
    able, weak = nowhere["able"], nowhere["weak"]
    for changed, told in (
        ({"method": "sage"}, "needs top1 log-probabilities"),
        ({"method": {"name": "opd", "divergence": {"kind": "jsd"}}}, "needs full log-probabilities"),
        ({"method": {"name": "opd", "divergence": {"kind": "jsd", "top_k": 4}}}, "needs topk log-probabilities"),
        ({"method": "tcod_b2f"}, "its teacher plays episodes"),
        ({"teachers": {"able": able, "weak": {"path": weak["path"]}}}, "teachers.weak: other teachers have a share"),
        ({"teachers": {"able": able, "weak": weak | {"share": 0.4}}}, "add up to 1.1"),
        ({"teachers": {"able": able, "weak": weak | {"weight": 2.0}}}, "teachers.weak: with shares"),
        ({"teachers": {"able": able, "weak": weak | {"sources": ["gsm8k"]}}}, "teachers.weak: with shares"),
        ({"teachers": {}, "teacher": able}, "teacher.share: "),
        ({"teachers": {"able": able, "weak": weak | {"share": 0.0}}}, "teachers.weak.share"),
    ):
        message = refused(lambda changed=changed: prepared({**wrong, **changed}, Path(name) / "never-made"))
        assert told in message, (told, message)

    # 4. A run that was stopped goes on as if it never had been, with its own shares only.
    content = {**world, "teachers": two, "train": {"steps": 2}}
    with prepared(content, Path(name) / "whole") as job:
        job.start([])
        whole = [row["loss"] for row in job.log.metrics()]
    with prepared(content, Path(name) / "stopped") as job:
        try:
            job.start([lambda report: signal.raise_signal(signal.SIGINT)])
        except InterruptedRunError:
            assert [row["loss"] for row in job.log.metrics()] == whole[:1]
    even = {key: spec | {"share": 0.5} for key, spec in two.items()}
    assert "share" in refused(lambda: prepared({**content, "teachers": even}, Path(name) / "stopped", resume=True))
    with prepared(content, Path(name) / "stopped", resume=True) as job:
        assert job.done == 1
        job.start([])
        assert [row["loss"] for row in job.log.metrics()] == whole
print(f"ensemble: loss {loss:+.6f}, its able teacher alone {alike[0]:+.6f}")
