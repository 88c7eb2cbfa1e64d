"""One model's tokens of turns: their bytes, the text that these are, and where the contents stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import numpy as np

from sod.alignment.located import Located, Proofs, Read, located
from sod.alignment.pieces import Ids, Mask, Pieces


@final
@dataclass(frozen=True)
class Side:
    """One model's tokens of a turn (`ids` as `pieces` knows them), and what reads the turn's text.

    `ended` where the last token ends the turn, which is no part of its text.
    """

    ids: Ids
    pieces: Pieces
    read: Read
    ended: bool


@final
@dataclass(frozen=True)
class Written:
    """A side in bytes, its end token's name included, and in text, without it; a byte that is no text is one surrogate.

    `control` says for each byte whether it is of the name of an added token that no text becomes.
    """

    data: bytes
    control: bytes
    text: str
    side: Side
    proofs: Proofs

    @cached_property
    def found(self) -> Located:
        """Where the contents stand in the text."""
        return located(self.text, self.side.read, self.proofs)

    def byte_at(self, character: int) -> int:
        """The byte at which a character of the text begins, or its end."""
        return character if self.text.isascii() else int(self._byte_at[character])

    @cached_property
    def _byte_at(self) -> Ids:
        code = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
        width = 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
        width[(code >= 0xDC80) & (code <= 0xDCFF)] = 1
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])


@final
@dataclass(frozen=True)
class Laid:
    """One model's tokens of several turns, laid end to end: their bytes, and which of them are control.

    `token_at` and `byte_at` are where each turn begins, and the end of all; `turns` are the same turn by turn.
    """

    lengths: Ids
    control: Mask
    token_at: Ids
    byte_at: Ids
    turns: Sequence[Written]


def laid_out(sides: Sequence[Side], proofs: Proofs) -> Laid:
    """The turns of one model, one or more; `proofs` are those that were done before, to which new ones are added."""
    pieces, ids = sides[0].pieces, np.concatenate([side.ids for side in sides])
    lengths, control = pieces.length[ids], pieces.control[ids]
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    token_at = np.cumsum([0, *(len(side.ids) for side in sides)])
    byte_at = ends[token_at]
    data = b"".join(map(pieces.table.__getitem__, ids.tolist()))
    control_bytes = np.repeat(control, lengths).tobytes()
    text_ends = ends[token_at[1:] - [side.ended and len(side.ids) > 0 for side in sides]].tolist()
    turns = []
    for side, (start, stop), text_end in zip(sides, pairwise(byte_at.tolist()), text_ends, strict=True):
        text = data[start:text_end].decode("utf-8", "surrogateescape")
        turns.append(Written(data[start:stop], control_bytes[start:stop], text, side, proofs))
    return Laid(lengths, control, token_at, byte_at, turns)
