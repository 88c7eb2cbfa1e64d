"""Two models' tokens of the same conversations: a ledger of each, and how much of what the student says matches.

For a teacher of another tokenizer. Only tokenizers are loaded, no weights. Of a conversation that a file holds the
turns are written as the student would have sampled them, and again as the teacher reads them, each in its own template
and dialect (`sod.alignment.turns` matches them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from sod.alignment.pieces import Pieces
from sod.alignment.turns import Coverage, Ledger, MatchedTurn, match_trajectory
from sod.build.data import make_chat
from sod.build.declared_tools import tools_to_show
from sod.build.translation import fast_tokenizer, named_pieces, teacher_chat
from sod.chat.confined import UnboundedTemplateError
from sod.chat.render import Chat
from sod.recipe import Recipe
from sod.records import SodError
from sod.tasks.base import Conversation
from sod.tasks.loaded import SkippedRow, skips_line
from sod.teachers.translated import Translation

PREFLIGHT_ROWS = 32
Numbered = tuple[int, Conversation]
"""A row of a file by its number."""
Progress = Callable[[int, int], None]
"""Hears how many rows are done, of how many."""


class UnwrittenError(SodError):
    """The student can write none of the rows."""


@final
@dataclass(frozen=True)
class Reader:
    """One model as it reads conversations: its renderer, and the bytes of its tokens."""

    path: str
    chat: Chat
    pieces: Pieces

    def ledger(self, conversation: Conversation) -> Ledger:
        """The conversation in this model's tokens.

        Raises ValueError and SodError where its template or dialect cannot write it.
        """
        tools = tools_to_show(conversation, self.chat.tools)
        return Ledger(self.chat, self.pieces, *self.chat.encode_conversation(conversation.messages, tools), tools)


@final
@dataclass(frozen=True)
class Aligned:
    """A conversation in both models' tokens, and its turns matched."""

    student: Ledger
    teacher: Ledger
    turns: Sequence[MatchedTurn]


@final
@dataclass(frozen=True)
class Pair:
    """Student and teacher, for the same tools."""

    student: Reader
    teacher: Reader

    def aligned(self, conversation: Conversation) -> Aligned:
        """The conversation, matched. Raises ValueError and SodError where one of the two cannot write it."""
        return self.beside(self.student.ledger(conversation), conversation)

    def beside(self, own: Ledger, conversation: Conversation) -> Aligned:
        """The same, where the student's ledger is there. Raises where the teacher cannot write it."""
        theirs = self.teacher.ledger(conversation)
        return Aligned(own, theirs, match_trajectory(own, theirs))


def pair_of(recipe: Recipe, student: str, teacher: str, world_tools: Sequence[Mapping[str, Any]] = ()) -> Pair:
    """The two models, by directories or hub ids, with the recipe's `chat` keys and tools.

    Raises SodError, naming the model, for a tokenizer that is no fast one or whose bytes nobody can tell, and for a
    template that hides the tools or is not append-only.
    """
    own = make_chat(recipe, fast_tokenizer(student), lambda text: None, world_tools)
    return Pair(Reader(student, own, named_pieces(own.tokenizer, student)), teacher_reader(recipe, teacher, own))


def teacher_reader(recipe: Recipe, path: str, student: Chat) -> Reader:
    """A teacher by its directory or hub id, as it reads the conversations of a student with that chat.

    Raises SodError as `pair_of`.
    """
    chat = teacher_chat(recipe, fast_tokenizer(path), path, student)
    return Reader(path, chat, named_pieces(chat.tokenizer, path))


@final
@dataclass(frozen=True)
class Tally:
    """What became of the student's tokens in so many turns; `one_to_one` of those matched are a span of their own."""

    turns: int = 0
    one_to_one: int = 0
    coverage: Coverage = field(default_factory=Coverage)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.turns + other.turns, self.one_to_one + other.one_to_one, self.coverage + other.coverage)

    @classmethod
    def of(cls, turn: MatchedTurn) -> Tally:
        """One turn's."""
        return cls(1, int(turn.spans.one_to_one.sum()), turn.coverage)


@final
@dataclass(frozen=True)
class Least:
    """The turn of which the smallest share is matched."""

    row: int
    turn: int
    share: float


