"""Addresses of OpenAI-compatible services, as keys hold them."""

from __future__ import annotations


def bare_address(url: str, key: str, secret: str) -> str:
    """`url` without a slash at its end. Raises ValueError, which does not show it, where there is more than an address
    in it; `secret` says where a key for the service goes instead.
    """
    if any(mark in url for mark in "@?#"):
        raise ValueError(
            f"{key}: a url with a user name, password, query or fragment is refused, recipes are kept and shown; put "
            f"the key into {secret}, leave the bare address here"
        )
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{key}: {url!r} is not a url; name it like http://127.0.0.1:8000/v1")
    return url.rstrip("/")
