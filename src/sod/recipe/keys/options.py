"""Options of `vllm serve`, as lists in a recipe hold them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

HIDING = frozenset({"--host", "--port", "--uds", "--api-key", "--root-path", "--ssl-keyfile", "--ssl-certfile"})
"""Those that would hide a server from the run that starts it."""


def option_name(option: str) -> str:
    """The option's name without a value after `=`, as vLLM reads it: `_` is `-` in it."""
    return option.partition("=")[0].replace("_", "-")


def refuse_options(options: Sequence[str], reserved: Collection[str], key: str) -> None:
    """Raises ValueError for an option that the run sets itself, and for one with its value in one string."""
    for option in options:
        name = option_name(option)
        if name.startswith("-") and len(option.split()) > 1 and "=" not in option.split()[0]:
            first, rest = option.split(maxsplit=1)
            raise ValueError(f"{key}: {option!r} is an option and its value; write two strings, [{first!r}, {rest!r}]")
        if name in reserved:
            raise ValueError(f"{key}: {name} is the run's to set; leave it out")
