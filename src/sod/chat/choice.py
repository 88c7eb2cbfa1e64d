"""Which template renders a run's messages, and which dialect reads what the model says to them.

The tokenizer's own template is taken where it shows the tools and writes calls that a known dialect reads back, which
is tried out. Else there are two of ours (`sod.chat.ours`): Hermes, for tokenizers that have ChatML's tokens, and for
others their own template behind one that tells of the tools in the user's message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from sod.chat.confined import Confined, UnboundedTemplateError
from sod.chat.content import ContentEncoder, Tokenizer
from sod.chat.dialects.base import Dialect
from sod.chat.dialects.gemma3 import GEMMA3
from sod.chat.dialects.hermes import HERMES
from sod.chat.dialects.known import DIALECTS
from sod.chat.forms import FORMS, Form
from sod.chat.layout import Layout
from sod.chat.ours import Marks, has_chatml, hermes_template, looks_ours, marks_of, told_template
from sod.chat.probes import PARAMETER, PROBE_TOOL, SHOWN, USER, calling, others
from sod.chat.rendering import Rendering, Tools, Way
from sod.records import Message, SodError

Wanted = Literal["auto", "tokenizer", "told", "hermes"]


@final
@dataclass(frozen=True)
class Choice:
    """What was taken, and `why`, in a few words for the user; `own` is whether it is the tokenizer's own template."""

    rendering: Rendering
    way: Way
    layout: Layout
    own: bool
    why: str


