"""Runs of models whose vocabularies are padded or holed, and of a student and a teacher that end in other tokens."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sod.build.evaluation import evaluate_model
from sod.build.supervised import prepare_sft
from sod.build.training import prepare_train
from sod.build.vocabulary import chat_over
from sod.models.load import load_model, load_tokenizer, save_model
from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import PRESETS
from sod.recipe import Recipe
from sod.records import SodError, StopReason
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.training.checkpoint import model_of
from sod.training.loop import InterruptedRunError
from sod.training.report import StepReport
from support import saying_instead

TASKS = [chain.as_task(c, n) for n, c in enumerate(chain.splits({"train": 6}, 2, 3, seed=1)["train"])]
END, OTHER_END = "<|im_end|>", "<|endoftext|>"
STUDENT_ROWS, TEACHER_ROWS = 478, 512
DIVERGENCES = [
    {"kind": "forward_kl"},
    {"kind": "reverse_kl"},
    {"kind": "jsd"},
    {"kind": "forward_kl", "top_k": 8},
    {"kind": "jsd", "top_k": 8, "chosen_by": "student"},
]


def padded(model: Any, rows: int) -> Any:
    """The model with more rows, each a copy of one with a token: half of what it says would have none."""
    tokens = model.config.vocab_size
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[tokens:] = weight[torch.arange(rows - tokens) % tokens]
    return model


@pytest.fixture
def make_recipe(tmp_path: Path, conversations: Any) -> Callable[..., Recipe]:
    """`make_recipe(section={...})`: a recipe over `student` and `teacher` below `tmp_path`, and real data."""
    write_tasks(tmp_path / "train.parquet", TASKS)
    write_conversations(tmp_path / "sft.parquet", conversations[:8])

    def make(**sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "student": {"path": str(tmp_path / "student")},
            "teacher": {"path": str(tmp_path / "teacher")},
            "chat": {"template": "hermes"},
            "data": {name: str(tmp_path / f"{name}.parquet") for name in ("train", "sft")},
            "rollout": {
                "prompts": 2,
                "samples": 2,
                "max_turns": 3,
                "max_prompt_tokens": 200,
                "max_turn_tokens": 24,
                "max_response_tokens": 120,
            },
            "optim": {"lr": 1e-3},
            "tools": {"python": {"workers": 1, "memory_mb": 256}},
            "train": {"steps": 2, "checkpoint_every": 1},
            "sft": {"steps": 2, "batch_size": 2, "optim": {"lr": 1e-3}},
            "evaluation": {"tasks": 3, "k": 2, "temperature": 1.0},
        }
        content |= sections
        method = content.get("method", "sod")
        needs = PRESETS[method if isinstance(method, str) else method["name"]]().needs
        if Need.TEACHER not in needs or needs & SELF_TEACHER:
            content["teacher"] = None
        return Recipe.model_validate(content)

    return make


@pytest.fixture
def padded_models(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> Path:
    """A student and a teacher of one network with other numbers of rows, saved below the directory returned."""
    for role, rows in (("student", STUDENT_ROWS), ("teacher", TEACHER_ROWS)):
        model = padded(clone(acting_model), rows)
        save_model(model, copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, tmp_path / role)
    return tmp_path


def with_holes(directory: Path) -> set[int]:
    """Give two tokens of a saved tokenizer ids beyond all others; the ids that have tokens now."""
    file = directory / "tokenizer.json"
    content = json.loads(file.read_text())
    by_id = {number: token for token, number in content["model"]["vocab"].items()}
    for number, moved in ((390, 440), (391, 469)):
        content["model"]["vocab"][by_id[number]] = moved
    file.write_text(json.dumps(content))
    ids = set(load_tokenizer(str(directory)).get_vocab().values())
    assert 390 not in ids
    assert max(ids) == 469
    return ids


def saved_head(directory: Path) -> torch.Tensor:
    weights = load_file(directory / "model.safetensors")
    return weights.get("lm_head.weight", weights["model.embed_tokens.weight"])


def trained(recipe: Recipe, directory: Path) -> tuple[Any, list[str]]:
    """The log of a run of the recipe, and what was told."""
    notes: list[str] = []
    job = prepare_train(recipe, directory, False, notes.append)
    job.start([])
    job.close()
    return job.log, notes


def check_run(log: Any, start: Path, ids: set[int]) -> None:
    """All that was sampled has a token; every row is saved, and those without a token are as they were."""
    rows = [row for step in (1, 2) for row in log.trajectories(step)]
    assert rows
    assert all(set(row["token_ids"]) <= ids for row in rows)
    before, after = saved_head(start), saved_head(model_of(log.checkpoints()[-1][1]))
    assert after.shape == before.shape
    without = [number for number in range(len(before)) if number not in ids]
    assert torch.equal(after[without], before[without])


class TestRowsWithoutAToken:
    """478 rows, or 512, for 404 tokens."""

    def test_two_steps(self, make_recipe: Any, padded_models: Path, chat: Any) -> None:
        """The teacher is the student's network with other rows: no gap at the first step."""
        log, notes = trained(make_recipe(method="sod"), padded_models / "run")
        check_run(log, padded_models / "student", set(chat.tokenizer.get_vocab().values()))
        assert notes == [
            f"{padded_models / role}: {rows} rows, 404 tokens: the {rows - 404} rows without a token are left out of "
            "every distribution"
            for role, rows in (("student", STUDENT_ROWS), ("teacher", TEACHER_ROWS))
        ]
        first, _ = log.metrics()
        assert first["turn_gap_first"] < 1e-5
        assert first["train_inference_gap"] < 1e-5

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["grpo", "opd", "sage", "atod", "opsd_hint", "tcod_b2f"])
    def test_methods(self, name: str, make_recipe: Any, padded_models: Path) -> None:
        """With holes among the ids, too; one method of each kind of need."""
        ids = [with_holes(padded_models / role) for role in ("student", "teacher")]
        log, _ = trained(make_recipe(method=name), padded_models / "run")
        check_run(log, padded_models / "student", ids[0])

    @pytest.mark.slow
    @pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda spec: "-".join(map(str, spec.values())))
    def test_divergences(self, divergence: dict[str, Any], make_recipe: Any, padded_models: Path) -> None:
        """Nothing to learn at first from a twin with other rows."""
        ids = [with_holes(padded_models / role) for role in ("student", "teacher")]
        log, _ = trained(make_recipe(method={"name": "opd", "divergence": divergence}), padded_models / "run")
        check_run(log, padded_models / "student", ids[0])
        assert abs(log.metrics()[0]["loss"]) < 1e-5

    @pytest.mark.slow
    def test_from_sft_to_a_resumed_run(self, make_recipe: Any, padded_models: Path) -> None:
        """SFT, an evaluation of its checkpoint, a bfloat16 run from it in one go and in two: the same in the end."""
        notes: list[str] = []
        job = prepare_sft(make_recipe(), padded_models / "sft", False, notes.append)
        job.start([])
        job.close()
        method = {"name": "opsd_gt", "divergence": "jsd", "teacher_rule": "ema", "teacher_decay": 0.9}
        recipe = make_recipe(student={"path": str(padded_models / "sft"), "dtype": "bfloat16"}, method=method)
        result = evaluate_model(recipe, str(padded_models / "train.parquet"), notes.append)
        assert max(token for trajectory in result.trajectories for token in trajectory.token_ids) < 404
        whole, told = trained(recipe, padded_models / "whole")
        notes += told
        first = prepare_train(recipe, padded_models / "run", False, notes.append)

        def stop(report: StepReport) -> None:
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(InterruptedRunError):
            first.start([stop])
        first.close()
        second = prepare_train(recipe, padded_models / "run", True, notes.append)
        assert second.done == 1
        second.start([])
        second.close()
        ends = [saved_head(model_of(log.checkpoints()[-1][1])) for log in (whole, second.log)]
        assert torch.equal(*ends)
        assert len(ends[0]) == STUDENT_ROWS
        assert [f"{STUDENT_ROWS} rows, 404 tokens" in note for note in notes] == [True] * 5

    def test_a_token_without_a_row_is_refused_before_weights_are_read(
        self, make_recipe: Any, padded_models: Path
    ) -> None:
        """Of student and teacher, in training, SFT and evaluation; the weights are not even there."""
        for role in ("student", "teacher"):
            tokenizer = load_tokenizer(str(padded_models / role))
            tokenizer.add_tokens([f"<more{n}>" for n in range(STUDENT_ROWS - 404 + 1)])
            tokenizer.save_pretrained(padded_models / role)
            (padded_models / role / "model.safetensors").unlink()
        recipe, out = make_recipe(), padded_models / "run"
        says = (
            rf"^{padded_models}/student: the model has 478 rows.*'<more74>', token 478 .*resize_token_embeddings\(479\)"
        )
        for attempt in (
            lambda: prepare_train(recipe, out, False, str),
            lambda: prepare_sft(recipe, out, False, str),
            lambda: evaluate_model(recipe, str(padded_models / "train.parquet"), str),
        ):
            with pytest.raises(SodError, match=says):
                attempt()
        swapped = make_recipe(student={"path": recipe.teacher.path}, teacher={"path": recipe.student.path})
        with pytest.raises(SodError, match=says):
            prepare_train(swapped, out, False, str)
        assert not out.exists()


