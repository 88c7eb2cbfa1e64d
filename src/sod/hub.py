"""Paths and ids of the Hugging Face hub: which of the two a text is, and whether the hub can be asked at all.

The hub's own client tries an unreachable hub five times, with a traceback each, before it gives up; a mistyped path of
the form `a/b` is such a case.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx
from huggingface_hub import constants, get_token, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

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


def dataset_snapshot(source: str, patterns: Sequence[str]) -> Path:
    """The folder with these files (globs) of a hub data set, named by its revision; fetched where they are not here.

    Where the hub cannot be reached, what was fetched before is taken. Raises SodError, for a gated set with what has to
    be accepted and which variable to set.
    """
    reason = why_unreachable()
    try:
        found = snapshot_download(
            source,
            repo_type="dataset",
            allow_patterns=list(patterns),
            local_files_only=reason is not None,
            endpoint=constants.ENDPOINT,
        )
    except GatedRepoError as error:
        raise gated(source) from error
    except LocalEntryNotFoundError as error:
        raise unreachable(source, "data set", reason or "it did not answer") from error
    except RepositoryNotFoundError as error:
        raise SodError(f"{source}: the hub has no such data set, or it is private; set HF_TOKEN for one") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise SodError(f"{source}: cannot be fetched from the hub ({_one_line(error)}); try again") from error
    return Path(str(found))


def refuse_without_token(source: str) -> None:
    """Raises SodError where a gated data set is not here, and no token is set to fetch it with."""
    if get_token() is None and not is_cached_dataset(source):
        raise gated(source)


def gated(source: str) -> SodError:
    """The line for a data set that the hub gives to those who accepted its conditions."""
    token = "HF_TOKEN is not of an account that did" if get_token() else "no token is set"
    return SodError(
        f"{source}: is gated, and {token}; accept its conditions at {constants.ENDPOINT}/datasets/{source}, then set "
        "HF_TOKEN to a token of that account (or run `hf auth login`)"
    )


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
        outcome.append(f"{constants.ENDPOINT}: {_one_line(error)}")
    else:
        outcome.append(f"{constants.ENDPOINT}: status {answer.status_code}" if answer.status_code >= 500 else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
