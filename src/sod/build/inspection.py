"""What a data file is to a run: the shapes of its rows, what of them is used, and rows as the model will see them.

Reads through the loaders that runs read through, so that what is shown is what is trained on. Needs no model: with a
chat there are tokens, without one texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal, TypeVar, final

from sod.build.declared_tools import signature, tell_other_tools
from sod.build.inspected_rows import ShownRow, conversation_lengths, shown_conversation, shown_task
from sod.build.programming import with_readable_tests, with_tests_told
from sod.build.rewarded import rewarded
from sod.build.tools import tool_schemas
from sod.build.truths import with_readable_truths
from sod.chat.confined import UnboundedTemplateError
from sod.chat.render import Chat
from sod.recipe import Recipe
from sod.records import SodError, Task
from sod.rewards.answers import asked_forms
from sod.tasks.base import Conversation
from sod.tasks.files import load_conversations, load_tasks
from sod.tasks.formats.sft_pairs import PAIRS
from sod.tasks.lent_tools import with_lent_tools
from sod.tasks.loaded import Loaded, SkippedRow

T = TypeVar("T")
Kind = Literal["tasks", "sft"]
Facts = list[tuple[str, str]]
"""A name and a text each."""
Progress = Callable[[int, int], None]
"""Hears how many rows are done, of how many."""
NAMES: Mapping[Kind, str] = {"tasks": "RL tasks", "sft": "SFT conversations"}
OTHER: Mapping[Kind, Kind] = {"tasks": "sft", "sft": "tasks"}
_LETTER = re.compile(r"\(?[A-Z]\)?")
NAMED_ROWS = 3  # of each reason for which rows are skipped
NAMED_REASONS = 4


@final
@dataclass(frozen=True)
class Inspection:
    """What was found out about a file: facts, and its first rows."""

    kind: Kind
    facts: Facts
    rows: Sequence[ShownRow]


def inspected(
    source: str,
    recipe: Recipe,
    chat: Chat | None,
    rows: int,
    kind: Kind | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Read a file as `kind`, or as what most of its rows can be used as; show so many `rows` of it.

    Raises SodError where no row can be used.
    """
    problems: dict[Kind, str] = {}
    tasks = None if kind == "sft" else _tried("tasks", lambda: _judged(source, recipe), problems)
    conversations = None
    if kind != "tasks":
        conversations = _tried("sft", lambda: conversations_in(source, recipe), problems)
    told = progress or (lambda done, total: None)
    taken = _likelier(None if tasks is None else tasks.loaded, conversations)
    if taken == "tasks" and tasks is not None:
        found = _of_tasks(tasks, chat, rows, told)
    elif conversations is not None:
        found = _of_conversations(conversations, source, recipe, chat, rows, told)
    else:
        raise SodError(why_nothing(source, problems))
    other = conversations if taken == "tasks" else tasks and tasks.loaded
    if other:
        also = f"{_rows(len(other.items))} can be {NAMES[OTHER[taken]]} too: --as {OTHER[taken]} shows them so"
        return replace(found, facts=[*found.facts, ("also", also)])
    return found


def conversations_in(source: str, recipe: Recipe) -> Loaded[Conversation]:
    """The conversations of a file, as a run would read them. Raises SodError where there is none."""
    spec = recipe.data
    read = load_conversations(source, spec.split, spec.columns, spec.system, spec.suffix)
    return with_lent_tools(read, spec.tools)


def _tried(kind: Kind, load: Callable[[], T], problems: dict[Kind, str]) -> T | None:
    """What was loaded; None where nothing can be used, with the reason in `problems`."""
    try:
        return load()
    except SodError as error:
        problems[kind] = str(error)
        return None


def _likelier(tasks: Loaded[Task] | None, conversations: Loaded[Conversation] | None) -> Kind:
    """What has more usable rows. Of equally many, a prompt with its answer is a task, all else a conversation."""
    as_tasks, as_sft = _count(tasks), _count(conversations)
    if as_tasks != as_sft or conversations is None:
        return "tasks" if as_tasks > as_sft else "sft"
    return "tasks" if conversations.shapes.get(PAIRS.name) else "sft"


def _count(loaded: Loaded[Any] | None) -> int:
    return 0 if loaded is None else len(loaded.items)