@final
@dataclass(frozen=True)
class Covered:
    """What matches over several rows: by the number of the turn (from 1), and where least does.

    `unread` are rows that the student can write and the teacher cannot, which count as unmatched; `skipped` are left
    out, as the student cannot write them either.
    """

    rows: int
    by_turn: Mapping[int, Tally]
    least: Least
    unread: Sequence[SkippedRow]
    skipped: Sequence[SkippedRow]

    @property
    def total(self) -> Tally:
        """Of all turns."""
        return sum(self.by_turn.values(), Tally())

    @property
    def share(self) -> float:
        """How much of what the student says is matched."""
        return self.total.coverage.share


def coverage_of(pair: Pair, rows: Sequence[Numbered], progress: Progress = lambda done, total: None) -> Covered:
    """How much of these rows matches. Raises UnwrittenError where the student can write none of them."""
    by_turn: dict[int, Tally] = {}
    least: Least | None = None
    unread: list[SkippedRow] = []
    skipped: list[SkippedRow] = []
    for done, (number, conversation) in enumerate(rows, 1):
        try:
            turns = _tallies(pair, number, conversation, unread)
        except UnboundedTemplateError:
            raise
        except (ValueError, SodError) as error:  # of the row's shape, or of a template that does not render it
            skipped.append(SkippedRow(number, str(error)))
            continue
        for turn, tally in enumerate(turns, 1):
            by_turn[turn] = by_turn.get(turn, Tally()) + tally
            if least is None or tally.coverage.share < least.share:
                least = Least(number, turn, tally.coverage.share)
        progress(done, len(rows))
    if least is None:
        raise UnwrittenError(f"no conversation can be written by the student; {skips_line(skipped)}")
    return Covered(len(rows) - len(skipped), by_turn, least, unread, skipped)


def _tallies(pair: Pair, number: int, conversation: Conversation, unread: list[SkippedRow]) -> list[Tally]:
    """What became of each turn; of a row that the teacher cannot write all is unmatched, and it is noted in `unread`.

    Raises ValueError and SodError where the student cannot write it.
    """
    own = pair.student.ledger(conversation)
    try:
        return [Tally.of(turn) for turn in pair.beside(own, conversation).turns]
    except UnboundedTemplateError:
        raise
    except (ValueError, SodError) as error:
        unread.append(SkippedRow(number, str(error)))
    turn_N = np.asarray(own.turn_ids)
    control_N = own.pieces.control[own.ids]
    tallies = []
    for turn in range(1, int(turn_N.max()) + 1):
        tokens, control = int((turn_N == turn).sum()), int(control_N[turn_N == turn].sum())
        tallies.append(Tally(1, 0, Coverage(control=control, unmatched=tokens - control)))
    return tallies


def check_coverage(recipe: Recipe, translation: Translation, rows: Sequence[Numbered]) -> None:
    """The silent look before a run at 32 rows, spread evenly over these.

    Raises SodError where less of them matches than `method.alignment.min_coverage`. Rows that the student cannot write
    say nothing.
    """
    own, theirs = translation.student, translation.teacher
    student = Reader(recipe.student.path, own.chat, own.pieces)
    pair = Pair(student, Reader(translation.path, theirs.chat, theirs.pieces))
    try:
        covered = coverage_of(pair, spread(rows, PREFLIGHT_ROWS))
    except UnwrittenError:
        return
    refuse_uncovered(covered, translation.min_coverage, "method.alignment.min_coverage", translation.path)


def refuse_uncovered(covered: Covered, limit: float, key: str, teacher: str) -> None:
    """Raises SodError, which names the `key` of the limit and the turn of least coverage, where less is matched."""
    if covered.share < limit:
        least = covered.least
        raise SodError(
            f"{teacher}: {covered.share:.1%} of what the student says is matched with its tokens, below "
            f"{key}={limit:g}; least in row {least.row}, turn {least.turn} ({least.share:.1%}): `sod align` with "
            f"--row {least.row} --tokens shows why; lower the limit or take another teacher"
        )


def spread(rows: Sequence[Numbered], count: int) -> list[Numbered]:
    """So many of the rows, evenly over the file; all where there are no more."""
    if len(rows) <= count:
        return list(rows)
    return [rows[at] for at in np.linspace(0, len(rows) - 1, count).round().astype(int).tolist()]
