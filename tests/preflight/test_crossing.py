"""A plan knows a teacher of another tokenizer: how many tokens it reads, and a loss over spans of two vocabularies."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from other_teacher import other_model, other_tokenizer
from sod.build.method import make_method
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.preflight.crossing import SAMPLE, Crossing, crossing_of, rendered
from sod.preflight.estimate import estimated
from sod.preflight.models import Micro
from sod.preflight.parts import SCORING, UPDATE, Estimate
from sod.recipe import Recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, chat: Chat, random_model: Callable[..., Any]) -> Path:
    """A student, a teacher of its tokenizer and one of another."""
    directory: Path = tmp_path_factory.mktemp("crossing")
    for name in ("student", "alike"):
        save_model(random_model(), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, directory / name)
    tokenizer = other_tokenizer()
    save_model(other_model(tokenizer), tokenizer, None, chat.end_id, directory / "other")
    return directory


def recipe_of(place: Path, teacher: str | None, method: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "student": {"path": str(place / "student")},
            "teacher": None if teacher is None else {"path": str(place / teacher)},
            "rollout": {"prompts": 1, "max_prompt_tokens": 200, "max_turn_tokens": 100, "max_response_tokens": 300},
            "optim": {"micro_batch_tokens": 1},  # a row at a time
            "method": method,
        }
    )


def crossing(place: Path, teacher: str | None, method: Any) -> Crossing | None:
    recipe = recipe_of(place, teacher, method)
    return crossing_of(recipe, make_method(recipe.method))


def test_what_lies_between_two_tokenizers(place: Path, chat: Chat) -> None:
    """How many tokens one needs for those of the other, as many as it can read; and the loss that a run takes."""
    found = crossing(place, "other", "sod")
    assert found is not None
    needed = [len(one.encode(SAMPLE, add_special_tokens=False)) for one in (other_tokenizer(), chat.tokenizer)]
    assert found.ratio == needed[0] / needed[1] != 1.0
    assert found.tokens(100) == math.ceil(100 * found.ratio)
    assert found.tokens(10**6) == 2048
    assert found.measure is not None
    sampled = crossing(place, "other", {"name": "sod", "alignment": "chunk"})
    assert sampled is not None
    assert sampled.measure is None


@pytest.mark.parametrize(
    ("teacher", "method"), [("alike", "sod"), (None, "grpo"), ("other", {"name": "opd", "divergence": "jsd"})]
)
def test_one_tokenizer_has_nothing_between(place: Path, teacher: str | None, method: Any) -> None:
    assert crossing(place, teacher, method) is None


@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.7])
def test_a_rehearsed_batch_has_all_tokens_of_both_in_the_same_spans(ratio: float) -> None:
    batch = rendered(Micro(3, 40).batch(60), Crossing(ratio))
    assert batch.scores is not None
    assert batch.scores.teacher is not None
    aligned = batch.scores.teacher.aligned
    assert aligned is not None
    assert aligned.rendering is not None
    own, theirs = aligned.span_BT[batch.turn_BT > 0], aligned.rendering.span_BL[aligned.rendering.turn_BL > 0]
    assert own.unique().tolist() == theirs.unique().tolist() == list(range(1, int(own.max()) + 1))
    assert (torch.diff(own) >= 0).all()
    assert (torch.diff(theirs) >= 0).all()
    assert len(theirs) == 3 * round(20 * ratio)
    assert aligned.rendering.length_B.tolist() == [math.ceil(40 * ratio)] * 3


@pytest.mark.slow
def test_a_plan_has_the_teachers_tokens_and_both_vocabularies(place: Path) -> None:
    """More in the update than by sampled tokens: the teacher reads there, too."""

    def plan(teacher: str, method: Any) -> Estimate:
        return estimated(recipe_of(place, teacher, method))

    dense, sampled = (plan("other", {"name": "opd", "alignment": kind}) for kind in ("simct", "chunk"))
    assert dense.taken("cpu", UPDATE) > sampled.taken("cpu", UPDATE)
    assert dense.taken("cpu", SCORING) == sampled.taken("cpu", SCORING)
    between = crossing(place, "other", "opd")
    assert between is not None
    assert f"teacher: activations of 1 x {between.tokens(500)} tokens" in [part.name for part in dense.parts]
    assert "teacher: activations of 1 x 500 tokens" in [part.name for part in plan("alike", "opd").parts]
