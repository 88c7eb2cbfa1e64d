"""A dense loss of a teacher of whom only the most probable tokens are known, in scores: the gradients are those of its
model in the update, and so are those of a teacher that a real server scores with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from sod.models.dense import choice_terms, dense_terms
from sod.objective.divergence import Divergence, divergence, divergence_from_choices
from sod.objective.scores import ScoreNeed
from sod.teachers.local import LocalTeacher

SPECS = [
    (Divergence("forward_kl", top_k=1), 1.0),
    (Divergence("reverse_kl", top_k=7), 1.0),
    (Divergence("jsd", 0.3, top_k=20), 0.7),
    (Divergence("jsd", top_k=403), 1.0),
    (Divergence("forward_kl", top_k=404), 1.0),  # all there are
]


@pytest.mark.parametrize(("spec", "temperature"), SPECS)
def test_gradients_are_those_of_the_teachers_model(
    spec: Divergence, temperature: float, random_model: Any, random_batch: Callable[..., Any], tokenizer: Any
) -> None:
    assert len(tokenizer) == 404
    student, teacher, batch = random_model(1, 4.0), random_model(2, 4.0), random_batch(rows=4, seed=2)
    scores = LocalTeacher(teacher, 100, temperature).score(batch, (), ScoreNeed(k=spec.top_k))
    measure = partial(divergence, spec=spec, temperature=temperature)
    chosen = partial(divergence_from_choices, spec=spec, temperature=temperature)
    found = []
    for terms in (
        lambda: dense_terms(student, teacher, batch, batch, measure, temperature),
        lambda: choice_terms(student, batch.scored(None, scores), chosen, temperature),
    ):
        student.zero_grad()
        logp_BT, value_BT = terms()
        (value_BT.sum() + logp_BT.sum()).backward()
        gradients = [weight.grad.clone() for weight in student.parameters() if weight.grad is not None]
        found.append((logp_BT.detach(), value_BT.detach(), gradients))
    (logp, value, gradients), (own_logp, own_value, own_gradients) = found
    assert torch.equal(logp, own_logp)
    assert float(value.abs().sum()) > 0.1
    torch.testing.assert_close(own_value, value, atol=2e-6, rtol=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    gap = max(float((one - other).abs().max()) for one, other in zip(gradients, own_gradients, strict=True))
    assert gap < 1e-5 * largest


def test_what_the_scores_lack_is_refused(random_model: Any, random_batch: Callable[..., Any]) -> None:
    model, batch = random_model(1), random_batch(rows=2, seed=2)
    scores = LocalTeacher(random_model(2), 100).score(batch, (), ScoreNeed(k=3))
    wider = partial(divergence_from_choices, spec=Divergence("jsd", top_k=4))
    with pytest.raises(ValueError, match="cannot be had of the teacher's 3 most probable tokens"):
        choice_terms(model, batch.scored(None, scores), wider)
    with pytest.raises(ValueError, match="lack the teacher's most probable tokens"):
        choice_terms(model, batch, wider)
