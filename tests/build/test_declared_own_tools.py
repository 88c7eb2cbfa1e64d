"""Tools of the user's own in a recipe: where they are found, and what is refused before a model is loaded."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from own_tools import SERVER

from sod.build.data import make_chat
from sod.build.tools import stateful_tools, tool_schemas
from sod.recipe import Recipe, load_recipe
from sod.records import SodError

SOURCE = '''\
class Kept:
    """Kept."""

    def __call__(self, text: str) -> str:
        """
        Say it again.

        Args:
            text: What.
        """
        return text


def echo(text: str) -> str:
    """
    Say it again.

    Args:
        text: What.
    """
    return text


def either(text: str | int) -> str:
    """
    Say it again.

    Args:
        text: What.
    """
    return str(text)


def unhinted(text):
    """Say it again."""
    return text
'''
TYPED = (
    "{% for t in tools or [] %}{{ t.function.name }}{% for name, one in t.function.parameters.properties.items() %}"
    "{{ ' ' + name + ': ' + one.type + '\n' }}{% endfor %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
"""A template that writes the type of a parameter as one word, as many do."""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`recipe(tools, *overrides)`: read from a file that lies beside the tools, from another working directory."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "declared.py").write_text(SOURCE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def read(tools: dict[str, Any], *overrides: str) -> Recipe:
        content = {"student": {"path": "s"}, "tools": {"python": None, **tools}}
        (tmp_path / "project" / "own.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_recipe(tmp_path / "project" / "own.yaml", overrides)

    return read


def names(made: Recipe) -> list[str]:
    return [schema["function"]["name"] for schema in tool_schemas(made)]


def test_a_file_is_found_from_the_recipe_and_in_an_override_from_here(recipe: Any, tmp_path: Path) -> None:
    made = recipe({"b": {"call": "./declared.py:echo"}}, "tools.a.call=../project/declared.py:Kept")
    assert names(made) == ["b", "a"]
    assert stateful_tools(made) == ["a"]
    for name, spec in made.tools.own.items():
        assert spec.call == f"{tmp_path}/project/declared.py:{'Kept' if name == 'a' else 'echo'}"


def test_a_tool_that_is_null_is_left_out(recipe: Any) -> None:
    assert names(recipe({"b": {"call": "./declared.py:echo"}}, "tools.b=null")) == []


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({"b": {"call": "./absent.py:echo"}}, "tools.b.call='{project}/absent.py:echo': there is no file"),
        ({"b": {"call": "./declared.py:ecko"}}, "declared.py has no 'ecko'; did you mean 'echo'?"),
        (
            {"b": {"call": "absent_module:echo"}},
            "tools.b.call='absent_module:echo': there is no module 'absent_module'",
        ),
        ({"b": {"call": "./declared.py:unhinted"}}, "its parameter text has no type hint"),
        (
            {"python": {"name": "b"}, "b": {"call": "./declared.py:echo"}},
            "tools.python and tools.b are both called 'b' by the model; name one of them otherwise",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(recipe: Any, tmp_path: Path, tools: Any, said: str) -> None:
    with pytest.raises(SodError) as caught:
        tool_schemas(recipe(tools))
    assert said.format(project=tmp_path / "project") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_tool_of_a_server_and_a_function_of_one_name_are_refused(recipe: Any) -> None:
    pytest.importorskip("mcp")
    server = [sys.executable, SERVER, "."]
    with pytest.raises(SodError, match=r"tools\.read and tools\.shelf are both called 'read' by the model"):
        tool_schemas(recipe({"read": {"call": "./declared.py:echo"}, "shelf": {"mcp": server}}))


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({"b": {}}, "tools.b: give call (module:name or ./file.py:name) or mcp"),
        ({"b": {"call": "m:f", "mcp": ["x"]}}, "tools.b: give call (module:name or ./file.py:name) or mcp"),
        ({"b": {"mcp": []}}, "tools.b: mcp is empty"),
        ({"b": {"call": "m:f", "offer": ["x"]}}, "tools.b: offer and variables are about an MCP server"),
        ({"b": {"cal": "m:f"}}, "unknown key tools.b.cal (value 'm:f'); did you mean tools.b.call?"),
        ({"pyton": {"timeout_seconds": 3}}, "; did you mean tools.python?"),
        ({"b c": {"call": "m:f"}}, "tools.b c: a tool's name is a letter, then at most 63 letters, digits, _ and -"),
    ],
)
def test_what_is_no_section_of_a_tool_is_refused(recipe: Any, tools: Any, said: str) -> None:
    with pytest.raises(SodError) as caught:
        recipe(tools)
    assert said in str(caught.value)


@pytest.mark.parametrize("wanted", ["auto", "tokenizer"])
def test_a_schema_that_the_template_cannot_show_is_refused_by_name(recipe: Any, tokenizer: Any, wanted: str) -> None:
    own = copy.deepcopy(tokenizer)
    own.chat_template = TYPED
    plain = {"good": {"call": "./declared.py:echo"}}
    assert make_chat(recipe(plain, f"chat.template={wanted}"), own, lambda text: None).own_template
    made = recipe({**plain, "bad": {"call": "./declared.py:either"}}, f"chat.template={wanted}")
    with pytest.raises(SodError, match=r"^tools\.bad: the tokenizer's chat template cannot show its schema \("):
        make_chat(made, own, lambda text: None)
