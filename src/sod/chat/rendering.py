"""A chat template that renders messages to text: the tokenizer's own in a bounded process, ours in this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from jinja2 import TemplateError

from sod.chat.confined import Confined
from sod.chat.content import Tokenizer
from sod.chat.forms import Form, rows
from sod.records import Message, SodError

Tools = Sequence[Mapping[str, Any]]
# Jinja lets through what Python raises inside a template, e.g. where one adds a call's arguments to a string.
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError)


@final
@dataclass(frozen=True)
class Rendering:
    """`template` is ours, or None for the tokenizer's own, which `confined` renders. `kwargs` are its arguments."""

    tokenizer: Tokenizer
    template: str | None = None
    confined: Confined | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def text(self, messages: Sequence[Message], form: Form, tools: Tools, generate: bool) -> str:
        """The rendering; with `generate` up to and including the generation prompt. Raises SodError where it fails."""
        options = {
            "tools": [dict(tool) for tool in tools] or None,
            "add_generation_prompt": generate,
            "tokenize": False,
            **self.kwargs,
        }
        shown = rows(messages, form)
        if self.confined is not None:
            return self.confined.render(shown, **options)
        try:
            return str(self.tokenizer.apply_chat_template(shown, chat_template=self.template, **options))
        except _TEMPLATE_ERRORS as error:
            raise SodError(f"chat template: {error}") from error

    @property
    def source(self) -> str:
        """The template's source: of several that a tokenizer has, all, one after the other."""
        if self.template is not None:
            return self.template
        own = self.tokenizer.chat_template
        return "\n".join(map(str, own.values())) if isinstance(own, Mapping) else str(own)
