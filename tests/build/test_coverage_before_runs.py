"""The look at coverage that `sod train` takes before it reads weights, where the teacher has another tokenizer."""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from other_teacher import other_model, other_tokenizer
from sod.build.training import prepare_train
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.recipe import Recipe
from sod.records import Message, SodError, Task
from sod.tasks.files import write_tasks


@pytest.fixture
def place(tmp_path: Path, chat: Chat, random_model: Any) -> Path:
    """Two models without weights, and tasks."""
    save_model(random_model(layers=1), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, tmp_path / "student")
    tokenizer = other_tokenizer()
    save_model(other_model(tokenizer), copy.deepcopy(tokenizer), None, chat.end_id, tmp_path / "teacher")
    for weights in tmp_path.glob("*/model.safetensors"):
        weights.unlink()
    tasks = [Task(f"t{n}", (Message("user", f"What is {n} + 3 (na\u00efvely)?"),), str(n + 3)) for n in range(40)]
    write_tasks(tmp_path / "train.parquet", tasks)
    return tmp_path


@pytest.mark.parametrize(
    ("least", "said"),
    [
        (1.0, r"teacher: \d+\.\d% .* below method.alignment.min_coverage=1; least in row \d+, turn 1"),
        pytest.param(0.5, "student: cannot load a model", marks=pytest.mark.slow),
    ],
    ids=["too little", "enough"],
)
def test_too_little_coverage_is_told_before_weights_are_read(place: Path, least: float, said: str) -> None:
    """With enough, the missing weights are what is wrong."""
    recipe = Recipe.model_validate(
        {
            "student": {"path": str(place / "student")},
            "teacher": {"path": str(place / "teacher")},
            "data": {"train": str(place / "train.parquet")},
            "rollout": {"max_prompt_tokens": 400, "max_turn_tokens": 60, "max_response_tokens": 240},
            "method": {"name": "opd", "alignment": {"min_coverage": least}},
        }
    )
    with pytest.raises(SodError, match=said) as error:
        prepare_train(recipe, place / "run", False, lambda text: None)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_in_an_environment_the_first_step_looks(tmp_path: Path, chat: Chat, acting_model: Any) -> None:
    """Its prompts are known as its episodes begin: nothing is refused before, and no weight has moved."""
    save_model(copy.deepcopy(acting_model), chat.tokenizer, chat.template, chat.end_id, tmp_path / "student")
    tokenizer = other_tokenizer()
    save_model(other_model(tokenizer), copy.deepcopy(tokenizer), None, chat.end_id, tmp_path / "teacher")
    limits = {"max_turns": 2, "max_turn_tokens": 16, "max_prompt_tokens": 500, "max_response_tokens": 120}
    recipe = Recipe.model_validate(
        {
            "student": {"path": str(tmp_path / "student")},
            "teacher": {"path": str(tmp_path / "teacher")},
            "environment": {"call": "environment_games:Parrot"},
            "rollout": {"prompts": 1, "samples": 2, **limits},
            "method": {"name": "opd", "alignment": {"min_coverage": 1.0}},
            "train": {"steps": 1, "checkpoint_every": 1},
        }
    )
    job = prepare_train(recipe, tmp_path / "run", False, lambda text: None)
    told = r"teacher: .* episodes, less than method.alignment.min_coverage=1; lowest"
    with closing(job), pytest.raises(SodError, match=told):
        job.start([])
    assert not list(tmp_path.glob("run/checkpoints/*"))
