"""Our own chat template: Hermes calls in ChatML, or in a tokenizer's own marks where it has none of ChatML's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import final

from sod.chat.content import ContentEncoder, Tokenizer
from sod.chat.probes import ANSWER, USER, answer
from sod.chat.rendering import Rendering, Way
from sod.records import Message, SodError

START, END = "<|im_start|>", "<|im_end|>"


@final
@dataclass(frozen=True)
class Marks:
    """What begins and what ends a message, and whether the tokenizer's BOS stands before the first."""

    start: str = START
    end: str = END
    bos: bool = False


def hermes_template(marks: Marks | None = None) -> str:
    """Our own small template with Hermes tool calls, in ChatML or with other marks."""
    text, marks = _shipped("hermes"), marks or Marks()
    text = text.replace(START, marks.start).replace(END, marks.end)
    return "{{- bos_token -}}\n" + text if marks.bos else text


def looks_ours(template: object) -> bool:
    """Whether a template is ours, perhaps with other marks."""
    return isinstance(template, str) and _shipped("hermes").split("\n", 1)[0] in template


def told_template(own: str) -> str:
    """A template that knows no tools, with one of ours in front of it that tells of them in the user's message."""
    return _shipped("told") + own


@cache
def _shipped(name: str) -> str:
    return files("sod.chat").joinpath(f"templates/{name}.jinja").read_text(encoding="utf-8")


def marks_of(tokenizer: Tokenizer, own: Rendering | None, encoder: ContentEncoder) -> Marks:
    """The marks for a tokenizer: ChatML's where it has them, else those of its `own` template, else its EOS alone.

    A message that begins with no token of its own still ends in one, so no content can begin another message.
    Raises SodError for a tokenizer without any token that could end a message.
    """
    bos = _adds_bos(tokenizer)
    if has_chatml(tokenizer):
        return Marks(bos=bos)
    start, end = _own_marks(own, encoder) if own is not None else (None, None)
    eos = tokenizer.eos_token_id
    if end is None and eos is not None and eos in tokenizer.added_tokens_decoder:
        end = str(tokenizer.added_tokens_decoder[eos].content)
    if end is None:
        raise SodError(
            f"chat template: the tokenizer has no token that could end a turn, neither {END} nor an EOS; set eos_token "
            "in its tokenizer_config.json to one of its special tokens"
        )
    return Marks(start or START, end, bos)


def has_chatml(tokenizer: Tokenizer) -> bool:
    """Whether ChatML's two marks are tokens of the tokenizer."""
    return {START, END} <= {str(token.content) for token in tokenizer.added_tokens_decoder.values()}


def _own_marks(own: Rendering, encoder: ContentEncoder) -> tuple[str | None, str | None]:
    """What the tokenizer's own template begins and ends a message with: the tokens between an answer and a question."""
    question = ANSWER.format(2)
    try:
        text = own.text([USER, answer(1), Message("user", question)], Way(), [], False)
    except SodError:
        return None, None
    between = text.partition(ANSWER.format(1))[2].partition(question)[0]
    bos = own.tokenizer.bos_token_id
    marks = [between[one.start : one.stop].strip() for one in encoder.controls(between) if one.id != bos]
    end, start = [*marks, None, None][:2]
    return start, end


def _adds_bos(tokenizer: Tokenizer) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("a")[:1] == [bos]
