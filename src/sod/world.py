"""A generated world on disk: data, a tokenizer, and random models, from the `world` section of a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.recipe import Recipe, WorldSpec
from sod.seeds import derive
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tasks.files import write_conversations, write_tasks
from sod.tools.python import SCHEMA


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
