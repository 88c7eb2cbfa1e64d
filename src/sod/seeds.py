"""Seeds by hashing names, never by addition (`seed + step` collides with the next run's seed)."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_U64 = np.uint64


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every name, in order."""
    text = "\x1f".join([str(seed), *(f"{type(n).__name__}:{n}".replace("\x1f", "\x1f\x1f") for n in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniforms(key_N: NDArray[np.uint64], position_N: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One uniform number in [0, 1) for each (key, position): SplitMix64 (Steele et al., 2014).

    A counter-based generator: the number at a position depends on nothing that was drawn before,
    so sampling noise survives any re-batching.
    """
    with np.errstate(over="ignore"):
        z = key_N + (position_N + _U64(1)) * _U64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
        z = z ^ (z >> _U64(31))
    unit_N: NDArray[np.float64] = (z >> _U64(11)).astype(np.float64) * 2.0**-53
    return unit_N
