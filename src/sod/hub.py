"""Paths and ids of the Hugging Face hub: which of the two a text is, and whether the hub can be asked at all.

The hub's own client tries an unreachable hub five times, with a traceback each, before it gives up; a mistyped path of
the form `a/b` is such a case.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import httpx
from huggingface_hub import constants, try_to_load_from_cache

from sod.records import SodError

SECONDS = 3.0
"""How long the hub may take to answer at all."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(source: str) -> bool:
    """Whether `source` can only be meant as `owner/name`: neither it nor its directory exists here."""
    path = Path(source)
    return _HUB_ID.fullmatch(source) is not None and not path.exists() and not path.parent.exists()


def cached_model_file(source: str, name: str) -> Path | None:
    """A file of a hub model that was fetched before; None where it was not."""
    found = try_to_load_from_cache(source, name)
    return Path(found) if isinstance(found, str) else None


def is_cached_dataset(source: str) -> bool:
    """Whether something of a hub data set was fetched before."""
    return (Path(constants.HF_HUB_CACHE) / f"datasets--{source.replace('/', '--')}").is_dir()


def why_unreachable() -> str | None:
    """Why the hub cannot be asked, after a few seconds at most; None where it answers."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome = [f"{constants.ENDPOINT} does not answer"]
    asking = threading.Thread(target=_ask, args=(outcome,), daemon=True)  # a name server may hang beyond any timeout
    asking.start()
    asking.join(SECONDS)
    return outcome[-1] or None


def unreachable(source: str, what: str, reason: str) -> SodError:
    """The line for `source`, which is neither here nor to be had from the hub; `what` it should have been."""
    return SodError(
        f"{source}: no such {what}, and the hub cannot be reached ({reason}); correct the path, or fetch it where "
        "there is a network"
    )


def _ask(outcome: list[str]) -> None:
    try:
        answer = httpx.head(constants.ENDPOINT, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        outcome.append(f"{constants.ENDPOINT}: {' '.join(str(error).split()) or type(error).__name__}")
    else:
        outcome.append(f"{constants.ENDPOINT}: status {answer.status_code}" if answer.status_code >= 500 else "")