def why_nothing(source: str, problems: Mapping[Kind, str]) -> str:
    """In one line: the reason once where both are the same, and the one of the kind whose shapes know the rows."""
    known = [text for text in problems.values() if "no usable row" in text]
    if len(set(problems.values())) == 1 or len(known) == 1:
        return (known or list(problems.values()))[0]
    reasons = [f"as {NAMES[kind]}: {text.removeprefix(f'{source}: ')}" for kind, text in problems.items()]
    return f"{source}: no row can be used; {'; '.join(reasons)}"


def _unasked(judged: _Judged) -> Iterator[str]:
    """Of prompts that do not say how to answer, while a box is what is read."""
    spec = judged.recipe.reward
    reading = [task for task in judged.loaded.items if spec.verifier_of(task) in ("math", "choice")]
    unasked = sum(not asked_forms(task.prompt) for task in reading)
    if unasked and spec.answer == "auto":
        yield f"{unasked:,} of {len(reading):,} prompts ask for no form of answer; data.suffix can ask for \\boxed{{}}"


@final
@dataclass(frozen=True)
class _Judged:
    """The tasks that the verifiers of `recipe` can judge, and what there was to say."""

    recipe: Recipe
    loaded: Loaded[Task]
    notes: Sequence[str]


def _judged(source: str, recipe: Recipe) -> _Judged:
    """The tasks of a file as a run would judge them. Raises SodError where there is none."""
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text.removeprefix(f"{source}: "))

    spec, data = recipe.reward, recipe.data
    read = load_tasks(source, data.split, data.columns, data.system, data.suffix, spec.verifier is not None)
    read = with_readable_truths(with_tests_told(read, source, spec, note), source, spec, note)
    read = with_readable_tests(read, source, spec)
    tell_other_tools(read.items, source, recipe, note)
    by_math = [task for task in read.items if spec.verifier_of(task) == "math"]
    if by_math and all(_LETTER.fullmatch(task.ground_truth.strip()) for task in by_math):
        note("every truth is a letter: reward.verifier=choice reads letters")
    return _Judged(recipe, read, notes)


def _of_tasks(judged: _Judged, chat: Chat | None, rows: int, progress: Progress) -> Inspection:
    recipe, read = judged.recipe, judged.loaded
    lengths = []
    for done, task in enumerate(read.items, 1):
        lengths.append(_prompt_length(task, chat))
        progress(done, len(read.items))
    limit = ("rollout.max_prompt_tokens", recipe.rollout.max_prompt_tokens)
    facts = [
        ("read as", _read_as("tasks", read, len(read.items))),
        *_common_facts(read),
        *[("note", note) for note in [*judged.notes, *_unasked(judged)]],
        ("tools", _tools_text(chat.tools if chat is not None else tool_schemas(recipe))),
        ("prompts", _lengths_text(lengths, chat, limit)),
    ]
    numbered = list(zip(read.rows, read.items, strict=True))[:rows]
    return Inspection("tasks", facts, [shown_task(number, task, recipe.reward, chat) for number, task in numbered])


def _of_conversations(
    loaded: Loaded[Conversation], source: str, recipe: Recipe, chat: Chat | None, rows: int, progress: Progress
) -> Inspection:
    notes: list[str] = []
    own = tool_schemas(recipe)
    numbered = list(zip(loaded.rows, loaded.items, strict=True))
    kept = rewarded(numbered, source, recipe, lambda text: notes.append(text.removeprefix(f"{source}: ")))
    usable: list[tuple[int, Conversation]] = []
    lengths: list[tuple[int, int]] = []
    skipped = list(loaded.skipped)
    for done, (number, conversation) in enumerate(kept, 1):
        try:
            lengths.append(conversation_lengths(conversation, own, chat))
            usable.append((number, conversation))
        except UnboundedTemplateError:
            raise
        except (ValueError, SodError) as error:  # of the shape, or of a template that does not render this row
            skipped.append(SkippedRow(number, str(error)))
        progress(done, len(kept))
    rows_used, conversations = [number for number, _ in usable], [conversation for _, conversation in usable]
    skipped = sorted(skipped, key=lambda skip: skip.row)
    read = replace(loaded, items=conversations, rows=rows_used, skipped=skipped)
    if not usable:
        raise SodError(f"{source}: no row can be rendered; skipped are {_skips_text(read.skipped)}")
    limit = ("sft.max_tokens", recipe.sft.max_tokens)
    length, trained = sum(one for one, _ in lengths), sum(one for _, one in lengths)
    unit = "tokens" if chat is not None else "characters"
    facts = [
        ("read as", _read_as("sft", read, len(usable))),
        *_common_facts(read),
        *[("note", note) for note in notes],
        ("tools", _declared_text(conversations, recipe)),
        ("lengths", _lengths_text([one for one, _ in lengths], chat, limit)),
        ("loss", f"on {trained:,} of {length:,} {unit} ({trained / max(length, 1):.0%})"),
    ]
    return Inspection("sft", facts, [shown_conversation(number, one, own, chat) for number, one in usable[:rows]])


