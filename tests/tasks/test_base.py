"""The order in which a run draws its tasks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sod.records import Message, Task
from sod.tasks.base import draw, draw_tasks


@settings(max_examples=80, deadline=None)
@given(count=st.integers(1, 30), total=st.integers(1, 20), seed=st.integers(0, 5), epochs=st.integers(1, 4))
def test_every_epoch_is_a_permutation(count: int, total: int, seed: int, epochs: int) -> None:
    """Steps laid end to end and cut every `total` items: each piece has every item once."""
    steps = -(-epochs * total // count)
    stream = [i for step in range(1, steps + 1) for i in draw(count, total, seed, step)]
    assert len(stream) == steps * count
    for epoch in range(epochs):
        assert sorted(stream[epoch * total : (epoch + 1) * total]) == list(range(total))


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 9), total=st.integers(1, 9), seed=st.integers(0, 5), step=st.integers(1, 500))
def test_draw_is_a_pure_function(count: int, total: int, seed: int, step: int) -> None:
    """Asked out of order or twice, the answer is the same: a resumed run goes on where it was."""
    first = draw(count, total, seed, step)
    draw(count, total, seed + 1, step + 1)
    assert draw(count, total, seed, step) == first
    assert len(first) == count


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(draw(50, 50, seed, step)) for seed in (0, 1) for step in (1, 2, 3)]
    assert len(set(orders)) == 6


def test_draw_tasks_follows_draw() -> None:
    tasks = [Task(str(n), (Message("user", "x"),), "") for n in range(7)]
    assert [t.id for t in draw_tasks(tasks, 5, 3, 4)] == [str(i) for i in draw(5, 7, 3, 4)]
