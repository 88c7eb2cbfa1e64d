"""How fast turns are matched between two tokenizers, and how much of them: tool trajectories in each model's own words.

    python benchmarks/alignment.py STUDENT TEACHER... [--conversations 1000] [--out FILE]

Each argument is the folder of a tokenizer with its configuration. The conversations are made up (thoughts, Python calls
with escapes, accents, other scripts, numbers, answers) and rendered by each one's chat template and dialect; a family
whose template shows no tools gets them told, as in a run. Printed for each teacher: the student's action tokens matched
in a second of one core, and the shares of `sod.alignment.turns.Coverage`. Only the matching is timed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sod.alignment.pieces import pieces_of
from sod.alignment.turns import Coverage, Ledger, match_trajectory
from sod.chat.render import Chat
from sod.records import Message, ToolCall
from sod.tools.python import SCHEMA


def conversation(rng: random.Random) -> list[Message]:
    """One task with one to three calls of the tool."""
    left, right = rng.randrange(10**6), rng.randrange(2, 1000)
    messages = [Message("user", f"What is {left} times {right}, and which primes divide it? \u00bfEst\u00e1 claro?")]
    for number in range(rng.randrange(1, 4)):
        thought = (
            f"The product of {left} and {right} is about {left * right // 1000} thousand. I should not guess: step "
            f"{number} runs it \u2014 na\u00efvely, but it is right \U0001f642 \u4eca\u65e5.\n\n- multiply\n- factor"
        )
        code = (
            f'def factors(n):\n    """The primes of n."""\n    found, p = [], 2\n    while n > 1:\n'
            f"        while n % p == 0:\n            found.append(p)\n            n //= p\n        p += 1\n"
            f'    return found\n\nvalue = {left} * {right}\nprint(value, factors(value)[:{number + 3}], "done\\n")'
        )
        said = "" if number else "Let me compute that."
        messages.append(Message("assistant", said, (ToolCall("python", {"code": code}),), reasoning=thought))
        messages.append(Message("tool", f"{left * right} [2, 3, 5] done"))
    answer = f"It is **{left * right}**: $\\frac{{{left * right}}}{{{right}}} = {left}$.\n\n\\boxed{{{left * right}}}"
    return [*messages, Message("assistant", answer, reasoning="The tool's output is the product, and its primes.")]


def chat_of(folder: Path) -> tuple[Chat, Any]:
    """The chat of a tokenizer's folder, in a template that shows tools."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Chat(tokenizer, [SCHEMA]), pieces_of(tokenizer)


def ledgers(folder: Path, conversations: Sequence[Sequence[Message]]) -> list[Ledger]:
    """The conversations as this model reads them."""
    chat, pieces = chat_of(folder)
    return [Ledger(chat, pieces, *chat.encode_conversation(messages)) for messages in conversations]


def measured(student: Sequence[Ledger], teacher: Sequence[Ledger]) -> dict[str, float]:
    """Speed on one core, in the student's action tokens, and coverage."""
    coverage, spans, single = Coverage(), 0, 0
    started = time.process_time()
    for own, theirs in zip(student, teacher, strict=True):
        for turn in match_trajectory(own, theirs):
            coverage += turn.coverage
            spans += len(turn.spans)
            single += int(turn.spans.one_to_one.sum())
    seconds = time.process_time() - started
    return {
        "action_tokens": coverage.tokens,
        "tokens_per_second": round(coverage.tokens / seconds),
        "content_matched": round(coverage.share, 4),
        "one_to_one_of_spans": round(single / max(spans, 1), 4),
        "control": round(coverage.control / coverage.tokens, 4),
        "syntax": round(coverage.syntax / coverage.tokens, 4),
        "straddling": round(coverage.straddling / coverage.tokens, 4),
        "unmatched": round(coverage.unmatched / coverage.tokens, 4),
    }


def main() -> None:
    """Measure the pairs and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path, nargs="+")
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = random.Random(0)
    conversations = [conversation(rng) for _ in range(options.conversations)]
    student = ledgers(options.student, conversations)
    found = {}
    for folder in options.teacher:
        found[str(folder)] = measured(student, ledgers(folder, conversations))
        print(folder, json.dumps(found[str(folder)]))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
