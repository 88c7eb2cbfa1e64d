"""Which tokens of two vocabularies are the same, by their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from sod.alignment.pieces import Ids, Mask, Pieces

_Name = tuple[bytes, bool, bool]


@final
@dataclass(frozen=True)
class Shared:
    """Tokens that both vocabularies have: the i-th of `student` is the i-th of `teacher`, in the student's order."""

    student: Ids
    teacher: Ids


def shared_tokens(student: Pieces, teacher: Pieces) -> Shared:
    """The tokens of equal bytes, each in one pair; control tokens are shared where their names are equal.

    A token that spells one byte (`<0x0A>`) stands for that byte's where only one of the two has a token of its own.
    """
    ours, theirs = _by_name(student), _by_name(teacher)
    pairs = {id: theirs[name] for name, id in ours.items() if name in theirs}
    taken = set(pairs.values())
    for (piece, control, fallback), id in ours.items():
        other = None if control or id in pairs else theirs.get((piece, False, not fallback))
        if other is not None and other not in taken:
            pairs[id] = other
            taken.add(other)
    own = sorted(pairs)
    return Shared(np.array(own, dtype=np.int64), np.array([pairs[id] for id in own], dtype=np.int64))


def longest_prefixes(student: Pieces, teacher: Pieces) -> Ids:
    """For each of the teacher's tokens the longest token of the student's that its bytes begin with; -1: there is none.

    A control token's is that of its name.
    """
    ours = _by_name(student)
    longest = max((len(piece) for piece, control, _ in ours if not control), default=0)
    found = np.full(len(teacher.table) - 1, -1, dtype=np.int64)
    for (piece, control, fallback), id in _every(teacher):
        found[id] = ours.get((piece, True, False), -1) if control else _prefix(ours, piece, fallback, longest)
    return found


def blank_tokens(pieces: Pieces) -> Mask:
    """Which tokens are white space alone."""
    blank = [piece.isspace() for piece in pieces.table[:-1]]
    return np.array(blank, dtype=bool) & ~pieces.control[:-1]


def _prefix(ours: dict[_Name, int], piece: bytes, fallback: bool, longest: int) -> int:
    for size in range(min(len(piece), longest), 0, -1):
        own = ours.get((piece[:size], False, fallback), ours.get((piece[:size], False, not fallback)))
        if own is not None:
            return own
    return -1


def _by_name(pieces: Pieces) -> dict[_Name, int]:
    """Each token by what it spells and how; the first of those that spell the same."""
    names: dict[_Name, int] = {}
    for name, id in _every(pieces):
        names.setdefault(name, id)
    return names


def _every(pieces: Pieces) -> list[tuple[_Name, int]]:
    flags = zip(pieces.table[:-1], pieces.control.tolist(), pieces.fallback.tolist(), strict=False)
    return [((piece, control, fallback), id) for id, (piece, control, fallback) in enumerate(flags) if piece]
