"""How `LocalSandbox` and its processes talk: frames of a JSON head and raw bytes behind it.

Part of the fork server too (see `fork_server.py`): standard library only. A frame is the length of its head,
the head, and the blobs whose lengths the head lists. What a program wrote travels in blobs only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

LENGTH = struct.Struct(">I")
TOKEN_BYTES = 8  # of a cell, sent with it and back: an answer without it was not asked for
FILES_BYTES = 16 << 20  # of all files together that a program is given, and again of those fetched from it
FILES_COUNT = 1000


def pack(head: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """One frame."""
    text = json.dumps({**head, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([LENGTH.pack(len(text)), text, *blobs])


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """The next frame of a stream; `read(n)` gives exactly n bytes, or raises."""
    (length,) = LENGTH.unpack(read(LENGTH.size))
    head = json.loads(read(length))
    return head, [read(size) for size in head.pop("blobs")]
