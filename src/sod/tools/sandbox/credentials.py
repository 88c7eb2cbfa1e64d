"""What a SandboxFusion service is shown by its clients: a key and further headers, from the environment alone.

No recipe, run directory, log or message has them. `sod sandbox serve` takes its bearer token from the same variable.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from sod.records import SodError

KEY_VARIABLE = "SANDBOX_FUSION_API_KEY"
HEADERS_VARIABLE = "SANDBOX_FUSION_HEADERS"
_KEY = re.compile(r"[!-~]+")  # what a header can carry, without spaces
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"})


@final
@dataclass(frozen=True)
class Credentials:
    """Headers for every request. Their values are in no representation of this object."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def hidden(self, text: str) -> str:
        """A text of the service's, without the secrets that it may have said back."""
        secrets = {part for value in self.headers.values() for part in (value, value.removeprefix("Bearer "))}
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


def key_from_environment() -> str:
    """The key in KEY_VARIABLE, empty where there is none. Raises SodError, without the key, for what is none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and not _KEY.fullmatch(key):
        raise SodError(f"{KEY_VARIABLE}: a key has printable ASCII characters alone, without spaces; set another")
    return key


def credentials_from_environment() -> Credentials:
    """The key as a bearer token, and the headers in HEADERS_VARIABLE. Raises SodError, without any value."""
    headers = _headers(os.environ.get(HEADERS_VARIABLE, "").strip())
    key = key_from_environment()
    if key and any(name.lower() == "authorization" for name in headers):
        raise SodError(f"{KEY_VARIABLE} and {HEADERS_VARIABLE} both set Authorization; leave it out of one of them")
    return Credentials({**headers, **({"Authorization": f"Bearer {key}"} if key else {})})


def _headers(text: str) -> dict[str, str]:
    if not text:
        return {}
    form = f'{HEADERS_VARIABLE}: expected a JSON object of strings, like {{"X-Project": "7"}}'
    try:
        headers = json.loads(text)
    except ValueError:
        raise SodError(form) from None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise SodError(form)
    for number, (name, value) in enumerate(headers.items(), start=1):
        if not _NAME.fullmatch(name) or name.lower() in _OURS:
            raise SodError(f"{HEADERS_VARIABLE}: header {number} has a name that cannot be set; rename or remove it")
        if not _VALUE.fullmatch(value):
            raise SodError(f"{HEADERS_VARIABLE}: {name} needs a value of printable ASCII characters; change it")
    if len({name.lower() for name in headers}) < len(headers):
        raise SodError(f"{HEADERS_VARIABLE}: a header is there twice; remove one")
    return headers
