"""Messages to token ids, append-only.

The ledger is prompt ids, then for each turn the sampled ids and a rendered *suffix* (tool output and the
next generation prompt). The suffix is cut out of the chat template's own rendering, so any template works
that does not rewrite what it rendered before; `Chat` proves that when it is made.

What a template or a dialect writes may become control tokens, what it writes *about* may not: see `content`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal, final

from jinja2 import TemplateError

from sod.chat.confined import Confined, UnboundedTemplateError
from sod.chat.content import ContentEncoder, Tokenizer
from sod.chat.dialects import hermes
from sod.chat.dialects.base import Dialect, Piece
from sod.chat.hidden import texts_in
from sod.chat.prompts import Prompts
from sod.records import Message, Said, SodError, ToolCall

_TURN = "\u2402turn{}\u2403"
_RESULT = '\u2402"result{}\n"\u2403'  # with what a template might escape
# Jinja lets through what Python raises inside a template, e.g. where one adds a call's arguments to a string.
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError)


def hermes_template() -> str:
    """Our own small ChatML template with Hermes tool calls."""
    return files("sod.chat").joinpath("templates/hermes.jinja").read_text(encoding="utf-8")


def choose_template(
    tokenizer: Tokenizer, wanted: Literal["auto", "tokenizer", "hermes"]
) -> tuple[str | None, Confined | None]:
    """`(template, renderer)`: a template of None means the tokenizer's own, which only the renderer may render.

    `auto` keeps the tokenizer's template when it knows tools and writes calls as we read them, else takes ours.
    Raises SodError when `tokenizer` is asked for and there is none, and for one that exceeds the bounds of `Confined`.
    """
    own = tokenizer.chat_template
    if wanted == "tokenizer" and not own:
        raise SodError("chat.template: the tokenizer has no chat template; use chat.template=hermes")
    if wanted == "hermes" or own == hermes_template():
        return hermes_template(), None
    if wanted == "auto" and not (isinstance(own, str) and "tools" in own):
        return hermes_template(), None
    confined = Confined(tokenizer)
    if wanted == "tokenizer" or _writes_readable_calls(confined):
        return None, confined
    confined.end()
    return hermes_template(), None


def _writes_readable_calls(confined: Confined) -> bool:
    """Whether a call rendered by the tokenizer's own template is read back as that call."""
    call = ToolCall("probe", {"code": "1"})
    messages = [_as_dict(Message("user", _TURN.format(0))), _as_dict(Message("assistant", "", (call,)))]
    try:
        text = confined.render(messages, tokenize=False)
    except UnboundedTemplateError:
        raise
    except SodError:
        return False
    return hermes.read(text.rpartition(_TURN.format(0))[2]).calls == (call,)


