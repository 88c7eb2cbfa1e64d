"""A template without end, or without bounds, ends in one line, whichever message sets it off and in any thread."""

from __future__ import annotations

import copy
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.chat import confined
from sod.chat.confined import Confined
from sod.chat.ours import hermes_template
from sod.chat.render import Chat
from sod.records import Message, SodError
from sod.tools.python import SCHEMA
from support import descendants

LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
BOMBS = {
    "nested loops": LOOP,
    "recursion": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "a huge text": "{{ 'x' * 10 ** 10 }}",
    "a huge number": "{{ 10 ** (10 ** 10) }}",
    "a wide format": "{{ '%9999999999d' % 1 }}",
    "a long range": "{% for a in range(10 ** 9) %}{% endfor %}",
    "doubling": "{% set n = namespace(x='xx') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "much text": "{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
    "a wide indent": "{{ {'a': [1]} | tojson(indent=9999999999) }}",
}


@pytest.fixture
def templated(tokenizer: Any) -> Callable[[str], Any]:
    """A tokenizer with a template of its own."""

    def make(template: str) -> Any:
        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        return own

    return make


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second suffices to see that a template does not end."""
    monkeypatch.setattr(confined, "SECONDS", 1.0)


def refused(make: Callable[[], Any]) -> str:
    """The one line it ends in, with the fix."""
    with pytest.raises(SodError) as caught:
        make()
    said = str(caught.value)
    assert said.startswith("chat template: ")
    assert said.endswith("use chat.template=hermes")
    assert "\n" not in said
    return said


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("wanted", ["auto", "tokenizer"])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_template_without_bounds_is_one_line(kind: str, wanted: Any, templated: Callable[[str], Any]) -> None:
    """As the run starts, without taking the memory of this process."""
    template = hermes_template() + BOMBS[kind]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: Chat(templated(template), [SCHEMA], wanted))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@pytest.mark.usefixtures("short")
def test_what_a_message_sets_off_is_one_line_too(templated: Callable[[str], Any]) -> None:
    """In a thread that is not the main one, after the template has passed every check at the start."""
    trigger = "{% if messages[0].content == 'now' %}" + LOOP + "{% endif %}"
    chat = Chat(templated(trigger + hermes_template()), [SCHEMA], "tokenizer")
    assert chat.template is None
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(refused(lambda: chat.prompt_ids([Message("user", "now")]))))
    thread.start()
    thread.join()
    assert "no end within 1 s" in seen[0]
    refused(lambda: chat.prompt_ids([Message("user", "later")]))


def test_it_renders_what_the_tokenizer_renders(templated: Callable[[str], Any]) -> None:
    """The child changes nothing."""
    own = templated("{# mine #}" + hermes_template())
    chat = Chat(own, [SCHEMA], "auto", {"enable_thinking": False})
    assert chat.template is None
    messages = [Message("system", "é"), Message("user", "1 + 1?")]
    rows = [{"role": m.role, "content": m.content} for m in messages]
    text = own.apply_chat_template(rows, tools=[SCHEMA], add_generation_prompt=True, tokenize=False)
    assert chat.prompt_ids(messages) == own.encode(text, add_special_tokens=False)


def test_our_own_template_needs_no_child(templated: Callable[[str], Any]) -> None:
    """Also where a checkpoint brings it along."""
    before = descendants(os.getpid())
    Chat(templated(hermes_template()), [SCHEMA], "auto")
    assert descendants(os.getpid()) == before


def test_the_child_ends_with_the_object(templated: Callable[[str], Any]) -> None:
    before = set(descendants(os.getpid()))
    own = Confined(templated("x"))
    (child,) = set(descendants(os.getpid())) - before
    assert own.render([{"role": "user", "content": "hi"}], tokenize=False) == "x"
    del own
    assert not Path(f"/proc/{child}").exists()