@pytest.fixture
def base_and_instruct(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> Path:
    """A student that ends its turns in an EOS of its own, and a teacher that ends them in the chat's end token."""
    ids = [chat.tokenizer.convert_tokens_to_ids(token) for token in (END, OTHER_END)]
    base = saying_instead(clone(acting_model), ids)
    own = copy.deepcopy(chat.tokenizer)
    own.eos_token = OTHER_END
    save_model(base, own, None, own.eos_token_id, tmp_path / "student")
    save_model(clone(acting_model), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, tmp_path / "teacher")
    assert load_tokenizer(str(tmp_path / "student")).eos_token == OTHER_END
    assert not load_model(str(tmp_path / "student"), "float32").config.tie_word_embeddings
    return tmp_path


class TestOtherEndTokens:
    """A base student and an instruct teacher of one vocabulary."""

    def test_both_ends_are_told(self, make_recipe: Any, base_and_instruct: Path) -> None:
        """Before weights are read, and only where they differ."""
        base, instruct = (str(base_and_instruct / role) for role in ("student", "teacher"))
        for role in (base, instruct):
            (Path(role) / "model.safetensors").unlink()
        notes: list[str] = []
        named = {path: (path, load_tokenizer(path)) for path in (base, instruct)}
        for student, teacher in ((base, instruct), (instruct, base), (base, base)):
            assert chat_over(make_recipe(), named[student], named[teacher], notes.append).end_text == END
        assert chat_over(make_recipe(), named[base], None, notes.append).end_text == END
        assert notes == [
            f"{teacher}: the teacher's EOS is {its!r}, the student's ({student}) {own!r}; turns end in the chat's "
            f"{END!r} for both; where the student does not say it yet, `sod sft` teaches it"
            for student, own, teacher, its in ((base, OTHER_END, instruct, END), (instruct, END, base, OTHER_END))
        ]

    @pytest.mark.slow
    def test_the_chats_end_token_rules(self, make_recipe: Any, base_and_instruct: Path, chat: Any) -> None:
        """Turns end in either token; what follows one that ended in the student's own is led by the chat's."""
        log, notes = trained(make_recipe(method="sod"), base_and_instruct / "run")
        (note,) = notes
        assert note.startswith(
            f"{base_and_instruct}/teacher: the teacher's EOS is '{END}', the student's ({base_and_instruct}/student) "
            f"'{OTHER_END}'; turns end in the chat's '{END}' for both"
        )
        own = chat.tokenizer.convert_tokens_to_ids(OTHER_END)
        borders = []
        for row in (row for step in (1, 2) for row in log.trajectories(step)):
            ids, turns = row["token_ids"], row["turn_ids"]
            ends = [t for t in range(1, len(ids)) if turns[t] == 0 and turns[t - 1] > 0]
            borders += [tuple(ids[t - 1 : t + 1]) for t in ends]
            assert all(row["teacher_logps"][t - 1] is not None for t in ends)
        assert (own, chat.end_id) in borders  # its calls were run, and the conversation went on in the chat's form
        assert all((last == chat.end_id) != (then == chat.end_id) for last, then in borders)
        saved = model_of(log.checkpoints()[-1][1])
        assert json.loads((saved / "generation_config.json").read_text())["eos_token_id"] == chat.end_id

    @pytest.mark.slow
    def test_evaluation_reads_its_answers(self, make_recipe: Any, base_and_instruct: Path, chat: Any) -> None:
        """A turn that ended in the student's own EOS is an answer, not one that was cut off."""
        limits = {"max_turns": 6, "max_prompt_tokens": 200, "max_turn_tokens": 32, "max_response_tokens": 300}
        result = evaluate_model(make_recipe(rollout=limits), str(base_and_instruct / "train.parquet"), pytest.fail)
        own = chat.tokenizer.convert_tokens_to_ids(OTHER_END)
        ended = [trajectory for trajectory in result.trajectories if trajectory.token_ids[-1] == own]
        assert ended
        assert {trajectory.stop for trajectory in ended} <= {StopReason.ANSWER, StopReason.MAX_TURNS}
        assert StopReason.ANSWER in {trajectory.stop for trajectory in ended}

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "swapped"),
        [("opd", False), ("tcod_b2f", False), ("opsd_gt", False), ("opd", True), ("tcod_b2f", True)],
    )
    def test_methods(self, name: str, swapped: bool, make_recipe: Any, base_and_instruct: Path) -> None:
        """A base student and an instruct teacher, and the other way round."""
        method = {"name": name} | ({"divergence": "jsd"} if name == "opd" else {})
        base, instruct = ({"path": str(base_and_instruct / role)} for role in ("student", "teacher"))
        student, teacher = (instruct, base) if swapped else (base, instruct)
        recipe = make_recipe(method=method, student=student, teacher=teacher)
        log, notes = trained(recipe, base_and_instruct / "run")
        assert [row["step"] for row in log.metrics()] == [1, 2]
        assert len(notes) == (0 if name == "opsd_gt" else 1)