@final
class Chat:
    """A tokenizer with its chat template and the run's tools, as an append-only renderer, and its dialect as a reader.

    `tools` are the function schemas shown to the model, `dialect` how it writes its calls. `end_id` is the token that
    the template ends every assistant turn in. Sampling stops there and, as nothing sensible follows it, in the
    tokenizer's EOS (`stop_ids`): both finish a turn, and one that stopped in another token than the template's is
    closed with it (`closing_ids`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Sequence[Mapping[str, Any]] = (),
        template: Literal["auto", "tokenizer", "hermes"] = "auto",
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises SodError when the template is not append-only (see `_check_append_only`).

        So does a text in `template_kwargs` that holds an added token's: what they put into the frame is text.
        """
        self.tokenizer = tokenizer
        self.tools = [dict(tool) for tool in tools]
        self.template, self._confined = choose_template(tokenizer, template)
        self._kwargs = dict(template_kwargs or {})
        self._encoder = ContentEncoder(tokenizer)
        self._refuse_control_in_kwargs()
        self._parts: dict[int, list[str]] = {}
        self._suffixes: dict[tuple[str, ...], tuple[int, ...]] = {}
        after_turn = self._render(_probe(1, 0), generate=False).rpartition(_TURN.format(1))[2]
        end_ids = tokenizer.encode(after_turn, add_special_tokens=False)
        if not end_ids:
            raise SodError("chat template: nothing marks the end of an assistant turn")
        self.end_id = end_ids[0]
        self.end_text = str(tokenizer.decode([self.end_id], skip_special_tokens=False))
        if not after_turn.startswith(self.end_text) or self.end_id not in tokenizer.added_tokens_decoder:
            raise SodError("chat template: the end of an assistant turn is not a token of its own")
        eos = tokenizer.eos_token_id
        self.stop_ids: frozenset[int] = frozenset({self.end_id} if eos is None else {self.end_id, eos})
        thought_open = hermes.leaves_thought_open(self._render(_probe(0, 0), generate=True))
        self.dialect: Dialect = hermes.Hermes(self.decode_turn, self.stop_ids, thought_open)
        self._prompts = Prompts(self._encoder, self.dialect.pieces, self._prompt_text)
        self._check_append_only()

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> list[int]:
        """Token ids of the prompt, up to and including the generation prompt of the assistant's turn.

        `tools` are shown instead of the chat's own; an empty sequence shows none. No text in messages or tools becomes
        an added token, save the marks that the dialect reads in an assistant's content.
        """
        return self._prompts.ids(messages, self.tools if tools is None else [dict(tool) for tool in tools])

    def suffix_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids that follow a turn's end token: the messages after it and the next turn's generation prompt.

        Of the messages only the contents are rendered, as a template renders tool messages without a name. None becomes
        an added token.
        Raises ValueError for other than tool messages: for those alone the template is proven append-only.
        """
        others = [message.role for message in messages if message.role != "tool"]
        if others:
            raise ValueError(f"a {others[0]} message cannot be appended after a turn, only tool messages can")
        return self._suffix_ids(tuple(message.content for message in messages))

    def parse(self, token_ids: Sequence[int]) -> Said:
        """What a sampled turn says; see `Dialect.parse`."""
        return self.dialect.parse(token_ids)

    def assistant_text(self, message: Message) -> str:
        """What the assistant would have sampled to say `message`, end token not included."""
        calls = "\n".join(self.dialect.render_call(call) for call in message.tool_calls)
        text = f"{message.content}\n{calls}" if message.content and calls else message.content + calls
        return self.dialect.after_prompt(text)

    def decode_turn(self, token_ids: Sequence[int]) -> str:
        """Text of one turn's sampled ids, its end token left out."""
        kept = token_ids[:-1] if token_ids and token_ids[-1] in self.stop_ids else token_ids
        return str(self.tokenizer.decode(list(kept), skip_special_tokens=False))

    def closing_ids(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """What a finished turn lacks of its end: nothing where it ended in the chat's end token, else that token.

        A base model often stops in an EOS of its own, which no turn of the template ends in. That token stays as it was
        sampled, and the end token follows it as context, so that every later turn reads the conversation in the
        template's form.
        """
        return () if token_ids and token_ids[-1] == self.end_id else (self.end_id,)

    def conversation_text(self, messages: Sequence[Message]) -> str:
        """The template's own rendering of a finished conversation, as text."""
        return self._render([_as_dict(m) for m in messages], generate=False)

    def encode_conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[list[int], list[int]]:
        """`(token_ids, turn_ids)` of an SFT example: the very ledger a rollout of it would have written.

        Messages after the last assistant turn carry no signal and are left out. Of what the assistant says the marks
        that the dialect reads become added tokens, nothing else does.
        Raises ValueError when there is no assistant turn, or a message other than a tool result follows one.
        """
        first = next((i for i, m in enumerate(messages) if m.role == "assistant"), None)
        if first is None:
            raise ValueError("no assistant message")
        ids = self.prompt_ids(messages[:first], tools)
        turns = [0] * len(ids)
        turn, at = 0, first
        while at < len(messages):
            if messages[at].role != "assistant":
                raise ValueError(f"message {at}: role {messages[at].role!r} where an assistant turn belongs")
            turn += 1
            said = self.dialect.pieces(self.assistant_text(messages[at]))
            sampled = [*self._encoder.encode(said), self.end_id]
            ids += sampled
            turns += [turn] * len(sampled)
            results = _following_tool_messages(messages, at + 1)
            at += 1 + len(results)
            if at < len(messages):
                if not results:
                    raise ValueError(f"message {at}: role {messages[at].role!r} directly after an assistant turn")
                suffix = self.suffix_ids(results)
                ids += suffix
                turns += [0] * len(suffix)
        return ids, turns

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _refuse_control_in_kwargs(self) -> None:
        for key, value in self._kwargs.items():
            if any(self._encoder.holds_control(text) for text in texts_in(value)):
                raise SodError(
                    f"chat.template_kwargs.{key}: {value!r} holds the text of a control token, which only a template "
                    "may write; take it out"
                )

    def _prompt_text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        return self._render([_as_dict(m) for m in messages], generate=True, tools=tools)

    def _render(
        self, messages: list[dict[str, Any]], generate: bool, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        shown = self.tools if tools is None else list(tools)
        options = {"tools": shown or None, "add_generation_prompt": generate, "tokenize": False, **self._kwargs}
        if self._confined is not None:
            return self._confined.render(messages, **options)
        try:
            text = self.tokenizer.apply_chat_template(messages, chat_template=self.template, **options)
        except _TEMPLATE_ERRORS as error:
            raise SodError(f"chat template: {error}; use chat.template=hermes") from error
        return str(text)

    def _suffix_ids(self, results: tuple[str, ...]) -> tuple[int, ...]:
        if results not in self._suffixes:
            if len(self._suffixes) > 10_000:
                self._suffixes.clear()
            self._suffixes[results] = tuple(self._encoder.encode(self._suffix_pieces(results)))
        return self._suffixes[results]

    def _suffix_pieces(self, results: tuple[str, ...]) -> list[Piece]:
        first, *others = self._suffix_frame(len(results))
        pieces = [Piece(first, frame=True)]
        for result, after in zip(results, others, strict=True):
            pieces += [Piece(result, frame=False), Piece(after, frame=True)]
        return pieces

    def _suffix_text(self, results: tuple[str, ...]) -> str:
        return "".join(piece.text for piece in self._suffix_pieces(results))

    def _suffix_frame(self, count: int) -> list[str]:
        """What the template writes before, between and after the contents of `count` tool messages."""
        if count not in self._parts:
            text = self._render(_probe(1, count), generate=True).rpartition(_TURN.format(1))[2]
            text = text.removeprefix(self.end_text)
            parts = []
            for number in range(count):
                before, mark, text = text.partition(_RESULT.format(number))
                if not mark:
                    raise SodError("chat template: a tool message's content is not rendered; use chat.template=hermes")
                parts.append(before)
            self._parts[count] = [*parts, text]
        return self._parts[count]

    def _check_append_only(self) -> None:
        """Prove on a probe conversation that later messages never change earlier text.

        Raises SodError naming the part of the template that breaks the ledger.
        """
        prompt = self._render(_probe(0, 0), generate=True)
        whole = self._render(_probe(3, 1), generate=True)
        head, found, rest = whole.partition(_TURN.format(1))
        # A template may put an empty or open think block before an earlier turn, or leave it out (Qwen3); what
        # was rendered as prompt stays as it was rendered, so only the part before it must agree.
        if not found or not head.startswith(hermes.without_thought(prompt)):
            raise SodError(
                "chat template: the prompt changes once the assistant has answered, so token ids could not be "
                "appended; use chat.template=hermes"
            )
        between, _, rest = rest.partition(_TURN.format(2))
        second = rest.partition(_TURN.format(3))[0]
        appended = self.end_text + self._suffix_text((_RESULT.format(0),))
        if {hermes.without_thought(text) for text in (between, second)} != {hermes.without_thought(appended)}:
            raise SodError(
                "chat template: the text between two assistant turns changes with what follows; "
                "use chat.template=hermes"
            )
        if self.tools and hermes.leaves_thought_open(prompt) != hermes.leaves_thought_open(appended):
            raise SodError(
                "chat template: it leaves a thought open before the first turn or before later ones, not before all; "
                "use chat.template=hermes"
            )
        prompt_text = prompt + "7" + self.end_text + self._suffix_text(("8",))
        pieces = self._encode(prompt) + self._encode("7") + [self.end_id, *self._suffix_ids(("8",))]
        if self._encode(prompt_text) != pieces:
            raise SodError(
                "chat template: tokens merge across the border of a turn; the turn must end in a special token"
            )


def _following_tool_messages(messages: Sequence[Message], at: int) -> list[Message]:
    found = []
    while at < len(messages) and messages[at].role == "tool":
        found.append(messages[at])
        at += 1
    return found


def _as_dict(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [
            {"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
            for c in message.tool_calls
        ]
    if message.name:
        row["name"] = message.name
    return row


def _probe(turns: int, results: int) -> list[dict[str, Any]]:
    """A conversation of marked assistant turns, each followed by `results` marked tool messages."""
    rows: list[dict[str, Any]] = [{"role": "user", "content": "probe"}]
    for turn in range(1, turns + 1):
        rows.append({"role": "assistant", "content": _TURN.format(turn)})
        rows += [{"role": "tool", "content": _RESULT.format(n)} for n in range(results)]
    return rows
