"""The tokens that the models of a recipe share: proven before any weights are read, and told where they are not all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sod.build.data import make_chat
from sod.chat.render import Chat
from sod.models.load import check_compatible, load_tokenizer, vocabulary_rows
from sod.models.support import Support, refuse_tokens_without_rows, rows_without_token
from sod.recipe import Notice, Recipe

Named = tuple[str, Any]
"""A model directory or hub id, and its tokenizer."""


def chat_of(recipe: Recipe, student: str, notice: Notice, world_tools: Sequence[Mapping[str, Any]] = ()) -> Chat:
    """The renderer over the tokenizer of the `student`, a model directory or hub id, alone.

    Raises SodError where the tokenizer cannot be loaded, and as `chat_over`.
    """
    return chat_over(recipe, (student, load_tokenizer(student)), None, notice, world_tools)


def chat_over(
    recipe: Recipe,
    student: Named,
    teacher: Named | None,
    notice: Notice,
    world_tools: Sequence[Mapping[str, Any]] = (),
) -> Chat:
    """The renderer over the tokenizer of the `student`; the `teacher` scores its tokens too.

    `world_tools` are the tools of an environment. Rows of either model that have no token are told, and so are EOS
    tokens that differ. Raises SodError where the two have other tokens, where a token has no row in a model, and for a
    template that is not append-only.
    """
    (path, tokenizer), theirs = student, None
    if teacher is not None:
        theirs = teacher[1]
        check_compatible(tokenizer, theirs, path, teacher[0])
    for scored in dict.fromkeys([path, *([] if teacher is None else [teacher[0]])]):
        check_rows(tokenizer, scored, notice)
    chat = make_chat(recipe, tokenizer, notice, world_tools)
    if teacher is not None and theirs is not None and theirs.eos_token_id != tokenizer.eos_token_id:
        notice(
            f"{teacher[0]}: the teacher's EOS is {_end(theirs)}, the student's ({path}) {_end(tokenizer)}; turns end "
            f"in the chat's {chat.end_text!r} for both; where the student does not say it yet, `sod sft` teaches it"
        )
    return chat


def check_rows(tokenizer: Any, path: str, notice: Notice) -> None:
    """Tell of rows of the model at `path` that have no token. Raises SodError where a token has no row."""
    rows = vocabulary_rows(path)
    if rows is None:
        return  # found out when the weights are loaded
    refuse_tokens_without_rows(tokenizer, rows, path)
    told = rows_without_token(Support.of(tokenizer), rows, path)
    if told is not None:
        notice(told)


def _end(tokenizer: Any) -> str:
    return "none" if tokenizer.eos_token_id is None else repr(tokenizer.eos_token)
