"""sod: step-wise on-policy distillation of small tool-using language models."""

from sod.build.openmp import settle_with_torch

__version__ = "0.1.0"

settle_with_torch()
