"""Which template renders a run's messages, and which dialect reads what the model says to them.

The tokenizer's own template is taken where it shows the tools and writes calls that a known dialect reads back, which
is tried out; else ours (`sod.chat.ours`), which works with any tokenizer that has a token to end a turn in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

from sod.chat.confined import Confined, UnboundedTemplateError
from sod.chat.content import ContentEncoder, Tokenizer
from sod.chat.dialects.base import Dialect
from sod.chat.dialects.hermes import HERMES
from sod.chat.dialects.known import DIALECTS
from sod.chat.forms import FORMS, Form
from sod.chat.layout import Layout
from sod.chat.ours import Marks, has_chatml, hermes_template, marks_of
from sod.chat.probes import PARAMETER, PROBE_TOOL, SHOWN, USER, calling, others
from sod.chat.rendering import Rendering, Tools
from sod.records import Message, SodError

Wanted = Literal["auto", "tokenizer", "hermes"]


@final
@dataclass(frozen=True)
class Choice:
    """What was taken, and `why`, in a few words for the user; `own` is whether it is the tokenizer's own template."""

    rendering: Rendering
    form: Form
    dialect: Dialect
    layout: Layout
    own: bool
    why: str


@final
class Chooser:
    """Tries the templates of one tokenizer with the tools that a run shows."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder: ContentEncoder,
        tools: Tools,
        kwargs: Mapping[str, Any],
        dialect: str = "auto",
    ) -> None:
        """Raises SodError where no dialect has that name."""
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._tools = tools
        self._kwargs = kwargs
        self._dialects = _named(dialect)

    def choose(self, wanted: Wanted) -> Choice:
        """The template that is wanted, proven. Raises SodError with what it lacks and with a way that works."""
        own = self._tokenizer.chat_template
        if wanted == "tokenizer" and not own:
            raise self._advised("chat.template: the tokenizer has no chat template")
        if not own:
            return self._ours("the tokenizer has no chat template")
        if wanted == "hermes" or own == hermes_template():
            return self._ours("it is the tokenizer's own" if own == hermes_template() else "as set")
        try:
            return self._own(with_tools=wanted == "auto" or bool(self._tools))
        except UnboundedTemplateError as error:
            raise self._advised(str(error)) from error
        except SodError as error:
            if wanted == "tokenizer" or self._dialects is not DIALECTS:
                raise self._advised(str(error)) from error
            return self._ours(f"the tokenizer's own does not do ({_reason(error)})")

    def _ours(self, why: str) -> Choice:
        """Our template. Raises SodError where the tokenizer lacks every token to end a turn in."""
        if self._dialects is not DIALECTS and HERMES not in self._dialects:
            raise SodError(
                f"chat.dialect={self._dialects[0].name} goes with the tokenizer's own template, and {why}: leave it out"
            )
        marks = self._marks()
        if self._tokenizer.chat_template == hermes_template(marks):
            why = "it is the tokenizer's own"
        rendering = Rendering(self._tokenizer, hermes_template(marks), None, self._kwargs)
        layout = self._layout(rendering, FORMS[0], HERMES, True)
        turns = "" if marks == Marks() else f" in turns that end with {marks.end}"
        return Choice(rendering, FORMS[0], HERMES, layout, False, f"sod's hermes template{turns}, as {why}")

    def _marks(self) -> Marks:
        if not self._tokenizer.chat_template or has_chatml(self._tokenizer):
            return marks_of(self._tokenizer, None, self._encoder)
        confined = Confined(self._tokenizer)
        try:
            return marks_of(self._tokenizer, Rendering(self._tokenizer, None, confined), self._encoder)
        finally:
            confined.end()

    def _own(self, with_tools: bool) -> Choice:
        """The tokenizer's own template with the first dialect that reads it. Raises SodError, which says why not."""
        confined = Confined(self._tokenizer)
        try:
            rendering = Rendering(self._tokenizer, None, confined, self._kwargs)
            return self._read_by_a_dialect(rendering) if with_tools else self._without_tools(rendering)
        except SodError:
            confined.end()
            raise

    def _without_tools(self, rendering: Rendering) -> Choice:
        """For a run that shows no tools: no call is ever written, so only thoughts are read."""
        problem = SodError("chat template: nothing could be rendered")
        for dialect in self._candidates(rendering.source):
            for form in FORMS:
                try:
                    layout = self._layout(rendering, form, dialect, False)
                except UnboundedTemplateError:
                    raise
                except SodError as error:
                    problem = error if form == FORMS[0] else problem
                    continue
                return Choice(rendering, form, dialect, layout, True, "the tokenizer's own template")
        raise problem

    def _read_by_a_dialect(self, rendering: Rendering) -> Choice:
        self._refuse_hidden_tools(rendering)
        forms = self._forms_of_calls(rendering)
        problem: SodError | None = None
        for dialect in self._candidates(rendering.source):
            for form in forms:
                try:
                    layout = self._layout(rendering, form, dialect, True)
                except UnboundedTemplateError:
                    raise
                except SodError as error:
                    problem = problem or error
                    continue
                why = f"the tokenizer's own template, as it shows the tools and its calls are read as {dialect.name}"
                return Choice(rendering, form, dialect, layout, True, why)
        assert problem is not None
        raise problem

    def _candidates(self, source: str) -> Sequence[Dialect]:
        """The dialects that the template is written for; where none knows it, all."""
        return [dialect for dialect in self._dialects if dialect.speaks(source)] or self._dialects

    def _refuse_hidden_tools(self, rendering: Rendering) -> None:
        """Raises SodError where the template writes the names of a tool and of its parameter in no form."""
        problem: SodError | None = None
        for form in (FORMS[0], FORMS[-1]):
            try:
                text = rendering.text([USER], form, [PROBE_TOOL], True)
            except UnboundedTemplateError:
                raise
            except SodError as error:
                problem = problem or error
                continue
            if all(name in text for name in SHOWN):
                return
            problem = problem or SodError("chat template: it does not show the tools to the model")
        assert problem is not None
        raise problem

    def _forms_of_calls(self, rendering: Rendering) -> list[Form]:
        """The forms in which the template renders a call and its result. Raises SodError where there is none."""
        found: list[Form] = []
        problem: SodError | None = None
        said = calling(1, 1)
        messages = [USER, said, *others(1, ("tool",), said.tool_calls)]
        for form in FORMS:
            try:
                text = rendering.text(messages, form, [PROBE_TOOL], False)
            except UnboundedTemplateError:
                raise
            except SodError as error:
                problem = problem or error
                continue
            if str(said.tool_calls[0].arguments[PARAMETER]) in text:
                found.append(form)
        if not found:
            raise problem or SodError("chat template: it does not render an assistant's call")
        return found

    def _layout(self, rendering: Rendering, form: Form, dialect: Dialect, tools: bool) -> Layout:
        shown = self._tools or [PROBE_TOOL]
        rendered: dict[str, str] = {}

        def text(messages: Sequence[Message], generate: bool, with_tools: bool) -> str:
            key = f"{generate} {with_tools} {messages!r}"
            if key not in rendered:
                rendered[key] = rendering.text(messages, form, shown if with_tools else [], generate)
            return rendered[key]

        return Layout(text, dialect, self._encoder, tools)

    def _advised(self, problem: str) -> SodError:
        """The problem, and what does work instead, which is tried out."""
        fallback = partial(Chooser(self._tokenizer, self._encoder, self._tools, self._kwargs).choose, "hermes")
        if "chat.template=hermes" in problem:
            return SodError(problem)
        try:
            fallback()
        except SodError as error:
            return SodError(f"{problem}; nor does chat.template=hermes work: {error}")
        return SodError(f"{problem}; use chat.template=hermes")


def _reason(error: SodError) -> str:
    return str(error).removeprefix("chat template: ")


def _named(name: str) -> Sequence[Dialect]:
    if name == "auto":
        return DIALECTS
    found = [dialect for dialect in DIALECTS if dialect.name == name]
    if not found:
        known = ", ".join(dialect.name for dialect in DIALECTS)
        raise SodError(f"chat.dialect: no dialect is called {name!r}; there are auto, {known}")
    return found
