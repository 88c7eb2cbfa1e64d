"""A teacher with another tokenizer: whether the recipe's is one, and what it needs to read episodes on its own.

Found out before weights are read: its tokenizer's bytes, and its chat template with the run's tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sod.alignment import estimators
from sod.alignment.pieces import Pieces, pieces_of
from sod.alignment.vocabularies import blank_tokens, longest_prefixes, shared_tokens
from sod.build.idle import occurs
from sod.build.method import alignment_of, can_align
from sod.build.vocabulary import Named, chat_over, check_rows
from sod.chat.render import Chat
from sod.models.adapters import base_source, tokenizer_home
from sod.models.architecture import read_config
from sod.models.length import context_bounds, rope_bounds
from sod.models.load import load_tokenizer
from sod.models.support import vocabulary
from sod.objective.alignments import Alignment
from sod.objective.methods import Method
from sod.recipe import AlignmentSpec, Notice, Recipe
from sod.records import SodError
from sod.teachers.base import Offer
from sod.teachers.translated import Reader, Translation
from sod.training.spans import SpanMeasure


def chats_of(
    recipe: Recipe,
    method: Method,
    teacher: str | None,
    offer: Offer,
    notice: Notice,
    world_tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[Chat, Translation | None]:
    """The renderer of the run, and what stands between it and the teacher of that path where that reads its own.

    `offer` is what such a teacher gives. Raises SodError as `vocabulary.chat_over` and `translation_of`.
    """
    student = (recipe.student.path, load_tokenizer(recipe.student.path))
    load = fast_tokenizer if can_align(method) else load_tokenizer
    theirs = None if teacher is None else (teacher, load(teacher))
    if theirs is None or not is_translated(recipe, method, student[1], theirs[1]):
        return chat_over(recipe, student, theirs, notice, world_tools), None
    chat = chat_over(recipe, student, None, notice, world_tools)
    return chat, translation_of(recipe, theirs, offer, chat, notice)


def translation_of(recipe: Recipe, teacher: Named, offer: Offer, chat: Chat, notice: Notice) -> Translation:
    """What stands between the student's `chat` and the teacher.

    Raises SodError naming the model whose tokenizer has no bytes, for a teacher that lacks rows of its tokens, and for
    one whose template does not show the run's tools.
    """
    spec = recipe.method.alignment or AlignmentSpec()
    path, tokenizer = teacher
    student = Reader(chat, named_pieces(chat.tokenizer, recipe.student.path))
    pieces = named_pieces(tokenizer, path)
    served = recipe.teacher is not None and recipe.teacher.path is None
    if not served:
        check_rows(tokenizer, path, notice)
    reader = Reader(teacher_chat(recipe, tokenizer, path, chat), pieces)
    kind = alignment_of(recipe.method, offer).kind
    chosen = "" if spec.kind else f" (the default of a teacher that gives {offer.level} log-probabilities)"
    notice(
        f"{path}: the teacher reads the conversations in its own tokens and in {reader.chat.why}; "
        f"method.alignment={kind}{chosen} takes its signal where both models' tokens spell the same"
    )
    return Translation(student, reader, path, spec.min_coverage, None if served else longest_read(path))


def longest_read(path: str) -> int | None:
    """The most tokens that the model at `path` can read; None where nothing says."""
    config = read_config(base_source(path))
    return min((bound.tokens for bound in (*context_bounds(config), *rope_bounds(config))), default=None)


def is_translated(recipe: Recipe, method: Method, student: Any, teacher: Any) -> bool:
    """Whether the teacher reads a rendering of its own: where the recipe says so, or its tokens differ.

    Never with a method that cannot align: that one needs the same tokens.
    """
    if not can_align(method):
        return False
    return recipe.method.alignment is not None or vocabulary(student) != vocabulary(teacher)


def span_measure(alignment: Alignment, translation: Translation, device: torch.device) -> SpanMeasure:
    """The loss over spans of a dense alignment, for logits on the student's device.

    Raises SodError where the two vocabularies have too little in common for it.
    """
    return measure_between(alignment, translation.student.pieces, translation.teacher.pieces, translation.path, device)


def measure_between(
    alignment: Alignment, student: Pieces, teacher: Pieces, path: str, device: torch.device
) -> SpanMeasure:
    """`span_measure` between two vocabularies; `path` names the teacher in errors."""
    if alignment.kind == "uld":
        return estimators.uld
    if alignment.kind == "bpm":
        prefix_W, blank_V = (
            torch.as_tensor(found) for found in (longest_prefixes(student, teacher), blank_tokens(student))
        )
        return partial(estimators.bpm, prefix_W=prefix_W.to(device), blank_V=blank_V.to(device))
    shared = shared_tokens(student, teacher)
    if not len(shared.student):
        raise SodError(
            f"{path}: no token of the teacher is one of the student's, which method.alignment="
            f"{alignment.kind} compares; take chunk, uld or bpm"
        )
    own_C, theirs_C = (torch.as_tensor(ids).to(device) for ids in (shared.student, shared.teacher))
    if alignment.kind == "simct":
        return partial(
            estimators.simct, shared_student_C=own_C, shared_teacher_C=theirs_C, unit_score=alignment.unit_score
        )
    if alignment.kind == "gold":
        return partial(
            estimators.gold,
            shared_student_C=own_C,
            shared_teacher_C=theirs_C,
            beta=alignment.beta,
            matched=alignment.matched,
        )
    if alignment.kind == "strict_topk":
        return partial(estimators.strict_topk, shared_student_C=own_C, shared_teacher_C=theirs_C, k=alignment.top_k)
    return partial(estimators.shared_tokens, shared_student_C=own_C, shared_teacher_C=theirs_C)


def fast_tokenizer(path: str) -> Any:
    """The tokenizer of a model that is to be aligned with another. Raises SodError, naming it, for one that is slow."""
    home = Path(tokenizer_home(path))
    if home.is_dir() and not (home / "tokenizer.json").is_file():
        raise SodError(
            f"{path}: no tokenizer.json, so no fast tokenizer, and nobody can tell the bytes of its tokens; save one "
            "there with AutoTokenizer.from_pretrained(...).save_pretrained"
        )
    return load_tokenizer(path)


def named_pieces(tokenizer: Any, path: str) -> Pieces:
    """The bytes of a model's tokens. Raises SodError, naming the model, where nobody can tell them."""
    try:
        return pieces_of(tokenizer)
    except SodError as error:
        raise SodError(f"{path}: {error}") from error


def teacher_chat(recipe: Recipe, tokenizer: Any, path: str, student: Chat) -> Chat:
    """The teacher's chat, by the recipe's `chat.template` and by as many of its arguments as the template reads.

    With `auto` its own template must show the tools, or be told them: in another one it would read what it never saw.
    Raises SodError, which names the teacher by its `path`.
    """
    template, own = recipe.chat.template, str(tokenizer.chat_template or "")
    source = str(student.template) if template == "hermes" else own
    kwargs = {name: value for name, value in recipe.chat.template_kwargs.items() if occurs(name, source)}
    try:
        chat = Chat(tokenizer, student.tools, template, kwargs)
    except SodError as error:
        raise SodError(f"{path}: the teacher cannot be shown the conversations: {error}") from error
    renders_own = chat.template is None or own in chat.template
    if template == "auto" and student.tools and not renders_own:
        raise SodError(
            f"{path}: the teacher's own chat template cannot show it the run's tools ({chat.why}); take a teacher "
            "whose template does, or set chat.template=hermes for both models"
        )
    return chat
