"""A stranger's chat template, rendered where it can do no harm.

A template is a program: a loop without end, `10 ** 10 ** 10`, or a text that doubles itself would hold up a run or take
the machine's memory, and it may begin to do so only at a certain message. So every rendering of a template that is not
our own happens in a child process with a bound on memory, and is waited for by the clock. A message takes about 40
microseconds more that way (measured); a template's fixed parts are rendered once and kept by the caller.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import weakref
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Protocol, final

from sod.records import SodError

SECONDS = 10.0
MEMORY = 512 * 1024 * 1024
"""Bytes that the child may allocate beyond what it starts with."""
CHARACTERS = 16 * 1024 * 1024
"""The longest text of one rendering."""


class UnboundedTemplateError(SodError):
    """A template took more time, memory or room than any needs."""


class Renders(Protocol):
    """What is needed of a tokenizer."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@final
class Confined:
    """Renders with `tokenizer`'s template as it is now. The child ends with this object; threads may share it."""

    def __init__(self, tokenizer: Renders) -> None:
        self._lock = threading.Lock()
        ours, theirs = Pipe()
        child = os.fork()
        if child == 0:
            ours.close()
            _serve(tokenizer, theirs)
        theirs.close()
        self._pipe = ours
        self.end = weakref.finalize(self, _ended, os.getpid(), child, ours)

    def render(self, conversation: Any, **options: Any) -> str:
        """The text of a conversation. Raises SodError, in one line, where the template fails or exceeds the bounds."""
        with self._lock:
            try:
                self._pipe.send((conversation, options))
                if not self._pipe.poll(SECONDS):
                    self.end()
                    said = f"chat template: no end within {SECONDS:g} s; use chat.template=hermes"
                    raise UnboundedTemplateError(said)
                text, problem, bounded = self._pipe.recv()
            except (OSError, EOFError):  # the child was killed, by its own doing or before
                self.end()
                raise UnboundedTemplateError(
                    "chat template: its process was stopped; use chat.template=hermes"
                ) from None
        if problem:
            if bounded:
                raise SodError(f"chat template: {problem}")
            raise UnboundedTemplateError(f"chat template: {problem}; use chat.template=hermes")
        return str(text)


def _ended(owner: int, child: int, pipe: Connection) -> None:
    pipe.close()
    if os.getpid() != owner:
        return  # a copy of the object in another process
    with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(tokenizer: Renders, pipe: Connection) -> None:
    """The child's whole life: it answers until the other end is gone, and never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while True:
            conversation, options = pipe.recv()
            pipe.send(_rendered(tokenizer, conversation, options))
    finally:
        os._exit(0)


def _rendered(tokenizer: Renders, conversation: Any, options: dict[str, Any]) -> tuple[str, str, bool]:
    """`(text, problem, whether it kept to the bounds)`; text or problem is empty."""
    try:
        text = str(tokenizer.apply_chat_template(conversation, **options))
    except MemoryError:
        return "", f"takes more than {MEMORY >> 20} MiB", False
    except (RecursionError, OverflowError) as error:
        return "", f"exceeds what a template may do ({_one_line(error)})", False
    except Exception as error:  # Jinja lets through what Python raises inside a template
        return "", _one_line(error), True
    if len(text) > CHARACTERS:
        return "", f"writes more than {CHARACTERS:,} characters", False
    return text, "", True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
