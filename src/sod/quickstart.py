"""The main job from nothing: a world, a teacher, a student, SFT, then step-wise on-policy distillation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sod.build import Job, Notice, evaluate_model, prepare_sft, prepare_train
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.recipe import ModelSpec, Recipe, WorldSpec
from sod.records import SodError
from sod.runlog import write_json_atomic
from sod.seeds import derive
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tasks.files import write_conversations, write_tasks
from sod.tools.python import SCHEMA

RunJob = Callable[[str, Job], None]
"""Runs a job to its end, showing its progress under a title."""


def quickstart(recipe: Recipe, out: Path, run_job: RunJob, notice: Notice) -> dict[str, Any]:
    """Run every stage below `out` and return the summary that is written to `out/summary.json`.

    The summary's keys `vanilla`, `sft`, `sod` and `teacher` hold the figures of the same held-out test
    tasks, which no training saw; `seconds` tells how long each stage took. Raises SodError when the
    recipe has no `world` section, or `out` holds an earlier quickstart.
    """
    world = recipe.world
    if world is None:
        raise SodError("this recipe has no world section; start from recipes/quickstart.yaml")
    if (out / "data").exists():
        raise SodError(f"{out}: holds an earlier quickstart; move it away or choose another directory with --out")
    paths = {name: out / name for name in ("data", "teacher-init", "student-init", "teacher-sft", "student-sft", "sod")}
    seconds: dict[str, float] = {}
    with _timed(seconds, "data and models"):
        conversations = make_data(world, recipe.seed, paths["data"])
        make_models(world, recipe, conversations, paths)
    base = recipe.model_copy(update={"data": recipe.data.model_copy(update=data_paths(paths["data"]))})
    with _timed(seconds, "teacher sft"):
        traces = base.data.model_copy(update={"sft": str(paths["data"] / "sft-teacher.parquet")})
        update = {"student": _at(recipe, paths["teacher-init"]), "sft": world.teacher_sft, "data": traces}
        spec = base.model_copy(update=update)
        run_job("teacher SFT", prepare_sft(spec, paths["teacher-sft"], False, notice))
    with _timed(seconds, "student sft"):
        spec = base.model_copy(update={"student": _at(recipe, paths["student-init"])})
        run_job("student SFT", prepare_sft(spec, paths["student-sft"], False, notice))
    with _timed(seconds, "distillation"):
        spec = base.model_copy(
            update={"student": _at(recipe, paths["student-sft"]), "teacher": _at(recipe, paths["teacher-sft"])}
        )
        run_job(recipe.method.name.upper(), prepare_train(spec, paths["sod"], False, notice))
    summary: dict[str, Any] = {}
    with _timed(seconds, "evaluation"):
        for label, name in (
            ("vanilla", "student-init"),
            ("sft", "student-sft"),
            ("sod", "sod"),
            ("teacher", "teacher-sft"),
        ):
            spec = base.model_copy(update={"student": _at(recipe, paths[name])})
            summary[label] = evaluate_model(spec, str(paths["data"] / "test.parquet"), notice).as_dict()
    summary["seed"] = recipe.seed
    summary["seconds"] = seconds
    write_json_atomic(out / "summary.json", summary)
    return summary


def make_data(world: WorldSpec, seed: int, directory: Path) -> list[Conversation]:
    """Write the world's disjoint splits below `directory`; returns the teacher's SFT conversations.

    The teacher's expert makes no mistakes; the student's misreads an operand now and then and carries on.
    """
    directory.mkdir(parents=True)
    sizes = {"sft": world.sft, "train": world.train, "validation": world.validation, "test": world.test}
    chains = chain.splits(sizes, world.shortest, world.longest, seed)
    rng = np.random.default_rng(derive(seed, "slips"))
    clean = [chain.as_conversation(c, n, SCHEMA) for n, c in enumerate(chains["sft"])]
    sloppy = [chain.as_conversation(c.misread(rng, world.slips), n, SCHEMA, c) for n, c in enumerate(chains["sft"])]
    write_conversations(directory / "sft-teacher.parquet", clean)
    write_conversations(directory / "sft.parquet", sloppy)
    for name in ("train", "validation", "test"):
        write_tasks(directory / f"{name}.parquet", [chain.as_task(c, n) for n, c in enumerate(chains[name])])
    return clean


def data_paths(directory: Path) -> dict[str, str]:
    """The recipe's data keys for files that `make_data` wrote."""
    return {name: str(directory / f"{name}.parquet") for name in ("sft", "train", "validation")}


def make_models(world: WorldSpec, recipe: Recipe, conversations: list[Conversation], paths: dict[str, Path]) -> None:
    """Write a tokenizer learned from the conversations with a random teacher and a random student."""
    blank = Chat(train_tokenizer([], 300), [SCHEMA], template="hermes")
    corpus = (blank.conversation_text(c.messages) for c in conversations[:2_000])
    chat = Chat(train_tokenizer(corpus, world.vocab_size), [SCHEMA], template="hermes")
    for role, shape in (("teacher", world.teacher), ("student", world.student)):
        model = new_qwen3(
            chat.tokenizer,
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            ffn=shape.ffn,
            context=world.context,
            seed=derive(recipe.seed, role),
        )
        save_model(model, chat.tokenizer, chat.template, chat.end_id, paths[f"{role}-init"])


def _at(recipe: Recipe, path: Path) -> ModelSpec:
    return ModelSpec(path=str(path), dtype=recipe.student.dtype)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 1)
