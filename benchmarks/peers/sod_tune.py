"""Makes the model of `multi_turn.py`: one that calls `read_page` three times and then answers. Our own SFT.

    python sod_tune.py MODEL TEMPLATE.jinja DIRECTORY

The chat template is one whose tool calls TRL knows how to parse. Writes the model with `benchmark.json` (the tool's
text, the mean loss of the last steps, seconds) beside it; refuses when that loss is above `ENOUGH`.
"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()

import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from read_page import PAGES, READ_PAGE, WORDS, documents, question

from sod.chat.render import Chat
from sod.models.load import load_model, load_tokenizer, save_model
from sod.recipe import OptimSpec
from sod.records import Message, SodError, ToolCall
from sod.training.optim import Optimizer
from sod.training.sft import Example, sft_step

PAGE_TOKENS = 64
BATCH, STEPS, LAST = 4, 30, 5
ENOUGH = 0.01  # nats per token at temperature 1


def conversation(document: str, page: str) -> list[Message]:
    """A whole episode as it should go."""
    messages = [Message("user", question(document))]
    for number in range(1, PAGES + 1):
        call = ToolCall("read_page", {"document": document, "page": number})
        messages += [Message("assistant", "", (call,)), Message("tool", page, name="read_page")]
    answer = f"I have read all three pages of the document {document}, from its beginning to its end. "
    return [*messages, Message("assistant", answer + "There is no fourth page, so this is all that it says.")]


def page_text(tokenizer: Any) -> str:
    """Words, `PAGE_TOKENS` tokens of them."""
    rng, text = random.Random(0), "The"
    while (length := len(tokenizer.encode(text))) < PAGE_TOKENS:
        text += f" {rng.choice(WORDS.split())}"
        if len(tokenizer.encode(text)) > PAGE_TOKENS:
            text = text.rpartition(" ")[0]
    assert length == PAGE_TOKENS
    return text


def tune(model: Any, examples: Sequence[Example]) -> float:
    """The mean loss of the last steps. Raises SodError when that is not enough."""
    spec = OptimSpec(lr=2e-4, warmup_steps=3, schedule="cosine", micro_batch_tokens=4096)
    optimizer = Optimizer(model, spec, STEPS)
    losses = []
    for step in range(1, STEPS + 1):
        metrics = sft_step(model, optimizer, examples, BATCH, spec, seed=0, step=step).metrics
        losses.append(metrics["loss"])
        print(f"step {step}: loss {metrics['loss']:.4f}, {metrics['seconds']:.1f} s", file=sys.stderr, flush=True)
    loss = sum(losses[-LAST:]) / LAST
    if loss > ENOUGH:
        raise SodError(f"the loss is still {loss:.4f} nats/token after {STEPS} steps")
    return loss


def main() -> None:
    source, template, target = sys.argv[1:]
    began = time.monotonic()
    tokenizer = load_tokenizer(source)
    tokenizer.chat_template = Path(template).read_text()
    chat = Chat(tokenizer, [READ_PAGE], "tokenizer")
    page = page_text(tokenizer)
    model = load_model(source, "bfloat16")
    conversations = [conversation(name, page) for name in documents(BATCH * STEPS, seed=1)]
    examples = [Example(*chat.encode_conversation(messages)) for messages in conversations]
    loss = tune(model, examples)
    save_model(model, tokenizer, None, chat.end_id, Path(target))
    made = {"page": page, "steps": STEPS, "loss": loss, "seconds": round(time.monotonic() - began)}
    (Path(target) / "benchmark.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main()
