"""A tool and a reward of one's own: boxes that lie in boxes, and who finds out by SQL which box is where.

    python boxes_world.py     # once: a database, data, and a small student that knows the form of a call
    python boxes.py     # trains it with the two functions below

What follows on the command line are keys of the recipe: `python boxes.py train.steps=5`.
"""

import sqlite3
import sys

import sod

boxes = sqlite3.connect("file:data/boxes.db?mode=ro", uri=True, check_same_thread=False)


def sql(query: str) -> str:
    """Ask the table box(id, inside).

    Args:
        query: one SELECT statement
    """
    return " ".join(str(row[0]) for row in boxes.execute(query))


def score(episode: sod.Episode) -> float:
    """1 for an episode whose last words are the right box, else 0."""
    turns = episode.trajectory.turns
    return float(bool(turns) and turns[-1].said.answer.strip() == episode.task.ground_truth)


if __name__ == "__main__":
    before = sod.evaluate("runs/start", "data/test.jsonl", recipe="recipe.yaml", tools=[sql], reward=score)
    run = sod.train("recipe.yaml", sys.argv[1:], tools=[sql], reward=score, run="runs/boxes")
    after = sod.evaluate(run, "data/test.jsonl", tools=[sql], reward=score)
    print(f"right: {before.estimates['avg_at_k'].value:.3f} before, {after.estimates['avg_at_k'].value:.3f} after")
