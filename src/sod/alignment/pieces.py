"""What each token of a tokenizer stands for, in bytes.

Read from the tokenizer's own decoder, never by decoding single ids: a byte-level token may be a part of a character,
which decodes to a replacement character alone. Two makes are known: byte-level BPE (GPT-2, Llama 3, Qwen, DeepSeek),
and SentencePiece (`▁` for a space, `<0xNN>` for a byte). That the bytes are right is proven on probes when the table is
made. A normalizer (NFC and others) changes a text before it is tokenized; `Pieces.normal` says what becomes of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sod.chat.content import Tokenizer, stands_for_text, without_prefix
from sod.records import SodError

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

SENTENCE_PIECE = {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
"""Steps of a decoder that undo what SentencePiece does. A GGUF's byte-level tokenizer may have them as well."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PROBES = (
    'A call of f(x=3): 12345 + 678.90\n\n\tit\'s  done -- "quoted" {}\\n',
    "na\u00efve caf\u00e9 e\u0301a\u0308 \u1e9b\u0323 \ufb01n \u212b",
    "\u4eca\u65e5\u306f \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001d54f \u2581x \u00a0 \u2028",
)
"""Plain text, composed and decomposed accents, other scripts, rare characters."""


@final
@dataclass(frozen=True)
class Pieces:
    """The bytes of every token of one tokenizer.

    `table[id]` are a token's bytes, `length[id]` their number; `control[id]` marks added tokens that no text becomes,
    whose bytes are those of their name. `fallback[id]` marks tokens that spell one byte (`<0x0A>`). The last entry
    stands for every id that the tokenizer does not have: no bytes, control. `prefix` is what the tokenizer puts before
    a text (SentencePiece: a space), which its first token then holds, and `normal` gives a text as its tokens spell it.
    """

    table: tuple[bytes, ...]
    length: Ids
    control: Mask
    fallback: Mask
    prefix: bytes
    normal: Callable[[str], str]

    def known(self, token_ids: Sequence[int] | Ids) -> Ids:
        """The ids as an index into the tables: what the tokenizer does not have is the last entry."""
        ids = np.asarray(token_ids, dtype=np.int64)
        return np.where((ids < 0) | (ids >= len(self.table)), len(self.table) - 1, ids)

    def join(self, token_ids: Sequence[int] | Ids) -> bytes:
        """The bytes that the tokens spell together."""
        return b"".join([self.table[id] for id in self.known(token_ids).tolist()])


def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """The bytes of every token of a fast tokenizer.

    Raises SodError for a tokenizer that has no fast backend, whose decoder is of neither known make, or whose pieces
    are not those of its own encoding.
    """
    try:
        backend = tokenizer.backend_tokenizer
    except AttributeError as error:
        raise SodError(
            "the tokenizer has no tokenizer.json, so nobody can tell the bytes of its tokens; save it again with a "
            "fast tokenizer"
        ) from error
    spell = _speller([] if backend.decoder is None else _steps(json.loads(backend.decoder.__getstate__())))
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
    controls = {id for id, text in added.items() if not stands_for_text(text, backend.model)}
    size = max(vocabulary.values(), default=-1) + 1
    table, control, fallback = [b""] * (size + 1), np.ones(size + 1, dtype=bool), np.zeros(size + 1, dtype=bool)
    for token, id in vocabulary.items():
        table[id] = token.encode() if id in controls else spell(token)
        control[id] = id in controls
        fallback[id] = len(table[id]) == 1 and _BYTE.fullmatch(token) is not None
    length = np.array([len(piece) for piece in table], dtype=np.int64)
    pieces = Pieces(tuple(table), length, control, fallback, b"", _normal(backend, spell))
    return _proven(pieces, tokenizer)


def _proven(pieces: Pieces, tokenizer: Tokenizer) -> Pieces:
    """The pieces with what their tokenizer puts before a text. Raises SodError where they do not spell the probes."""
    before, letter, _ = pieces.join(tokenizer.encode("a", add_special_tokens=False)).rpartition(b"a")
    proven = 0
    for probe in _PROBES:
        ids = tokenizer.encode(probe, add_special_tokens=False)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            continue  # a vocabulary without these characters: their texts will not be found in its tokens
        if pieces.join(ids) != before + pieces.normal(probe).encode():
            raise SodError(
                f"the tokenizer's tokens do not spell {probe[:12]!r} by its own decoder, so no other tokenizer's can "
                "be aligned with them; take a teacher of another family"
            )
        proven += 1
    if not letter or before not in (b"", b" ") or not proven:
        raise SodError(
            "the tokenizer's vocabulary spells no plain text, so no other tokenizer's tokens can be aligned with it; "
            "take a teacher of another family"
        )
    return Pieces(pieces.table, pieces.length, pieces.control, pieces.fallback, before, pieces.normal)


def _normal(backend: Any, spell: Callable[[str], bytes]) -> Callable[[str], str]:
    normalizer = without_prefix(backend.normalizer, "normalizer")
    marked = spell("\u2581") == b" "  # then that character in a text is read as a space, too

    def normal(text: str) -> str:
        changed = text if normalizer is None else str(normalizer.normalize_str(text))
        return changed.replace("\u2581", " ") if marked else changed

    return normal


def _steps(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def _speller(steps: Sequence[Mapping[str, Any]]) -> Callable[[str], bytes]:
    """From a token's name to its bytes, by the steps of a decoder. Raises SodError for steps of another make."""
    kinds = [step["type"] for step in steps]
    if kinds[-1:] == ["ByteLevel"] and set(kinds[:-1]) <= SENTENCE_PIECE:
        return _byte_level  # the steps before it find nothing to do: GPT-2's alphabet has no `\u2581`
    spaces = [_space_mark(step) for step in steps if step["type"] in ("Metaspace", "Replace")]
    rest = set(kinds) - SENTENCE_PIECE
    if rest or not kinds or not all(spaces) or len(spaces) != 1:
        name = " + ".join(kinds) or "none"
        raise SodError(
            f"the tokenizer's decoder ({name}) is neither byte-level nor SentencePiece's, so nobody can tell the bytes "
            "of its tokens; take a teacher of another family"
        )
    mark, by_byte = str(spaces[0]), "ByteFallback" in kinds

    def spell(token: str) -> bytes:
        spelled = _BYTE.fullmatch(token) if by_byte else None
        return bytes([int(spelled[1], 16)]) if spelled else token.replace(mark, " ").encode()

    return spell


def _space_mark(step: Mapping[str, Any]) -> str | None:
    """What a step turns into a space; None where it does something else."""
    if step["type"] == "Metaspace":
        return str(step["replacement"])
    mark = step["pattern"].get("String")
    return str(mark) if mark and step["content"] == " " else None


def _byte_level(token: str) -> bytes:
    """GPT-2's alphabet; a name with another character in it is an added token's, which is the text itself."""
    try:
        return bytes([_ALPHABET[letter] for letter in token])
    except KeyError:
        return token.encode()


def _alphabet() -> Iterator[tuple[str, int]]:
    """GPT-2's names of the 256 bytes: those that print are themselves, the others are numbered from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    for byte in range(256):
        yield (chr(byte) if byte in printable else chr(next(others))), byte


_ALPHABET = dict(_alphabet())