def _prompt_length(task: Task, chat: Chat | None) -> int:
    if chat is None:
        return sum(len(message.content) for message in task.prompt)
    return len(chat.prompt_ids(task.prompt))


def _read_as(kind: Kind, loaded: Loaded[Any], usable: int) -> str:
    """`RL tasks: 98 of 100 rows; verl (98 rows)`."""
    total = len(loaded.items) + len(loaded.skipped)
    shapes = ", ".join(f"{name} ({_rows(count)})" for name, count in loaded.shapes.items())
    return f"{NAMES[kind]}: {usable:,} of {_rows(total)}; {shapes}"


def _common_facts(loaded: Loaded[Any]) -> Facts:
    facts: Facts = [("unused", loaded.unused_line() or "nothing: every field is used")]
    if loaded.skipped:
        facts.append(("skipped", _skips_text(loaded.skipped)))
    facts += [("note", f"{remark}: {_rows(count)}") for remark, count in loaded.remarks.items()]
    return facts


def _skips_text(skipped: Sequence[SkippedRow]) -> str:
    """`3 rows: 2 of them no assistant message (rows 5, 9); ...`: by reason, the commonest first."""
    by_reason = Counter(skip.reason for skip in skipped).most_common()
    parts = []
    for reason, count in by_reason[:NAMED_REASONS]:
        numbers = [str(skip.row) for skip in skipped if skip.reason == reason]
        more = ", ..." if count > NAMED_ROWS else ""
        parts.append(f"{reason} ({_rows(count)}: {', '.join(numbers[:NAMED_ROWS])}{more})")
    others = sum(count for _, count in by_reason[NAMED_REASONS:])
    more = f"; {_rows(others)} for {len(by_reason) - NAMED_REASONS} other reasons" if others else ""
    return f"{_rows(len(skipped))}: {'; '.join(parts)}{more}"


def _lengths_text(lengths: Sequence[int], chat: Chat | None, limit: tuple[str, int]) -> str:
    """Of tokens with how many are beyond the limit, (key, tokens); of characters where there is no tokenizer."""
    if not lengths:
        return "none"
    ordered = sorted(lengths)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    unit = "tokens" if chat is not None else "characters (no tokenizer: --recipe or student.path=... shows tokens)"
    text = f"min {ordered[0]:,}, median {median(ordered):,.0f}, 95% {high:,}, max {ordered[-1]:,} {unit}"
    if chat is None:
        return text
    key, most = limit
    beyond = sum(length > most for length in ordered)
    return f"{text}; {beyond:,} over {key}={most}" if beyond else f"{text}; all within {key}={most}"


def _tools_text(schemas: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(map(signature, schemas)) or "none"


def _declared_text(conversations: Sequence[Conversation], recipe: Recipe) -> str:
    """The tools that rows declare, and those of the run for the rows that declare none."""
    declared = Counter(signature(tool) for conversation in conversations for tool in conversation.tools)
    without = sum(not conversation.tools for conversation in conversations)
    parts = [f"{name} ({_rows(count)})" for name, count in declared.most_common(8)]
    parts += [f"and {len(declared) - 8:,} more"] if len(declared) > 8 else []
    parts += [f"the run's in {_rows(without)}: {_tools_text(tool_schemas(recipe))}"] if without else []
    return ", ".join(parts)


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")
