"""Text to token ids such that content can produce no added token.

An *added token* (`<|im_end|>`, `<think>`, `<tool_call>`, special or not) is found in a text before anything else is
tokenized, so a program that prints one would end its own turn. Here a text comes in pieces: the frame (what a template
or a dialect writes) may become added tokens, content may not. Content without the text of one is encoded together with
the frame around it, as one text; other content by the same vocabulary without its added tokens.

Two kinds of added tokens are text and stay what they are: those of white space only (Gemma 3 has one for each run of
line breaks, GPT-NeoX for runs of spaces), as a line break controls nothing and no other spelling of it was ever
trained on; and a single character that is a token of the vocabulary itself, which has no other spelling for it (or, if
it is one of bytes, spells other characters with it). The id for "unknown" may come of content too, though not of its
own text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any, Protocol, final

import tokenizers
from tokenizers import models

from sod.chat.dialects.base import Piece
from sod.records import SodError


class Tokenizer(Protocol):
    """What we use of a Hugging Face tokenizer."""

    chat_template: Any
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    added_tokens_decoder: Mapping[int, Any]
    backend_tokenizer: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, token_ids: Any, **options: Any) -> Any: ...
    def get_vocab(self) -> dict[str, int]: ...


@final
@dataclass(frozen=True)
class Control:
    """An added token in a text. What it takes of the white space around it belongs to it."""

    id: int
    start: int
    stop: int


@final
class ContentEncoder:
    """Encodes pieces of text. The vocabulary is shared with `tokenizer`, not copied. `watched` come of no content."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises SodError for a tokenizer that is not one of the `tokenizers` library."""
        self._tokenizer = tokenizer
        try:
            backend = tokenizer.backend_tokenizer
        except AttributeError as error:
            raise SodError("the tokenizer has no tokenizer.json; save it again with a fast tokenizer") from error
        self._normalizer = without_prefix(backend.normalizer, "normalizer")
        self._bare = tokenizers.Tokenizer(backend.model)
        if backend.pre_tokenizer is not None:
            self._bare.pre_tokenizer = without_prefix(backend.pre_tokenizer, "pre_tokenizer")
        added = {id: token for id, token in tokenizer.added_tokens_decoder.items() if token.content}
        text = {id: token for id, token in added.items() if stands_for_text(token.content, backend.model)}
        self._control = {id: token.content for id, token in added.items() if id not in text}
        self.watched = frozenset(self._control.keys() - {tokenizer.unk_token_id})
        self._bare.add_tokens(list(text.values()))
        self._real_ids = {self._bare.token_to_id(token.content): id for id, token in text.items()}
        self._find_raw(added, backend.model)
        self._frame_control = lru_cache(maxsize=1024)(lambda frame: self.control_ids(self._joint(frame)))

    def holds_control(self, text: str) -> bool:
        """Whether the tokenizer would find an added token in `text`, white space and single characters apart."""
        if self._raw.encode(text, add_special_tokens=False).ids:
            return True
        normal = self._normal(text)
        return normal != text and bool(self._normalized.encode(normal, add_special_tokens=False).ids)

    def may_join(self, text: str) -> bool:
        """Whether `text` could be a part of an added token together with what stands before or after it."""
        forms = (text, self._normal(text))
        within = any(form.strip() and form.strip() in self._control_text for form in forms)
        return within or any(self._borders.search(form) for form in forms)

    def control_ids(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are added tokens, in order; the unknown token is none here."""
        return [id for id in ids if id in self.watched]

    def controls(self, text: str) -> list[Control]:
        """Where the tokenizer finds added tokens in `text`, white space and the unknown token apart."""
        encoding = self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return [Control(id, start, stop) for id, (start, stop) in spans if id in self.watched]

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of the pieces, one after the other.

        As of one text where no content holds an added token's text, or becomes one with what it touches.
        """
        ids = self.encode_apart([Piece(p.text, p.frame or not self.holds_control(p.text)) for p in pieces])
        expected: list[int] = []
        for frame, text in _joined(pieces):
            expected += self._frame_control(text) if frame else ()
        return ids if self.control_ids(ids) == expected else self.encode_apart(pieces)

    def encode_apart(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of the pieces, every content apart from the frame and free of added tokens."""
        ids: list[int] = []
        for frame, text in _joined(pieces):
            ids += self._joint(text) if frame else self._spelled(self._normal(text))
        return ids

    def _joint(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _normal(self, text: str) -> str:
        return text if self._normalizer is None else str(self._normalizer.normalize_str(text))

    def _spelled(self, text: str) -> list[int]:
        """Ids of a normalized text. Where the vocabulary itself holds an added token's text, that is cut in two."""
        encoding = self._bare.encode(text, add_special_tokens=False)
        ids = [self._real_ids.get(id, id) for id in encoding.ids]
        cuts = []
        for id, (start, stop) in zip(ids, encoding.offsets, strict=True):
            if self._is_spelled_control(id, text[start:stop]):
                cuts.append(start + 1 if start + 1 < len(text) else start)
        if not cuts or len(text) == 1:
            return ids
        parts: list[int] = []
        for start, stop in pairwise([0, *cuts, len(text)]):
            parts += self._spelled(text[start:stop]) if start < stop else ()
        return parts

    def _is_spelled_control(self, id: int, text: str) -> bool:
        """Whether an id of the bare vocabulary is an added token. That for "unknown" stands for other text as well."""
        return id in self.watched or (id in self._control and text == self._control[id])

    def _find_raw(self, added: Mapping[int, Any], model: Any) -> None:
        """Make what looks for added tokens: in the text as it is, and in normalized text those that are found there."""
        raw = set(self._control.values())
        normalized = set[str]()
        for id, text in self._control.items():
            if added[id].normalized:
                normalized.add(self._normal(text))
            if model.token_to_id(text) is not None:  # the vocabulary itself may spell it
                normalized.add(text)
        both = sorted(raw | normalized)
        self._raw, self._normalized = _finder(both), _finder(sorted(normalized))
        ends = {text[0] for text in both} | {text[-1] for text in both}
        self._borders = re.compile(f"[{re.escape(''.join(sorted(ends)))}]" if ends else r"(?!)")
        self._control_text = "\n".join(both)


def stands_for_text(content: str, model: Any) -> bool:
    """Whether an added token is text: see the head of this file. "▁" is how SentencePiece writes a space."""
    return content.replace("▁", " ").isspace() or (len(content) == 1 and model.token_to_id(content) is not None)


def _finder(texts: Sequence[str]) -> Any:
    """A tokenizer that knows nothing but `texts`: what it encodes to is empty where none of them occurs."""
    finder = tokenizers.Tokenizer(models.BPE())
    finder.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in texts if text])
    return finder


def _joined(pieces: Sequence[Piece]) -> Iterable[tuple[bool, str]]:
    """`(whether it is frame, text)` of each run of pieces of one kind."""
    for frame, run in groupby(pieces, key=lambda piece: piece.frame):
        yield frame, "".join(piece.text for piece in run)


def without_prefix(part: Any, name: str) -> Any:
    """A normalizer or pre-tokenizer that puts no space before a text, as content seldom begins one."""
    if part is None:
        return None
    blank = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    blank[name] = _no_prefix(json.loads(part.__getstate__()))
    rebuilt = tokenizers.Tokenizer.from_str(json.dumps(blank))
    return rebuilt.normalizer if name == "normalizer" else rebuilt.pre_tokenizer


def _no_prefix(state: Any) -> Any:
    if isinstance(state, list):
        return [_no_prefix(item) for item in state]
    if not isinstance(state, dict):
        return state
    changed = {key: _no_prefix(value) for key, value in state.items()}
    match state.get("type"):
        case "Prepend":
            return {"type": "Sequence", "normalizers": []}
        case "Metaspace":
            changed["prepend_scheme"] = "never"
        case "ByteLevel":
            changed["add_prefix_space"] = False
    return changed
