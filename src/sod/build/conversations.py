"""The conversations of a supervised run as ledgers: which rows can be one, what tools they show, what a turn counts.

A row shows the tools that it declares. One that declares none shows the run's own, as every episode does; one that
calls a tool of the run's beside its own shows that too. A call to a tool that neither has is no row to learn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, final

from sod.build.declared_tools import Tools, tools_to_show
from sod.build.job import told
from sod.build.rewarded import rewarded
from sod.chat.confined import UnboundedTemplateError
from sod.chat.render import Chat
from sod.recipe import Notice, Recipe
from sod.records import SodError
from sod.tasks.base import Conversation
from sod.tasks.loaded import Loaded, SkippedRow
from sod.training.sft import Example


def training_examples(
    loaded: Loaded[Conversation], source: str, chat: Chat, recipe: Recipe, notice: Notice
) -> list[Example]:
    """The conversations of `source` that a run can train on, as ledgers.

    `notice` hears of rows that cannot be one, by their numbers, of rows that earned less than `data.min_reward`, of
    rows over `sft.max_tokens`, and of what tools were shown. Raises SodError where no row is left.
    """
    encoded: list[Example] = []
    skipped: list[SkippedRow] = []
    shown = ShownTools(chat.tools)
    rows = list(zip(loaded.rows, loaded.items, strict=True))
    for row, conversation in rewarded(rows, source, recipe, notice):
        try:
            encoded.append(example_of(conversation, chat))
            shown.add(conversation)
        except UnboundedTemplateError:
            raise
        except (ValueError, SodError) as error:  # of the shape, or of a template that does not render this row
            skipped.append(SkippedRow(row, str(error)))
    told(Loaded(encoded, skipped), source, notice)
    if not encoded:
        raise SodError(f"{source}: no row that can be trained on: {Loaded(encoded, skipped).summary()}")
    if line := shown.line():
        notice(f"{source}: {line}")
    examples = [example for example in encoded if len(example.token_ids) <= recipe.sft.max_tokens]
    if not examples:
        raise SodError(f"{source}: no conversation fits sft.max_tokens={recipe.sft.max_tokens}")
    if overlong := len(encoded) - len(examples):
        notice(f"{overlong} of {len(encoded)} conversations are longer than sft.max_tokens; skipped")
    return examples


def example_of(conversation: Conversation, chat: Chat) -> Example:
    """The ledger of a conversation and the loss weight of each of its turns.

    Raises ValueError for one that the chat cannot encode, or with a call that nobody declares; SodError where its
    template fails.
    """
    tools = tools_to_show(conversation, chat.tools)
    token_ids, turn_ids = chat.encode_conversation(conversation.messages, tools)
    weights = tuple(message.weight for message in conversation.messages if message.role == "assistant")
    return Example(token_ids, turn_ids, weights)


@final
class ShownTools:
    """Counts in how many rows which tools are shown that are not the run's (`own`), or that no row declares."""

    def __init__(self, own: Tools) -> None:
        self._ours = dict(map(_signature, own))
        self._unknown, self._changed, self._lent = _Tally(), _Tally(), _Tally()

    def add(self, conversation: Conversation) -> None:
        """Count a row that is trained on."""
        theirs = dict(map(_signature, conversation.tools))
        called = {call.name for message in conversation.messages for call in message.tool_calls}
        self._unknown.add([name for name in theirs if name not in self._ours])
        self._changed.add([n for n, ours in self._ours.items() if n in theirs and theirs[n] not in (None, ours)])
        self._lent.add([name for name in self._ours if name in called and name not in theirs])

    def line(self) -> str:
        """What was shown, in one line; empty where every row shows the run's own tools and says so."""
        parts = []
        if self._unknown.rows:
            parts.append(f"{self._unknown.in_rows} their own that the run does not have: {self._unknown}")
        if self._changed.rows:
            parts.append(f"{self._changed.in_rows} a tool of the run's with parameters of their own: {self._changed}")
        if self._lent.rows:
            parts.append(f"{self._lent.in_rows} the run's, which they call without declaring: {self._lent}")
        if not parts:
            return ""
        ours = ", ".join(self._ours)
        episodes = f"episodes show the run's own ({ours})" if ours else "episodes show none"
        return f"tools shown in {'; in '.join(parts)}; {episodes}"


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
        named = [f"{name} ({_rows(count)})" for name, count in self._names.most_common(_NAMED)]
        more = len(self._names) - len(named)
        return ", ".join(named) + (f" and {more:,} more" if more else "")


_NAMED = 5


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
