"""What `boxes.py` needs: a database of boxes, questions about them, and a student that has seen some answers.

Every box lies in another one. "Which box is 2 out from 17?" takes two queries, the second about what the first found.
The student is made from nothing and fine-tuned on the traces of an expert who often stops too early, so that there is
something to learn. What follows on the command line are keys of the recipe: `python boxes_world.py sft.steps=100`.
"""

import json
import random
import sqlite3
import sys
from pathlib import Path
from typing import Any

import sod

DATA = Path("data")
IDS = range(10, 100)
FARTHEST = 3
CARELESS = 0.5
"""How often the expert stops one box too early, where there is more than one to go."""


def boxes_inside() -> dict[int, int]:
    """The box that each box lies in."""
    rng = random.Random(1)
    return {box: rng.choice([other for other in IDS if other != box]) for box in IDS}


def trail(inside: dict[int, int], box: int, out: int) -> list[int]:
    """The boxes around a box, from the inside."""
    found = []
    for _ in range(out):
        box = inside[box]
        found.append(box)
    return found


def question(box: int, out: int) -> str:
    """What the student is asked."""
    return f"Which box is {out} out from {box}?"


def trace(inside: dict[int, int], box: int, out: int, stop: int) -> list[dict[str, Any]]:
    """An expert's conversation, with a query for each of `stop` boxes and the last one as its answer."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question(box, out)}]
    for found in trail(inside, box, stop):
        call = {"name": "sql", "arguments": {"query": f"select inside from box where id={box}"}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]})
        messages.append({"role": "tool", "name": "sql", "content": str(found)})
        box = found
    return [*messages, {"role": "assistant", "content": str(box)}]


def write_data() -> None:
    """`boxes.db`, `sft.jsonl`, `train.jsonl` and `test.jsonl`; no question stands in two of them."""
    DATA.mkdir()
    inside = boxes_inside()
    with sqlite3.connect(DATA / "boxes.db") as database:
        database.execute("create table box (id integer primary key, inside integer)")
        database.executemany("insert into box values (?, ?)", inside.items())
    rng = random.Random(2)
    asked = [(box, out) for box in IDS for out in range(1, FARTHEST + 1)]
    rng.shuffle(asked)
    traces = []
    for box, out in asked[:120] * 4:
        early = out > 1 and rng.random() < CARELESS
        traces.append({"messages": trace(inside, box, out, out - 1 if early else out)})
    write_rows("sft", traces)
    rows = [{"prompt": question(box, out), "ground_truth": str(trail(inside, box, out)[-1])} for box, out in asked]
    write_rows("train", rows[120:220])
    write_rows("test", rows[220:])


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    """A JSON line a row."""
    (DATA / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_student(sql: Any) -> None:
    """A tokenizer learned from the traces, and a model of random weights: `runs/blank`."""
    from sod.chat.render import Chat
    from sod.models.load import save_model
    from sod.models.scratch import new_qwen3, train_tokenizer
    from sod.tasks.files import load_conversations
    from sod.tools.signature import signature_of

    tools = [signature_of(sql, "sql", "sql").schema]
    empty = Chat(train_tokenizer([], 300), tools, template="hermes")
    traces = load_conversations(str(DATA / "sft.jsonl")).items
    texts = [empty.conversation_text(each.messages) for each in traces]
    chat = Chat(train_tokenizer(texts, 420), tools, template="hermes")
    model = new_qwen3(chat.tokenizer, layers=2, hidden=64, heads=2, ffn=128, context=512, seed=0)
    save_model(model, chat.tokenizer, chat.template, chat.end_id, Path("runs/blank"))


if __name__ == "__main__":
    write_data()
    from boxes import sql  # which opens the database

    write_student(sql)
    sod.sft("recipe.yaml", ["student.path=runs/blank", *sys.argv[1:]], tools=[sql], run="runs/start")