@final
@dataclass(frozen=True)
class Chooser:
    """Tries the templates of one tokenizer with the tools that a run shows."""

    tokenizer: Tokenizer
    encoder: ContentEncoder
    tools: Tools
    kwargs: Mapping[str, Any]
    dialects: Sequence[Dialect] = DIALECTS

    def choose(self, wanted: Wanted) -> Choice:
        """The template that is wanted, proven. Raises SodError with what it lacks and with a way that works."""
        own = self.tokenizer.chat_template
        ours = looks_ours(own) and own == hermes_template(self._marks())
        if wanted == "hermes" or (ours and wanted != "told"):
            return self._advised("hermes", "it is the tokenizer's own" if ours else "as set")
        if not own and wanted == "auto":
            return self._advised("hermes", "the tokenizer has no chat template")
        if wanted != "auto":
            return self._advised(wanted, "as set")
        try:
            return replace(self, tools=self.tools or [PROBE_TOOL])._tried("tokenizer", "")
        except UnboundedTemplateError as error:
            raise self._with_advice(error, "tokenizer") from error
        except SodError as error:
            if self.dialects is not DIALECTS:
                raise self._with_advice(error, "tokenizer") from error
            return self._instead(f"the tokenizer's own does not do ({_reason(error)})")

    def _instead(self, why: str) -> Choice:
        """Ours where the tokenizer's own does not do."""
        if has_chatml(self.tokenizer):
            return self._advised("hermes", why)
        try:
            return self._tried("told", why)
        except SodError:
            return self._advised("hermes", why)

    def _advised(self, wanted: Wanted, why: str) -> Choice:
        try:
            return self._tried(wanted, why)
        except SodError as error:
            raise self._with_advice(error, wanted) from error

    def _with_advice(self, problem: SodError, wanted: Wanted) -> SodError:
        """The problem, and what does work instead, which is tried out."""
        if "chat.template=hermes" in str(problem):
            return problem
        ways: tuple[Wanted, ...] = ("hermes", "told", "tokenizer")
        for way in ways:
            try:
                if way != wanted:
                    replace(self, dialects=DIALECTS)._tried(way, "")
                    return SodError(f"{problem}; use chat.template={way}")
            except SodError:
                continue
        return SodError(f"{problem}")

    def _tried(self, wanted: Wanted, why: str) -> Choice:
        """The choice, if it works. Raises SodError, which says why it does not."""
        if wanted == "hermes":
            return self._hermes(why)
        if not self.tokenizer.chat_template:
            raise SodError(f"chat.template={wanted}: the tokenizer has no chat template")
        confined = Confined(self.tokenizer)
        try:
            own = Rendering(self.tokenizer, None, confined, self.kwargs)
            if wanted == "told":
                return self._told(replace(own, template=told_template(own.source)), why)
            return self._own(own)
        except SodError:
            confined.end()
            raise

    def _hermes(self, why: str) -> Choice:
        """Our template. Raises SodError where the tokenizer lacks every token to end a turn in."""
        self._refuse_named(HERMES, "hermes")
        marks = self._marks()
        rendering = Rendering(self.tokenizer, hermes_template(marks), None, self.kwargs)
        turns = "" if marks == Marks() else f" in turns that end with {marks.end}"
        return Choice(rendering, Way(), self._layout(rendering, Way(), True), False, _because("hermes", turns, why))

    def _told(self, rendering: Rendering, why: str) -> Choice:
        """The tokenizer's own template behind ours. Raises SodError where it takes no such messages."""
        self._refuse_named(GEMMA3, "told")
        problem: SodError | None = None
        for form in FORMS:
            try:
                layout = self._layout(rendering, Way(form, GEMMA3), True)
                return Choice(rendering, Way(form, GEMMA3), layout, False, _because("told", "", why))
            except UnboundedTemplateError:
                raise
            except SodError as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def _refuse_named(self, dialect: Dialect, template: str) -> None:
        if dialect not in self.dialects:
            name = self.dialects[0].name
            raise SodError(f"chat.dialect={name}: chat.template={template} is written in {dialect.name}; leave it out")

    def _marks(self) -> Marks:
        if not self.tokenizer.chat_template or has_chatml(self.tokenizer):
            return marks_of(self.tokenizer, None, self.encoder)
        confined = Confined(self.tokenizer)
        try:
            return marks_of(self.tokenizer, Rendering(self.tokenizer, None, confined), self.encoder)
        finally:
            confined.end()

    def _own(self, rendering: Rendering) -> Choice:
        """The tokenizer's own template with the first dialect that reads it, in the first form that it takes."""
        problem: SodError | None = None
        shows = self._shows_tools(rendering)
        if not shows and self.tools:
            raise SodError("chat template: it does not show the tools to the model")
        for way in self._ways(rendering, shows):
            try:
                layout = self._layout(rendering, way, shows)
            except UnboundedTemplateError:
                raise
            except SodError as error:
                problem = problem or error
                continue
            tools = (
                f"it shows the tools and its calls are read as {way.dialect.name}" if shows else "there are no tools"
            )
            return Choice(rendering, way, layout, True, f"the tokenizer's own template, as {tools}")
        if problem is None or not self._spoken(rendering):
            named = self.dialects is not DIALECTS
            who = f"the {self.dialects[0].name} dialect does not read" if named else "no known dialect reads"
            raise SodError(f"chat template: {who} the calls that it writes")
        raise problem

    def _spoken(self, rendering: Rendering) -> list[Dialect]:
        """The dialects that the template is written for, by its words."""
        return [dialect for dialect in self.dialects if dialect.speaks(rendering.source)]

    def _ways(self, rendering: Rendering, calls: bool) -> Iterator[Way]:
        """Every dialect that may be spoken, in every form in which the template renders a call."""
        spoken = self._spoken(rendering)
        forms = self._forms_of_calls(rendering) if calls else list(FORMS)
        for dialect in spoken or self.dialects:
            for form in forms:
                if not form.written or (spoken and len(forms) == 1):
                    yield Way(form, dialect)

    def _shows_tools(self, rendering: Rendering) -> bool:
        """Whether the template writes the names of a tool and of its parameter. Raises SodError where it fails."""
        problem: SodError | None = None
        for form in (FORMS[0], Form(blocks=True)):
            try:
                text = rendering.text([USER], Way(form), [PROBE_TOOL], True)
            except UnboundedTemplateError:
                raise
            except SodError as error:
                problem = problem or error
                continue
            if USER.content in text:
                return all(name in text for name in SHOWN)
        raise problem or SodError("chat template: it does not render a user's message")

    def _forms_of_calls(self, rendering: Rendering) -> list[Form]:
        """The forms in which the template renders a call and its result. Raises SodError where there is none."""
        found: list[Form] = []
        problem: SodError | None = None
        said = calling(1, 1)
        messages = [USER, said, *others(1, ("tool",), said.tool_calls)]
        for form in FORMS:
            if form.written and found:
                break  # it renders calls of itself
            try:
                text = rendering.text(messages, Way(form), [PROBE_TOOL], False)
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

    def _layout(self, rendering: Rendering, way: Way, tools: bool) -> Layout:
        shown = self.tools or [PROBE_TOOL]
        rendered: dict[str, str] = {}

        def text(messages: Sequence[Message], generate: bool, with_tools: bool) -> str:
            key = f"{generate} {with_tools} {messages!r}"
            if key not in rendered:
                rendered[key] = rendering.text(messages, way, shown if with_tools else [], generate)
            return rendered[key]

        return Layout(text, way.dialect, self.encoder, tools)


def named_dialects(name: str) -> Sequence[Dialect]:
    """All dialects for `auto`, else the one of that name. Raises SodError where there is none."""
    if name == "auto":
        return DIALECTS
    found = [dialect for dialect in DIALECTS if dialect.name == name]
    if not found:
        known = ", ".join(dialect.name for dialect in DIALECTS)
        raise SodError(f"chat.dialect: no dialect is called {name!r}; there are auto, {known}")
    return found


def _because(template: str, turns: str, why: str) -> str:
    what = {
        "hermes": "sod's hermes template",
        "told": "the tokenizer's own template with the tools told in the user's message",
    }[template]
    return f"{what}{turns}, {why}" if why.startswith("as ") else f"{what}{turns}, as {why}"


def _reason(error: SodError) -> str:
    return str(error).removeprefix("chat template: ")
