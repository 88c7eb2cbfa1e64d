"""How fast turns are matched between two tokenizers, and how much of them: tool trajectories in each model's own words.

    python benchmarks/alignment.py STUDENT TEACHER... [--rows FILE...] [--conversations 1000] [--out FILE]

STUDENT and TEACHER are folders of tokenizers with their configurations. The conversations are those of the files, as
many of each, spread evenly; without files they are made up (thoughts, Python calls with escapes, accents, other
scripts, numbers, answers). Each model renders them by its own chat template and dialect; one whose template shows no
tools gets them told, or reads ours. Only the matching is timed, by the time of the processor: `per_core` are the
student's action tokens matched in a second of one core, `two_processes` those of two processes at the same time.
`coverage` and what is left out are as in `sod.alignment.turns.Coverage`; `strict` is the share of action tokens outside
of control tokens and call syntax that are one of the teacher's, and the same one: all that `strict_topk` looks at.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sod.alignment.turns import Coverage, Ledger, MatchedTurn, match_trajectories
from sod.alignment.vocabularies import shared_tokens
from sod.build.alignment import Pair, Reader, spread
from sod.build.alignment_rows import rows_of
from sod.build.data import make_chat
from sod.build.job import long_lived_set_apart
from sod.build.translation import fast_tokenizer, named_pieces
from sod.recipe import Recipe, parse_recipe
from sod.records import Message, SodError, ToolCall
from sod.tasks.base import Conversation
from sod.tools.python import SCHEMA

PROCESSES = 2
AT_A_TIME = 64  # conversations, as a step has them
Ledgers = Sequence[tuple[Ledger, Ledger]]
"""Each conversation as the student and as the teacher reads it."""


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


def made_up(count: int) -> list[Conversation]:
    """So many conversations of nobody."""
    rng = random.Random(0)
    return [Conversation(f"made-up-{number}", tuple(conversation(rng)), (SCHEMA,)) for number in range(count)]


def of_files(files: Sequence[Path], count: int, recipe: Recipe) -> list[Conversation]:
    """As many of each file, spread evenly over it."""
    found: list[Conversation] = []
    for number, file in enumerate(files):
        read = rows_of(str(file), recipe, [SCHEMA]).numbered
        found += [row for _, row in spread(read, (count - len(found)) // (len(files) - number))]
    return found


def reader(recipe: Recipe, folder: Path) -> Reader:
    """A model as it reads conversations: in its own template, told the tools or in ours where that hides them."""
    tokenizer = fast_tokenizer(str(folder))
    return Reader(str(folder), make_chat(recipe, tokenizer, print), named_pieces(tokenizer, str(folder)))


def both(pair: Pair, conversations: Sequence[Conversation]) -> Ledgers:
    """The conversations that both models can write."""
    found = []
    for one in conversations:
        try:
            found.append((pair.student.ledger(one), pair.teacher.ledger(one)))
        except (ValueError, SodError) as error:
            print(f"{one.id} is left out: {error}")
    return found


def matched(ledgers: Ledgers) -> tuple[list[list[MatchedTurn]], float]:
    """The turns of each, as many conversations at a time as a step has; and seconds of the processor."""
    started = time.process_time()
    found: list[list[MatchedTurn]] = []
    for first in range(0, len(ledgers), AT_A_TIME):
        found += match_trajectories(ledgers[first : first + AT_A_TIME])
    return found, time.process_time() - started


def speed(ledgers: Ledgers) -> float:
    """Action tokens in a second of the processor."""
    found, seconds = matched(ledgers)
    return sum(turn.coverage.tokens for turns in found for turn in turns) / seconds


def together(ledgers: Ledgers) -> float:
    """The action tokens that two processes match in a second, by the time of the processor, half of them each.

    Both match theirs once before: of what a fork shares each page is copied by the first that touches it, which takes
    as long as a third of the matching, and which no run does, as its processes read their own episodes.
    """
    halves = [ledgers[number::PROCESSES] for number in range(PROCESSES)]
    context = multiprocessing.get_context("fork")  # the ledgers are there, and are not sent
    results: Any = context.SimpleQueue()
    start = context.Barrier(PROCESSES)

    def work(half: Ledgers) -> None:
        speed(half)
        start.wait()
        results.put(speed(half))

    workers = [context.Process(target=work, args=(half,)) for half in halves]
    for worker in workers:
        worker.start()
    speeds = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return float(sum(speeds))


def one_token_each(ledgers: Ledgers, found: Sequence[Sequence[MatchedTurn]]) -> int:
    """How many action tokens are one token of the teacher's, namely the same."""
    if not ledgers:
        return 0
    shared = shared_tokens(ledgers[0][0].pieces, ledgers[0][1].pieces)
    partners = dict(zip(shared.student.tolist(), shared.teacher.tolist(), strict=True))
    count = 0
    for (own, theirs), turns in zip(ledgers, found, strict=True):
        actions = [id for id, turn in zip(own.token_ids, own.turn_ids, strict=True) if turn]
        for turn in turns:
            spans = turn.spans.kept(turn.spans.one_to_one)
            pairs = zip(spans.student_start.tolist(), spans.teacher_start.tolist(), strict=True)
            count += sum(partners.get(actions[at]) == theirs.token_ids[other] for at, other in pairs)
    return count


def measured(ledgers: Ledgers) -> dict[str, float]:
    """Speed on one core and on two, in the student's action tokens, and what is matched."""
    with long_lived_set_apart():  # as in a run
        found, seconds = matched(ledgers)
        two_at_once = round(together(ledgers))
    turns = [turn for trajectory in found for turn in trajectory]
    coverage, spans = sum((turn.coverage for turn in turns), Coverage()), sum(len(turn.spans) for turn in turns)
    single, tokens = sum(int(turn.spans.one_to_one.sum()) for turn in turns), coverage.tokens
    return {
        "conversations": len(ledgers),
        "turns": len(turns),
        "action_tokens": tokens,
        "per_core": round(tokens / seconds),
        "two_processes": two_at_once,
        "coverage": round(coverage.share, 4),
        "strict": round(one_token_each(ledgers, found) / (tokens - coverage.control - coverage.syntax), 4),
        "one_to_one_of_spans": round(single / max(spans, 1), 4),
        "control": round(coverage.control / tokens, 4),
        "syntax": round(coverage.syntax / tokens, 4),
        "straddling": round(coverage.straddling / tokens, 4),
        "unmatched": round(coverage.unmatched / tokens, 4),
    }


def main() -> None:
    """Measure the pairs and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path, nargs="+")
    parser.add_argument("--rows", type=Path, nargs="+", default=())
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe = parse_recipe({"student": {"path": str(options.student)}}, "the benchmark")
    rows = of_files(options.rows, options.conversations, recipe) if options.rows else made_up(options.conversations)
    found = {}
    for folder in options.teacher:
        pair = Pair(reader(recipe, options.student), reader(recipe, folder))
        found[folder.name] = measured(both(pair, rows))
        print(folder.name, json.dumps(found[folder.name]), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
