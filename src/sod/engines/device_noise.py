"""Sampling noise where the logits are: `sod.seeds.uniforms` in PyTorch, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # as signed numbers: PyTorch computes no unsigned ones of 64 bits, and products modulo 2^64 are the same


def signed(key: int) -> int:
    """The signed number with the same 64 bits."""
    return key - 2**64 if key >= 2**63 else key


def uniforms(key: Tensor, position: Tensor) -> Tensor:
    """One uniform float64 in [0, 1) for each (key, position): SplitMix64. Both are int64 and are broadcast."""
    z = key + (position + 1) * GOLDEN
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    z = z ^ _shifted(z, 31)
    return _shifted(z, 11).to(torch.float64) * 2.0**-53


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros: that of int64 fills with the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
