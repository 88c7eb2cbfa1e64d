"""sod: step-wise on-policy distillation of small tool-using language models.

What is listed in `__all__` is imported when it is first asked for, and PyTorch not before something needs it.
`__init__.pyi` tells type checkers of the same names.
"""

from importlib import import_module
from typing import Any

from sod.build.openmp import settle_with_torch

__version__ = "0.1.0"
_HOMES = {
    "Environment": "sod.environments.base",
    "Episode": "sod.records",
    "Recipe": "sod.recipe",
    "Run": "sod.front.runs",
    "SodError": "sod.records",
    "Task": "sod.records",
    "Tool": "sod.tools.base",
    "ToolFault": "sod.records",
    "evaluate": "sod.front.evaluation",
    "load_recipe": "sod.recipe",
    "sft": "sod.front.training",
    "train": "sod.front.training",
}
__all__ = [*_HOMES]

settle_with_torch()


def __getattr__(name: str) -> Any:
    """A name of `__all__`, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sod' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
