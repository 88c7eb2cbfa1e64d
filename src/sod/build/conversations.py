"""The conversations of a supervised run as ledgers: which rows can be one, and whose tools they were written with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from sod.build.job import told
from sod.chat.confined import UnboundedTemplateError
from sod.chat.render import Chat
from sod.recipe import Notice, Recipe
from sod.records import Message, SodError
from sod.tasks.base import Conversation
from sod.tasks.loaded import Loaded, SkippedRow
from sod.training.sft import Ledger


def training_examples(
    loaded: Loaded[Conversation], source: str, chat: Chat, recipe: Recipe, notice: Notice
) -> list[Ledger]:
    """The conversations of `source` that a run can train on, as ledgers.

    `notice` hears of rows that are of another shape than a rollout's, by their numbers, of rows over
    `sft.max_tokens`, and of tools that the run does not have. Raises SodError where no row is left.
    """
    encoded: list[Ledger] = []
    kept: list[Conversation] = []
    skipped: list[SkippedRow] = []
    for row, conversation in zip(loaded.rows, loaded.items, strict=True):
        try:
            refuse_other_shape(conversation.messages)
            encoded.append(chat.encode_conversation(conversation.messages))
            kept.append(conversation)
        except UnboundedTemplateError:
            raise
        except (ValueError, SodError) as error:  # of the shape, or of a template that does not render this row
            skipped.append(SkippedRow(row, str(error)))
    told(Loaded(encoded, skipped), source, notice)
    if not encoded:
        raise SodError(f"{source}: no row that can be trained on: {Loaded(encoded, skipped).summary()}")
    for line in other_tools(kept, chat.tools):
        notice(f"{source}: {line}")
    examples = [(ids, turns) for ids, turns in encoded if len(ids) <= recipe.sft.max_tokens]
    if not examples:
        raise SodError(f"{source}: no conversation fits sft.max_tokens={recipe.sft.max_tokens}")
    if overlong := len(encoded) - len(examples):
        notice(f"{overlong} of {len(encoded)} conversations are longer than sft.max_tokens; skipped")
    return examples


def refuse_other_shape(messages: Sequence[Message]) -> None:
    """Raises ValueError where a conversation is none that a rollout could have written.

    That is: a system message or none, the user's, then assistant turns with nothing but tool results between them.
    """
    roles = [message.role for message in messages]
    first = roles.index("assistant")
    if "user" not in roles[:first]:
        raise ValueError("no user message before the first assistant turn")
    for at, role in enumerate(roles):
        if role == "system" and at > 0:
            raise ValueError(f"message {at}: a system message that is not the first message")
        if role == "user" and at > first:
            raise ValueError(f"message {at}: a user message after an assistant turn")
        if role == "assistant" and roles[at - 1] == "assistant":
            raise ValueError(f"message {at}: an assistant turn directly after another")


def other_tools(conversations: Iterable[Conversation], own: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a run with the tools `own` (function schemas) has to say of conversations that declare others: a line each
    for tools that it does not have, and for those that have the same name and other parameters.
    """
    ours = dict(map(_signature, own))
    unknown, called, changed = _Tally(), _Tally(), _Tally()
    for conversation in conversations:
        theirs = dict(map(_signature, conversation.tools))
        calls = {call.name for message in conversation.messages for call in message.tool_calls}
        absent = [name for name in theirs if name not in ours]
        unknown.add(absent)
        called.add([name for name in absent if name in calls])
        changed.add([name for name in ours if name in theirs and theirs[name] not in (None, ours[name])])
    shown = f"the run's own ({', '.join(ours)}) are shown" if ours else "no tool is shown"
    lines = []
    if unknown.rows:
        trained = f", and the calls of {called} are trained on all the same" if called.rows else ""
        lines.append(
            f"tools that the run does not have are declared in {unknown.in_rows}: {unknown}; {shown} instead{trained}; "
            "rename them in the data, leave such rows out of data.sft, or set tools to have them"
        )
    if changed.rows:
        lines.append(
            f"a tool of the run's is declared with other parameters in {changed.in_rows}: {changed}; {shown} instead; "
            "bring the arguments in data.sft into line"
        )
    return lines


@final
class _Tally:
    """How many rows have anything to count, and how many have each name; as text `python (3 rows), ...`."""

    def __init__(self) -> None:
        self.rows = 0
        self._names: Counter[str] = Counter()

    def add(self, names: Sequence[str]) -> None:
        """Count a row with these names."""
        self.rows += bool(names)
        self._names.update(names)

    @property
    def in_rows(self) -> str:
        """In how many rows, in words."""
        return _rows(self.rows)

    def __str__(self) -> str:
        return ", ".join(f"{name} ({_rows(count)})" for name, count in self._names.most_common())


def _signature(tool: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """A tool's name and its parameters' names with their types; None where it declares no parameters."""
    function = tool.get("function") or tool
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping):
        return str(function["name"]), None
    properties = parameters.get("properties")
    if not isinstance(properties, Mapping):
        return str(function["name"]), None
    return str(function["name"]), {name: _type_of(declared) for name, declared in properties.items()}


def _type_of(declared: Any) -> Any:
    return declared.get("type") if isinstance(declared, Mapping) else None


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")
