"""Messages to token ids, append-only.

The ledger is prompt ids, then for each turn the sampled ids and a rendered *suffix* (tool output or another user
message, and the next generation prompt). The suffix is cut out of the chat template's own rendering, so any template
works that does not rewrite what it rendered before; that is proven when a `Chat` is made (`sod.chat.layout`).

What a template or a dialect writes may become control tokens, what it writes *about* may not: see `content`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, final

from sod.chat.bound import BoundDialect
from sod.chat.choice import Chooser, Wanted, named_dialects
from sod.chat.confined import UnboundedTemplateError
from sod.chat.content import ContentEncoder, Tokenizer
from sod.chat.dialects.declared import with_tools
from sod.chat.forms import with_ids
from sod.chat.hidden import texts_in
from sod.chat.layout import Suffix
from sod.chat.prompts import Prompts
from sod.chat.shape import Shape
from sod.records import Message, Said, SodError, ToolCall

_ALSO_END = ("<|eom_id|>",)
"""Ends of turns that a template names and writes only for tools of the family's own (Llama's code interpreter)."""
_TAIL = 64  # tokens before a turn that tell whether it begins inside a thought


@final
class Chat:
    """A tokenizer with its chat template and the run's tools, as an append-only renderer, and its dialect as a reader.

    `tools` are the function schemas shown to the model, `dialect` how it writes its calls, `why` what was chosen and
    for what reason. `end_id` is the token that the template ends an answer in; turns with calls may end in another.
    Sampling stops in any of them and, as nothing sensible follows it, in the tokenizer's EOS (`stop_ids`): all finish a
    turn, and one that stopped in another token than the template's is closed with it (`closing_ids`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Sequence[Mapping[str, Any]] = (),
        template: Wanted = "auto",
        template_kwargs: Mapping[str, Any] | None = None,
        dialect: str = "auto",
    ) -> None:
        """Raises SodError for a template that is not append-only, hides the tools or writes calls that cannot be read.

        So does a text in `template_kwargs` that holds an added token's: what they put into the frame is text.
        """
        self.tokenizer = tokenizer
        self.tools = [dict(tool) for tool in tools]
        kwargs = dict(template_kwargs or {})
        self._encoder = ContentEncoder(tokenizer)
        self._refuse_control(kwargs)
        chooser = Chooser(tokenizer, self._encoder, self.tools, kwargs, named_dialects(dialect))
        self._choice = chooser.choose(template)
        self._layout = self._choice.layout
        self.template = self._choice.rendering.template
        self.why = self._choice.why
        self._suffixes: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self.end_id = self._layout.answer_end.id
        self.end_text = str(tokenizer.decode([self.end_id], skip_special_tokens=False))
        self.stop_ids: frozenset[int] = frozenset(self._ends() | self._other_ends())
        self.dialect = self._bound(self.tools)
        self._prompts = Prompts(self._encoder, self.dialect.pieces, self._prompt_text)
        self._shape = Shape(self._plain_text)
        self._check_borders()

    @property
    def own_template(self) -> bool:
        """Whether the template is the tokenizer's own."""
        return self._choice.own

    @property
    def control_ids(self) -> frozenset[int]:
        """The tokens that no text becomes."""
        return self._encoder.watched

    @property
    def saved_end(self) -> int | list[int]:
        """The token or tokens that end a turn, as a generation configuration has them."""
        ends = sorted(self._ends())
        return ends[0] if len(ends) == 1 else ends

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Token ids of the prompt, up to and including the generation prompt of the assistant's turn.

        `tools` are shown instead of the chat's own; an empty sequence shows none. No text in messages or tools becomes
        an added token, save the marks that the dialect reads in an assistant's content. Where the template takes no
        system message, or no two user messages in a row, their texts are put into one user message.
        """
        shown = self.tools if tools is None else [dict(tool) for tool in tools]
        return self._prompts.ids(self._shape.shaped(messages), shown)

    def suffix_ids(
        self, messages: Sequence[Message], calls: Sequence[ToolCall] = (), tools: bool | None = None
    ) -> tuple[int, ...]:
        """Token ids that follow a turn's end token: the messages after it and the next turn's generation prompt.

        `calls` are those of the turn: where a template writes their names or ids with the results, they come from
        there; a tool message's own name goes first. `tools` says whether the prompt shows any; by default the run's do.
        No text becomes an added token.
        Raises ValueError where the template does not render such messages after a turn, or not append-only.
        """
        if any(message.role == "assistant" for message in messages):
            raise ValueError("an assistant message cannot be appended after a turn: it is a turn of its own")
        suffix, answered = self._suffix(messages, calls, bool(self.tools) if tools is None else tools)
        return self._suffix_ids(suffix, messages, answered)

    def parse(
        self,
        token_ids: Sequence[int],
        before: Sequence[int] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Said:
        """What a sampled turn says, where `tools` were shown (None: the chat's own); see `BoundDialect.parse`.

        `before` are the ids in front of it: some templates open a thought before the first turn and not after a tool's
        result (DeepSeek R1). By default they end in the prompt of a first turn.
        """
        opened = None if before is None else self.begins_in_thought(before)
        return self.dialect_for(tools).parse(token_ids, opened)

    def dialect_for(self, tools: Sequence[Mapping[str, Any]] | None) -> BoundDialect:
        """The dialect where `tools` are shown; None: the chat's own."""
        return self.dialect if tools is None or list(tools) == self.tools else self._bound(tools)

    def begins_in_thought(self, before: Sequence[int]) -> bool:
        """Whether a turn behind these ids begins inside a thought; the last 64 of them tell."""
        after_tool = self._layout.after_tool
        if after_tool is None or after_tool.thought_open == self._layout.thought_open:
            return self._layout.thought_open
        tail = self.tokenizer.decode(list(before[-_TAIL:]), skip_special_tokens=False)
        return self._choice.way.dialect.opens_thought(str(tail))

    def assistant_text(self, message: Message) -> str:
        """What the assistant would have sampled to say `message`, end token not included."""
        return self._written(self.dialect, message, self._layout.thought_open)

    def decode_turn(self, token_ids: Sequence[int]) -> str:
        """Text of one turn's sampled ids, its end token left out."""
        kept = token_ids[:-1] if token_ids and token_ids[-1] in self.stop_ids else token_ids
        return str(self.tokenizer.decode(list(kept), skip_special_tokens=False))

    def closing_ids(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """What a finished turn lacks of its end: nothing where it ended as the template ends it, else that token.

        A base model often stops in an EOS of its own, which no turn of the template ends in. That token stays as it was
        sampled, and the end token follows it as context, so that every later turn reads the conversation in the
        template's form.
        """
        calls = self.parse(token_ids).calls or self.dialect.parse(token_ids, thought_open=False).calls
        end = self._end_of_call if calls else self.end_id
        return () if token_ids and token_ids[-1] in (end, *self._named_ends) else (end,)

    def conversation_text(self, messages: Sequence[Message]) -> str:
        """The template's own rendering of a finished conversation, as text."""
        return self._choice.rendering.text(self._shape.shaped(messages), self._choice.way, self.tools, False)

    def encode_conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[list[int], list[int]]:
        """`(token_ids, turn_ids)` of an SFT example: the very ledger a rollout of it would have written.

        `tools` are shown instead of the chat's own. Turn k is the k-th assistant message. Messages after the last one
        carry no signal and are left out. Of what the assistant says the marks that the dialect reads become added
        tokens, nothing else does.
        Raises ValueError where no user speaks before the first assistant turn or there is none, for two assistant turns
        in a row (no rollout writes those), where what is written would be read as other calls, and as `suffix_ids`.
        """
        first = _first_turn(messages)
        shown = bool(self.tools if tools is None else tools)
        ids = self.prompt_ids(messages[:first], tools)
        turns = [0] * len(ids)
        thought_open = self._layout.thought_open
        dialect = self.dialect if tools is None else self._bound(tools)
        for turn, (said, after) in enumerate(_turns(messages, first), start=1):
            sampled = self._said_ids(dialect, said, thought_open)
            ids += sampled
            turns += [turn] * len(sampled)
            if after:
                suffix, answered = self._suffix(after, said.tool_calls, shown)
                following = self._suffix_ids(suffix, after, answered)
                ids += following
                turns += [0] * len(following)
                thought_open = suffix.thought_open
        return ids, turns

    def _bound(self, tools: Sequence[Mapping[str, Any]]) -> BoundDialect:
        """The dialect over the tokenizer, for calls of these tools."""
        dialect = with_tools(self._choice.way.dialect, tools)
        return BoundDialect(dialect, self.decode_turn, self.stop_ids, self._layout.thought_open)

    def _said_ids(self, dialect: BoundDialect, message: Message, thought_open: bool) -> list[int]:
        said = Message("assistant", message.content, with_ids(message.tool_calls), reasoning=message.reasoning)
        text = self._written(dialect, said, thought_open)
        _refuse_unreadable(dialect, said, text, thought_open)
        end = self._end_of_call if message.tool_calls else self.end_id
        return [*self._encoder.encode(dialect.pieces(text, thought_open)), end]

    def _written(self, dialect: BoundDialect, message: Message, thought_open: bool) -> str:
        """The turn as the dialect writes it, behind what the template puts before a turn without a thought."""
        text, lead = dialect.write(message, thought_open), self._layout.lead
        thinks = message.reasoning or dialect.read(text, thought_open).thinking
        if thought_open or thinks or not (lead.strip() or message.content):
            return text
        return lead + text

    def _suffix(
        self, messages: Sequence[Message], calls: Sequence[ToolCall], tools: bool
    ) -> tuple[Suffix, list[ToolCall]]:
        """The proven suffix for these messages, and the calls that its tool messages answer."""
        answers = [message for message in messages if message.role == "tool"]
        answered = list(with_ids(calls))
        for message in answers[len(answered) :]:  # a call that could not be read has a result, too
            answered += with_ids([ToolCall(message.name or "", {})])
        answered = [ToolCall(call.name or self._some_name, call.arguments, call.id) for call in answered]
        roles = tuple(message.role for message in messages)
        try:
            return self._layout.suffix(len(answered), roles, tools or bool(answered)), answered
        except UnboundedTemplateError:
            raise
        except SodError as error:
            reason = str(error).removeprefix("chat template: ")
            raise ValueError(f"a {roles[-1]} message cannot be appended after a turn: {reason}") from error

    @cached_property
    def _some_name(self) -> str:
        """A name for the result of a call that named nothing."""
        functions = [tool.get("function", tool) for tool in self.tools]
        return str(functions[0]["name"]) if functions else "tool"

    def _suffix_ids(self, suffix: Suffix, messages: Sequence[Message], calls: Sequence[ToolCall]) -> tuple[int, ...]:
        pieces = suffix.pieces(messages, calls)
        key = tuple((piece.text, piece.frame) for piece in pieces)
        if key not in self._suffixes:
            if len(self._suffixes) > 10_000:
                self._suffixes.clear()
            self._suffixes[key] = tuple(self._encoder.encode(pieces))
        return self._suffixes[key]

    @cached_property
    def _end_of_call(self) -> int:
        return self._layout.suffix(1, ("tool",)).end.id

    def _ends(self) -> set[int]:
        """The tokens that the template ends turns in."""
        after_tool = self._layout.after_tool
        return {self.end_id} if after_tool is None else {self.end_id, after_tool.end.id}

    def _other_ends(self) -> set[int]:
        eos = self.tokenizer.eos_token_id
        return self._named_ends | (set() if eos is None else {eos})

    @cached_property
    def _named_ends(self) -> set[int]:
        source = self._choice.rendering.source
        added = {str(token.content): id for id, token in self.tokenizer.added_tokens_decoder.items()}
        return {added[name] for name in _ALSO_END if name in added and name in source}

    def _refuse_control(self, kwargs: Mapping[str, Any]) -> None:
        for key, value in kwargs.items():
            if any(self._encoder.holds_control(text) for text in texts_in(value)):
                raise SodError(
                    f"chat.template_kwargs.{key}: {value!r} holds the text of a control token, which only a template "
                    "may write; take it out"
                )

    def _prompt_text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        return self._choice.rendering.text(messages, self._choice.way, tools, True)

    def _plain_text(self, messages: Sequence[Message]) -> str:
        return self._prompt_text(messages, self.tools)

    def _check_borders(self) -> None:
        """Raises SodError where the ledger's ids are not those of its text: its parts would merge at their borders."""
        suffix = self._layout.after_tool
        if suffix is None:
            return
        result, calls = [Message("tool", "8")], with_ids([ToolCall("a", {})])
        end = str(self.tokenizer.decode([suffix.end.id], skip_special_tokens=False))
        text = self._layout.prompt + "7" + end + suffix.text(result, calls)
        encode = self.tokenizer.encode
        parts = [encode(part, add_special_tokens=False) for part in (self._layout.prompt, "7")]
        ids = [*parts[0], *parts[1], suffix.end.id, *self._encoder.encode(suffix.pieces(result, calls))]
        if encode(text, add_special_tokens=False) != ids:
            raise SodError(
                "chat template: tokens merge across the border of a turn; the turn must end in a special token"
            )


def _refuse_unreadable(dialect: BoundDialect, message: Message, text: str, thought_open: bool) -> None:
    """Raises ValueError where a message's calls would not be read back, as a text around them holds marks."""
    if not message.tool_calls:
        return
    read = dialect.read(text, thought_open).calls
    found = [(call.name, dict(call.arguments)) for call in read if isinstance(call, ToolCall)]
    if any((call.name, dict(call.arguments)) not in found for call in message.tool_calls):
        raise ValueError(f"its calls would not be read back in the {dialect.name} dialect")


def _first_turn(messages: Sequence[Message]) -> int:
    """Where the first assistant message stands. Raises ValueError where there is none, or no user speaks before it."""
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise ValueError("no assistant message")
    first = roles.index("assistant")
    if "user" not in roles[:first]:
        raise ValueError(f"message {first}: an assistant message before any user message, to which it could answer")
    return first


def _turns(messages: Sequence[Message], first: int) -> Iterator[tuple[Message, list[Message]]]:
    """Each assistant message with those between it and the next one; what follows the last one is left out."""
    starts = [at for at, message in enumerate(messages) if at >= first and message.role == "assistant"]
    for at, following in zip(starts, [*starts[1:], None], strict=True):
        after = [] if following is None else list(messages[at + 1 : following])
        if following is not None and not after:
            raise ValueError(f"message {following}: role 'assistant' directly after an assistant turn; join the two")
        yield messages[at], after
