"""One model's tokens of a turn: their bytes, the text that these are, and where the contents stand in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from sod.alignment.located import Located, Read, located
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

    @cached_property
    def lengths(self) -> Ids:
        """Bytes of each token."""
        return self.pieces.length[self.ids]

    @cached_property
    def control(self) -> Mask:
        """Which tokens are added ones that no text becomes."""
        return self.pieces.control[self.ids]

    @cached_property
    def control_bytes(self) -> bytes:
        """For each byte of the turn whether it is of a control token's name."""
        return np.repeat(self.control, self.lengths).astype(np.uint8).tobytes()

    @cached_property
    def data(self) -> bytes:
        """The bytes of the turn, its end token's name included."""
        return b"".join(map(self.pieces.table.__getitem__, self.ids.tolist()))

    @cached_property
    def text(self) -> str:
        """The turn as it is read, without its end token; a byte that is no text is one surrogate character."""
        end = len(self.data) - int(self.lengths[-1]) if self.ended and len(self.lengths) else len(self.data)
        return self.data[:end].decode("utf-8", "surrogateescape")

    @cached_property
    def found(self) -> Located:
        """Where the contents stand in the text."""
        return located(self.text, self.read)

    def byte_at(self, character: int) -> int:
        """The byte at which a character of the text begins, or its end."""
        return character if self.text.isascii() else int(self._byte_at[character])

    @cached_property
    def _byte_at(self) -> Ids:
        code = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64)
        width = 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
        width[(code >= 0xDC80) & (code <= 0xDCFF)] = 1
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])
