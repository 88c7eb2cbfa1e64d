"""What `corridor.py` needs: a student made from nothing that has seen a clumsy expert walk to the door.

The expert often goes one step too far or too short, and then mends it. What follows on the command line are keys of the
recipe: `python corridor_world.py sft.steps=100`.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from corridor import WALK, Corridor

import sod
from sod.records import ToolCall

DATA = Path("data")
CLUMSY = 0.7
"""How often the expert walks one step too far or too short."""


def trace(way: Any, rng: random.Random) -> list[dict[str, Any]]:
    """An expert's conversation, played in the corridor itself."""
    corridor = Corridor()
    observation, _ = corridor.reset(sod.Task(way["id"], (), "", extra=way), seed=0)
    messages: list[dict[str, Any]] = [{"role": "user", "content": observation}]
    there = False
    while not there:
        way_left = corridor.door - corridor.at
        steps = abs(way_left) + (rng.choice((-1, 1)) if rng.random() < CLUMSY else 0)
        call = ToolCall("walk", {"direction": "right" if way_left > 0 else "left", "steps": steps})
        results, _, there = corridor.step((call,))
        shown = {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [shown]})
        messages.append({"role": "tool", "name": call.name, "content": str(results[0])})
    return [*messages, {"role": "assistant", "content": "There."}]


def write_data() -> None:
    """`sft.jsonl`: traces of the ways that are trained on."""
    DATA.mkdir()
    rng = random.Random(1)
    tools = [{"type": "function", "function": WALK}]
    rows = [{"messages": trace(way, rng), "tools": tools} for way in Corridor().tasks("train") for _ in range(2)]
    rng.shuffle(rows)
    (DATA / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_student() -> None:
    """A tokenizer learned from the traces, and a model of random weights: `runs/blank`."""
    from sod.chat.render import Chat
    from sod.models.load import save_model
    from sod.models.scratch import new_qwen3, train_tokenizer
    from sod.tasks.files import load_conversations

    tools = [{"type": "function", "function": WALK}]
    empty = Chat(train_tokenizer([], 300), tools, template="hermes")
    traces = load_conversations(str(DATA / "sft.jsonl")).items
    texts = [empty.conversation_text(each.messages) for each in traces]
    chat = Chat(train_tokenizer(texts, 400), tools, template="hermes")
    model = new_qwen3(chat.tokenizer, layers=2, hidden=64, heads=2, ffn=128, context=512, seed=0)
    save_model(model, chat.tokenizer, chat.template, chat.end_id, Path("runs/blank"))


if __name__ == "__main__":
    write_data()
    write_student()
    sod.sft("recipe.yaml", ["student.path=runs/blank", *sys.argv[1:]], environment=Corridor, run="runs/start")
