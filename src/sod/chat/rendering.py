"""A chat template that renders messages to text: the tokenizer's own in a bounded process, ours in this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

from jinja2 import TemplateError

from sod.chat.confined import Confined
from sod.chat.content import Tokenizer
from sod.chat.dialects.base import Dialect
from sod.chat.dialects.hermes import HERMES
from sod.chat.forms import FORMS, Form, rows
from sod.records import Message, SodError

Tools = Sequence[Mapping[str, Any]]
# Jinja lets through what Python raises inside a template, e.g. where one adds a call's arguments to a string.
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError)


_TOOL_KEYS = ("xml_tools",)
"""What templates call the tools beside `tools` (SmolLM3)."""


@final
@dataclass(frozen=True)
class Way:
    """How messages are handed to a template, and the dialect that writes the calls which it does not write itself."""

    form: Form = FORMS[0]
    dialect: Dialect = HERMES

    def write(self, message: Message) -> str:
        """What the dialect writes of a message."""
        return self.dialect.write(message, False)


@final
@dataclass(frozen=True)
class Rendering:
    """A template and its arguments. `template` is None for the tokenizer's own; `confined` renders what is not ours."""

    tokenizer: Tokenizer
    template: str | None = None
    confined: Confined | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def text(self, messages: Sequence[Message], way: Way, tools: Tools, generate: bool) -> str:
        """The rendering; with `generate` up to and including the generation prompt. Raises SodError where it fails."""
        shown = [dict(tool) for tool in tools] or None
        options: dict[str, Any] = {
            **{key: shown for key in _TOOL_KEYS if shown and key in self.source},
            "tools": shown,
            "add_generation_prompt": generate,
            "tokenize": False,
            **self.kwargs,
        }
        if self.template is not None:
            options["chat_template"] = self.template
        given = rows(messages, way.form, way.write)
        if self.confined is not None:
            return self.confined.render(given, **options)
        try:
            return str(self.tokenizer.apply_chat_template(given, **options))
        except _TEMPLATE_ERRORS as error:
            raise SodError(f"chat template: {error}") from error

    @cached_property
    def source(self) -> str:
        """The template's source: of several that a tokenizer has, all, one after the other."""
        if self.template is not None:
            return self.template
        own = self.tokenizer.chat_template
        return "\n".join(map(str, own.values())) if isinstance(own, Mapping) else str(own)
