"""What all environments of a process have in common (an index, a catalogue of goods): made once, whoever asks first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

_made: dict[Hashable, Any] = {}
_making = threading.RLock()


def stamped(source: str) -> tuple[str, int, int]:
    """The name of a file with its time and size, for a key: what changed is made anew. Zeros for what is no file."""
    try:
        found = Path(source).expanduser().stat()
    except OSError:
        return source, 0, 0
    return source, found.st_mtime_ns, found.st_size


def shared(key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` gave for a key, which has to decide it whole. What it raises is raised to everyone who asks."""
    with _making:  # many environments are made side by side, and all of them want the same thing
        if key not in _made:
            _made[key] = make()
        return _made[key]
