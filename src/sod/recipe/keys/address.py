"""Addresses of services, as keys hold them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})
_PORTS = {"http": 80, "https": 443}
_PLAIN = re.compile(r"[^\s,;|\\]+")


def bare_address(url: str, key: str, secret: str, example: str = "http://127.0.0.1:8000/v1") -> str:
    """`url` without a slash at its end. Raises ValueError, which does not show it, where there is more than an address
    in it; `secret` says where a key for the service goes instead. Raises ValueError, with an `example`, where it is
    none.
    """
    if any(mark in url for mark in "@?#"):
        raise ValueError(
            f"{key}: a url with a user name, password, query or fragment is refused, recipes are kept and shown; put "
            f"the key into {secret}, leave the bare address here"
        )
    if not url.startswith(("http://", "https://")) or not _PLAIN.fullmatch(url):
        raise ValueError(f"{key}: {url!r} is not a url; name it like {example}")
    try:
        same_place(url)
    except ValueError as error:
        raise ValueError(f"{key}: {url!r} is not a url ({error}); name it like {example}") from None
    return url.rstrip("/")


def same_place(url: str) -> tuple[str, str, int, str]:
    """What two urls of one service have in common, however they are written. Raises ValueError for what has no host or
    no port that there can be.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if not host or port == 0:
        raise ValueError("no host" if not host else "port 0")
    return parts.scheme, "localhost" if host in _LOCAL else host, port or _PORTS[parts.scheme], parts.path.rstrip("/")
