"""`docs/models.md`: which families' templates work, how, and why not; the table is found out, not written.

PYTHONPATH=src:tests:tests/chat python tests/chat/test_models_page.py [FOLDER] > docs/models.md

With a FOLDER of `NAME.jinja` files the survey of public templates in `docs/results/` is made anew as well.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from family_templates import FAMILIES
from toy_tokenizer import tokenizer_for

from sod.chat.render import Chat
from sod.records import Message, SodError, ToolCall
from sod.tools.python import SCHEMA

DOCS = Path(__file__).parents[2] / "docs"
PAGE, SURVEY = DOCS / "models.md", DOCS / "results" / "2026-11-27-chat-templates.json"
CALL = ToolCall("python", {"code": "print(1)"})
TALK = [Message("user", "U"), Message("assistant", "", (CALL,)), Message("tool", "1"), Message("assistant", "A")]
MORE = [Message("user", "U"), Message("assistant", "A"), Message("user", "V"), Message("assistant", "B")]
TWO = [TALK[0], Message("assistant", "", (CALL, CALL)), TALK[2], TALK[2], TALK[3]]
Row = Mapping[str, str]

HEAD = """# Models

Which chat templates work with tools, and how. A run asks this of the student's own tokenizer as it starts: the prompt
must show the tools, a known dialect must read the calls that the template writes, and what was rendered must never
change by what follows. `sod chat MODEL` shows the outcome for any model, token by token.

`chat.template=auto` takes the first that works, and says which and why:

- **own**: the tokenizer's own template, with the dialect named;
- **told**: the tokenizer's own template where it knows no tools (and the tokenizer has not ChatML's tokens): the first
  user message tells of the tools, calls are fenced JSON, results come in user messages;
- **hermes**: our template, in ChatML or in the tokenizer's own marks.

`chat.template=tokenizer`, `told` and `hermes` ask for one of them; what cannot work is refused with a way that does.
`chat.dialect` names a dialect where the words of a template do not tell it. *Two calls* are calls side by side in one
turn, *second question* is a user message after an answer, as in multi-turn SFT rows; rows that need what a template
lacks are skipped by number with the reason. Two assistant messages in a row are no turns of a rollout and are skipped.
"""


def row_of(name: str, tokenizer: Any) -> Row:
    """What `chat.template=auto` makes of a tokenizer, and why its own template was not taken."""
    try:
        chat = Chat(tokenizer, [SCHEMA])
        chat.encode_conversation(TALK)
    except (SodError, ValueError) as error:
        return {"name": name, "template": "refused", "why": str(error)}
    template = "own" if chat.own_template else "told" if "told" in chat.why.partition(", as ")[0] else "hermes"
    why = "" if chat.own_template else chat.why.partition(" does not do (")[2].removesuffix(")")
    return {
        "name": name,
        "template": template,
        "dialect": chat.dialect.name,
        "two calls": works(chat, TWO),
        "second question": works(chat, MORE),
        "why": why,
    }


def works(chat: Chat, messages: Sequence[Message]) -> str:
    try:
        chat.encode_conversation(messages)
    except ValueError:
        return "no"
    return "yes"


def surveyed(folder: Path) -> list[Row]:
    """A row for each template in a folder, with a small tokenizer that has its control tokens."""
    files = sorted(folder.glob("*.jinja"))
    return [row_of(file.stem, tokenizer_for(file.read_text(encoding="utf-8"))) for file in files]


def table(rows: Sequence[Row]) -> list[str]:
    columns = ("name", "template", "dialect", "two calls", "second question", "why")
    cells = [" | ".join(row.get(column, "").replace("|", "\\|") for column in columns) for row in rows]
    titles = " | ".join(["template", "taken", "dialect", "two calls", "second question", "why not its own"])
    return [f"| {titles} |", "|" + "---|" * len(columns), *(f"| {line} |" for line in cells)]


def page(survey: Sequence[Row]) -> str:
    families = [row_of(name, tokenizer_for(family.template)) for name, family in FAMILIES.items()]
    counts = Counter(row["template"] for row in survey)
    said = ", ".join(f"{counts[kind]} {kind}" for kind in ("own", "told", "hermes", "refused"))
    lines = [
        HEAD,
        "## Families",
        "",
        "Small templates of ours, each laid out in the manner of a family; `tests/chat/test_templates.py` tries each",
        "through episodes and examples.",
        "",
        *table(families),
        "",
        "## Public templates",
        "",
        f"{len(survey)} chat templates out of public packages and repositories, on 2026-11-27, each with a small",
        f"tokenizer that has its control tokens: {said}. A name tells whose copy it is.",
        "",
        *table(survey),
        "",
        "Made by `python tests/chat/test_models_page.py > docs/models.md`; with a folder of templates as in",
        "`python tests/chat/test_models_page.py FOLDER > docs/models.md` the survey is made anew.",
    ]
    return "\n".join(lines) + "\n"


def recorded() -> list[Row]:
    rows: list[Row] = json.loads(SURVEY.read_text(encoding="utf-8"))
    return rows


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(recorded()), "make it again, see the head of this file"


def test_a_folder_of_templates_is_surveyed(tmp_path: Path) -> None:
    """Every outcome: own, told, hermes; and the survey on record has all those that it counts."""
    told = FAMILIES["Gemma 3"].template
    for name, template in (
        ("a", FAMILIES["Llama 3"].template),
        ("b", told),
        ("c", told.replace("<start_of_turn>", "<|im_start|>").replace("<end_of_turn>", "<|im_end|>")),
    ):
        (tmp_path / f"{name}.jinja").write_text(template, encoding="utf-8")
    rows = surveyed(tmp_path)
    assert [(row["name"], row["template"], row["dialect"]) for row in rows] == [
        ("a", "own", "llama3-json"),
        ("b", "told", "gemma3"),
        ("c", "hermes", "hermes"),
    ]
    assert [row["why"] for row in rows] == ["", *["it does not show the tools to the model"] * 2]
    assert row_of("none", tokenizer_for("{{ messages }}"))["template"] == "hermes"
    assert sum(row["template"] == "own" for row in recorded()) >= 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "template", "dialect"),
    [
        ("qwen2_5", "own", "hermes"),
        ("qwen3", "own", "hermes"),
        ("llama3_1", "told", "gemma3"),
        ("gemma3", "told", "gemma3"),
        ("deepseek_v3", "told", "gemma3"),
    ],
)
def test_real_tokenizers_from_npm(family: str, template: str, dialect: str) -> None:
    """The whole tokenizer of a family, not one of ours: what is taken is what the page says of such templates."""
    from test_real_tokenizers import tokenizer_of

    row = row_of(family, tokenizer_of(family))
    assert (row["template"], row["dialect"]) == (template, dialect)
    assert row["second question"] == "yes"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        rows = surveyed(Path(sys.argv[1]))
        SURVEY.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(page(recorded()))
