"""Who plays the blocks of an evaluation: this process, or several workers with a model each.

A worker that is lost costs its block, which another one plays once more; what fails twice stops the evaluation, and all
that was played is kept.
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryDirectory

from sod.build.evaluation import Prepared, is_served, player, unheard
from sod.build.kept import Kept
from sod.build.vocabulary import chat_of
from sod.build.workers import NUMBER, Ended, WorkerPool
from sod.evaluation.blocks import Block
from sod.evaluation.runner import ROUND, Votes
from sod.models.device import find_device
from sod.models.memory import naming_phase
from sod.recipe import Notice, Recipe
from sod.records import Group, SodError
from sod.rollout.collect import Collector

PURPOSE = "eval"
ATTEMPTS = 2
"""How often a block is given to a worker."""
Progress = Callable[[int], None]


@contextmanager
def played(kept: Kept, workers: int, notice: Notice, heard: Progress) -> Iterator[Votes]:
    """What is missing is played and written down; then, while the context lasts, what spells answers for majorities.

    `heard` hears how many tasks have all of their samples after each block. Raises SodError as `player`, and where a
    block fails in two workers.
    """
    blocks, prepared = kept.missing(), kept.prepared
    if not blocks:
        with judging(prepared, notice) as votes_of:
            yield votes_of
        return
    if min(workers, len(blocks)) > 1:
        _play_over_workers(kept, blocks, workers, heard)
        with judging(prepared, notice) as votes_of:
            yield votes_of
        return
    with player(prepared, notice) as collector:
        with naming_phase("sampling"):
            for block in blocks:
                kept.add(block, play_block(prepared, collector, block))
                heard(kept.done())
        yield collector.votes


@contextmanager
def judging(prepared: Prepared, notice: Notice) -> Iterator[Votes]:
    """What spells the answers of played episodes, without a model."""
    with ExitStack() as resources:
        yield prepared.make_reward(prepared.recipe, resources, prepared.tasks, notice).votes


def play_block(prepared: Prepared, collector: Collector, block: Block) -> list[Group]:
    """The groups of a block's tasks, with the samples of the block."""
    tasks = prepared.tasks[block.first_task : block.last_task]
    return collector.collect(
        tasks, block.samples, prepared.sampling, PURPOSE, ROUND, first_sample=block.first_sample
    ).groups


def refuse_unfit_workers(recipe: Recipe, workers: int) -> None:
    """Raises SodError where several processes cannot play for a recipe."""
    if workers > 1 and is_served(recipe):
        raise SodError(
            f"--workers {workers}: the servers at engine.urls play side by side as it is; leave it out, and raise "
            "rollout.max_rows for more at a time"
        )


def _play_over_workers(kept: Kept, blocks: Sequence[Block], workers: int, heard: Progress) -> None:
    waiting = deque((block, 1) for block in blocks)
    pool = WorkerPool(min(workers, len(blocks)))
    with TemporaryDirectory(prefix="sod-eval-") as scratch:
        told = Path(scratch) / "prepared.pickle"
        _write_prepared(told, replace(kept.prepared, recipe=_share(kept.prepared.recipe, workers)), workers)
        try:
            while waiting or pool.busy:
                while waiting and pool.idle:
                    key = waiting.popleft()
                    pool.submit(key, _play_in_worker, str(told), key[0])
                ended = pool.wait()
                block, attempt = ended.key
                if ended.error is None:
                    kept.add(block, ended.value)
                    heard(kept.done())
                elif ended.lost and attempt < ATTEMPTS:
                    waiting.append((block, attempt + 1))
                else:
                    raise SodError(_failed(ended))
        finally:
            pool.close()


def _failed(ended: Ended) -> str:
    error = str(ended.error).strip()
    if not ended.lost:
        return error
    return f"a worker was lost twice with the same tasks: {error}; the same command goes on, with fewer --workers"


def _share(recipe: Recipe, workers: int) -> Recipe:
    """The recipe for one of so many processes on this machine, by its CPU threads."""
    if recipe.threads is not None:
        return recipe
    return recipe.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // workers)})


def _write_prepared(path: Path, prepared: Prepared, workers: int) -> None:
    """Write down what workers play; they make the chat of it anew."""
    try:
        told = pickle.dumps(
            (prepared.recipe, prepared.path, prepared.tasks, prepared.theirs, prepared.make_reward),
        )
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise SodError(
            f"--workers {workers}: what Python passed in cannot be sent to other processes ({error}); name it by its "
            "import path, or leave workers out"
        ) from error
    path.write_bytes(told)


_OPENED: dict[str, tuple[Prepared, Collector]] = {}
"""What this worker plays with, by the file that says so."""


def _play_in_worker(told: str, block: Block) -> list[Group]:
    if told not in _OPENED:
        prepared, resources = _prepared_again(told), ExitStack()
        Finalize(None, resources.close, exitpriority=1)  # as the process ends, which atexit does not hear of here
        _OPENED[told] = (prepared, resources.enter_context(player(prepared, unheard)))
    return play_block(*_OPENED[told], block)


def _prepared_again(told: str) -> Prepared:
    """What is played, on this worker's CUDA device where there are some and the recipe leaves it to the machine."""
    recipe, path, tasks, theirs, make_reward = pickle.loads(Path(told).read_bytes())
    device = find_device(recipe.student.device, "student.device")
    if device.type == "cuda" and recipe.student.device in ("auto", "cuda"):
        import torch

        number = int(os.environ[NUMBER]) % torch.cuda.device_count()
        own = {"device": f"cuda:{number}"}
        recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update=own)})
    chat = chat_of(recipe, path, unheard, theirs)
    return Prepared(recipe, path, tasks, chat, theirs, (), make_reward)
