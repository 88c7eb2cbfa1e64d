"""Stored episodes scored by a teacher, and runs that distil from the file with no teacher in memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scoring_server import ScoringServer
from sod.build.scoring import episodes_of, score_file
from sod.build.training import prepare_train
from sod.build.vocabulary import chat_of
from sod.chat.render import Chat
from sod.models.load import load_model, save_model
from sod.models.scratch import train_tokenizer
from sod.recipe import Recipe
from sod.records import SodError
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.teachers.stored import read_scores

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 4}, 2, 3, seed=1)["train"])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, chat: Chat, acting_model: Any, random_model: Any, conversations: Any) -> Path:
    """A student, a teacher, data, and a run of two steps whose episodes are kept."""
    directory: Path = tmp_path_factory.mktemp("stored")
    save_model(copy.deepcopy(acting_model), chat.tokenizer, chat.template, chat.end_id, directory / "student")
    save_model(random_model(seed=7, sharpness=4.0), chat.tokenizer, chat.template, chat.end_id, directory / "teacher")
    write_tasks(directory / "train.parquet", TASKS)
    write_conversations(directory / "sft.parquet", conversations[:8])
    with closing(prepare_train(recipe_at(directory), directory / "run", False, print)) as job:
        job.start([])
    return directory


def recipe_at(place: Path, teacher: Any = None, **sections: Any) -> Recipe:
    content = {
        "student": {"path": str(place / "student")},
        "teacher": teacher or {"path": str(place / "teacher")},
        "chat": {"template": "hermes"},
        "data": {"train": str(place / "train.parquet")},
        "rollout": {
            "prompts": 2,
            "samples": 2,
            "max_turns": 2,
            "max_prompt_tokens": 200,
            "max_turn_tokens": 24,
            "max_response_tokens": 120,
        },
        "optim": {"lr": 1e-3},
        "tools": {"python": {"workers": 1, "memory_mb": 256, "preload": []}},
        "train": {"steps": 2, "checkpoint_every": 1, "trajectories_every": 1},
        "method": "sod",
    }
    return Recipe.model_validate({**content, **sections})


def stored(place: Path, out: Path, **sections: Any) -> Recipe:
    """A recipe that distils from a file: no data, no teacher."""
    return recipe_at(place, {"scores": str(out)}, **{"data": {}, **sections})


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(max((directory / "checkpoints").iterdir()) / "model" / "model.safetensors")


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
def test_a_runs_episodes_are_scored_as_in_the_run(place: Path, tmp_path: Path) -> None:
    """The same log-probabilities as the run wrote, token for token."""
    written = score_file(recipe_at(place), str(place / "run"), tmp_path / "scores.parquet", None, print)
    assert (written.episodes, written.faults, written.left_out) == (8, 0, 0)
    about, scored = read_scores(tmp_path / "scores.parquet")
    assert (about.teacher, about.k, about.temperature) == (str(place / "teacher"), 0, 1.0)
    rows = [json.loads(line) for f in sorted((place / "run" / "trajectories").iterdir()) for line in f.open()]
    assert [list(one.episode.trajectory.token_ids) for one in scored] == [row["token_ids"] for row in rows]
    assert [one.episode.trajectory.reward for one in scored] == [row["reward"] for row in rows]
    for one, row in zip(scored, rows, strict=True):
        expected = [logp for logp in row["teacher_logps"] if logp is not None]
        assert one.scores.logp_N.tolist() == pytest.approx(expected, abs=2e-5)
    with pytest.raises(SodError, match="is there already, and nothing is overwritten"):
        score_file(recipe_at(place), str(place / "run"), tmp_path / "scores.parquet", None, print)


DENSE = {"name": "opd", "divergence": {"kind": "forward_kl", "top_k": 5}}


@pytest.mark.slow
def test_a_run_distils_from_the_file_alone(place: Path, tmp_path: Path) -> None:
    """From conversations, with the top 5 of each place: the student comes nearer to the teacher, and resumes."""
    recipe = recipe_at(place, method=DENSE)
    with ScoringServer(load_model(str(place / "teacher"), "float32"), chat_at(place).tokenizer) as server:
        teacher = {"url": server.url, "model": "t", "cache": str(tmp_path / "cache")}
        served = recipe_at(place, teacher, method=DENSE)
        score_file(served, str(place / "sft.parquet"), tmp_path / "served.parquet", None, print)
    score_file(recipe, str(place / "sft.parquet"), tmp_path / "local.parquet", None, print)
    train = {"steps": 6, "checkpoint_every": 3}
    for name in ("local", "served"):
        out = tmp_path / f"{name}.parquet"
        with closing(
            prepare_train(stored(place, out, method=DENSE, train=train), tmp_path / name, False, print)
        ) as job:
            assert ("teacher", str(out)) in job.facts
            assert dict(job.facts)["data"].startswith(f"{out}, stored episodes: ")
            assert set(job.models) == {"student"}
            job.start([])
    start = load_file(place / "student" / "model.safetensors")
    assert apart(weights_of(tmp_path / "local"), weights_of(tmp_path / "served")) < 0.02 * apart(
        start, weights_of(tmp_path / "local")
    )
    rows = [json.loads(line) for line in (tmp_path / "local" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    # Gone on with from its third step, it ends where it did.
    last = tmp_path / "local" / "checkpoints" / "step-000006"
    whole = weights_of(tmp_path / "local")
    for path in sorted(last.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    last.rmdir()
    again = stored(place, tmp_path / "local.parquet", method=DENSE, train=train)
    with closing(prepare_train(again, tmp_path / "local", True, print)) as job:
        assert job.done == 3
        job.start([])
    assert apart(weights_of(tmp_path / "local"), whole) == 0.0


def chat_at(place: Path) -> Chat:
    return chat_of(recipe_at(place), str(place / "student"), print)


@pytest.mark.slow
def test_conversations_are_episodes_of_their_assistants_turns(place: Path, conversations: Sequence[Any]) -> None:
    chat = chat_at(place)
    episodes, left_out = episodes_of(str(place / "sft.parquet"), recipe_at(place), chat, pytest.fail)
    assert (len(episodes), left_out) == (8, 0)
    for episode, conversation in zip(episodes, conversations, strict=False):
        ids, turns = chat.encode_conversation(conversation.messages)
        trajectory = episode.trajectory
        assert (trajectory.token_ids, trajectory.turn_ids) == (tuple(ids), tuple(turns))
        assert [turn.index for turn in trajectory.turns] == sorted(set(turns) - {0})
        assert [m.content for m in episode.task.prompt] == [m.content for m in conversation.messages[:1]]


@pytest.mark.slow
def test_what_cannot_be_distilled_from_is_told_before_weights_are_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat: Chat, conversations: Any, random_model: Any
) -> None:
    out = tmp_path / "scores.parquet"
    score_file(recipe_at(place), str(place / "sft.parquet"), out, 3, print)
    other = train_tokenizer([m.content for c in conversations for m in c.messages], 350)
    save_model(random_model(1), other, chat.template, other.convert_tokens_to_ids("<|im_end|>"), tmp_path / "other")
    monkeypatch.setattr("sod.build.job.load_model", lambda *a: pytest.fail("weights were read"))
    wide = {"name": "opd", "divergence": {"kind": "jsd", "top_k": 4}}
    cases: list[tuple[Recipe, str]] = [
        (stored(place, out, method=wide), r"method\.divergence\.top_k=4: teacher\.scores=.* gives 3 tokens at most"),
        (stored(place, out, method={"name": "opd", "divergence": "jsd"}), "needs full log-probabilities"),
        (stored(place, out, method="tcod_f2b"), "tcod_f2b chooses who plays which turns, and these are played"),
        (
            stored(place, out, rollout={"temperature": 0.7}),
            r"rollout\.temperature=0\.7: teacher\.scores=.* at temperature 1",
        ),
        (stored(place, tmp_path / "none"), r"none: no such file; `sod teacher score FILE --out"),
        (stored(place, place / "train.parquet"), r"train\.parquet: holds no scores of a teacher"),
        (
            stored(place, out, rollout={"max_response_tokens": 1, "max_turn_tokens": 1, "max_prompt_tokens": 1}),
            "no episode fits",
        ),
        (
            stored(place, out, student={"path": str(tmp_path / "other")}),
            r"teacher\.scores=.*: its episodes are in other tokens than those of student\.path=",
        ),
    ]
    for recipe, line in cases:
        with pytest.raises(SodError, match=line):
            prepare_train(recipe, tmp_path / "run", False, print)
    for recipe, source, line in (
        (recipe_at(place, {"scores": str(out)}), "sft", "a teacher to score with is not set"),
        (
            recipe_at(place, student={"path": str(tmp_path / "other")}, teacher={"path": str(tmp_path / "other")}),
            "run",
            r"run.*: its tokens are not those of student\.path=",
        ),
    ):
        with pytest.raises(SodError, match=line):
            score_file(recipe, str(place / source), tmp_path / "more.parquet", None, print)
    assert not (tmp_path / "more.parquet").exists()
