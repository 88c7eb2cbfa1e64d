"""`sod teacher score`: stored episodes or conversations, scored by the recipe's teacher, into a file to distil from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from sod.build.conversations import example_of
from sod.build.devices import find_devices
from sod.build.inspection import conversations_in
from sod.build.job import located
from sod.build.method import make_method, refuse_unmet
from sod.build.teachers import SERVED_AT_BEST, served_teacher, wanted_k
from sod.build.vocabulary import chat_over
from sod.chat.render import Chat
from sod.models.load import load_model, load_tokenizer
from sod.models.support import Support
from sod.objective.batch import pack
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.recipe import Notice, Recipe
from sod.records import Episode, Fault, FaultKind, Group, Said, SodError, StopReason, Task, Trajectory, Turn
from sod.runlog import full_row, read_lines
from sod.tasks.base import Conversation
from sod.tasks.own_runs import with_episode_files
from sod.tasks.sources import names_of
from sod.teachers.base import Teacher
from sod.teachers.local import LocalTeacher
from sod.teachers.server import RowScores
from sod.teachers.stored import About, Scored, episode_of_row, vocabulary_hash, write_scores

PART = 64
"""Episodes that are scored, and written, at a time."""
NOT_FINITE = Fault(FaultKind.BAD_REPLY, "a log-probability of the teacher is not finite", False)
Progress = Callable[[int, int], None]
"""Hears how many episodes are done, of how many."""


@final
@dataclass(frozen=True)
class Written:
    """What came of it: the episodes in the file, those that the teacher could not score and why the first, and the rows
    that were left out.
    """

    episodes: int
    faults: int
    first_fault: Fault | None
    left_out: int


def score_file(
    recipe: Recipe, source: str, out: Path, k: int | None, notice: Notice, progress: Progress = lambda done, total: None
) -> Written:
    """Score the episodes of a run, or of a file of trajectories or conversations, and write `out`.

    With the log-probabilities of the `k` most probable tokens at each place; None: as many as the recipe's method
    needs. Raises SodError in one line for what cannot be scored.
    """
    if out.exists():
        raise SodError(f"{out}: is there already, and nothing is overwritten; choose another --out")
    spec = recipe.teacher
    if spec is None or spec.kind == "scores":
        raise SodError("a teacher to score with is not set; set teacher.path or teacher.url, one teacher at a time")
    with ExitStack() as resources:
        recipe = located(recipe, notice)
        spec = recipe.teacher or spec
        vocabulary = spec.path if spec.path is not None else spec.tokenizer
        own = recipe.student.path, load_tokenizer(recipe.student.path)
        theirs = None if vocabulary is None else (vocabulary, load_tokenizer(vocabulary))
        chat = chat_over(recipe, own, theirs, notice)
        episodes, left_out = episodes_of(source, recipe, chat, notice)
        wanted = wanted_k(make_method(recipe.method)) if k is None else k
        teacher = _teacher(recipe, chat, wanted, notice, resources)
        about = About(spec.shown, recipe.rollout.temperature, wanted, vocabulary_hash(chat.tokenizer))
        faults: list[Fault] = []
        written = write_scores(out, about, _parts(teacher, episodes, wanted, faults, progress))
    if not written:
        out.unlink()
        first = faults[0]
        raise SodError(f"the teacher could not score any of {len(episodes)} episodes: {first.kind}: {first.detail}")
    return Written(written, len(faults), faults[0] if faults else None, left_out)


def _teacher(recipe: Recipe, chat: Chat, k: int, notice: Notice, resources: ExitStack) -> Teacher:
    spec, temperature = recipe.teacher, recipe.rollout.temperature
    assert spec is not None
    if spec.local is None:
        given = SERVED_AT_BEST.temperatures
        if given is not None and temperature not in given:
            refuse_unmet(make_method(recipe.method), SERVED_AT_BEST, temperature, f"teacher.url={spec.url}")
        teacher = served_teacher(spec, "teacher", chat.tokenizer, k, recipe.seed, notice)
        resources.callback(teacher.close)
        if teacher.offered.largest_k < k:
            raise SodError(
                f"teacher.url={spec.url}: gives {teacher.offered.largest_k} of the most probable tokens at most, and "
                f"{k} are asked for; lower --top-k, or start the server with a higher limit (vLLM: --max-logprobs)"
            )
        return teacher
    device = find_devices(recipe, notice).teacher
    model = load_model(spec.local.path, spec.local.dtype, Support.of(chat.tokenizer), device)
    return LocalTeacher(model, recipe.optim.micro_batch_tokens, temperature)


def episodes_of(source: str, recipe: Recipe, chat: Chat, notice: Notice) -> tuple[list[Episode], int]:
    """What a run, or a file of trajectories or conversations, holds; and how many rows are left out.

    Trajectories keep the tokens that were sampled; conversations are written in the chat's template. `notice` hears of
    rows that are damaged. Raises SodError where there is nothing, and for trajectories in other tokens than the chat's.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    for file in map(Path, names_of(with_episode_files(source))):
        if file.suffix == ".jsonl" and file.is_file():
            rows += [(f"{file}:{number}", row) for number, row in read_lines(file)]
    own = [(where, row) for where, row in rows if row.get("token_ids") is not None and row.get("turn_ids") is not None]
    if not own:
        found = conversations_in(source, recipe)
        return [_as_episode(one, chat) for one in found.items], len(found.skipped)
    episodes, damaged = _read(own, recipe.student.path, Support.of(chat.tokenizer).size)
    if not episodes:
        raise SodError(f"{source}: {damaged[0] if damaged else 'every episode faulted'}; there is nothing to score")
    if damaged:
        notice(f"{source}: rows that are damaged are left out ({len(damaged)}), the first: {damaged[0]}")
    _refuse_other_tokens(source, episodes, chat, recipe.student.path)
    return episodes, len(rows) - len(episodes)


def _read(rows: Sequence[tuple[str, Mapping[str, Any]]], path: str, tokens: int) -> tuple[list[Episode], list[str]]:
    """The episodes of those rows that did not fault, and what is wrong with the others; the student has `tokens`."""
    episodes, damaged = [], []
    for where, row in rows:
        whole = full_row(row, where)
        if whole.get("fault") is not None:
            continue
        try:
            episode = episode_of_row(whole | {"fault": None})
            highest = max(episode.trajectory.token_ids)
            if highest >= tokens:
                raise ValueError(
                    f"its tokens are not those of student.path={path}: {highest} is one, and it has {tokens}"
                )
        except ValueError as error:
            damaged.append(f"{where}: {error}")
            continue
        if any(episode.trajectory.turn_ids):
            episodes.append(episode)
    return episodes, damaged


def _refuse_other_tokens(source: str, episodes: Sequence[Episode], chat: Chat, path: str) -> None:
    for episode in episodes[:PART]:
        for turn in episode.trajectory.turns:
            text = chat.tokenizer.decode(list(episode.trajectory.token_ids[turn.start : turn.stop]))
            if text.strip() != turn.text.strip() and turn.text.strip() not in text:
                raise SodError(
                    f"{source}: its tokens are not those of student.path={path}: they spell "
                    f"{text[:40]!r} where the file has {turn.text[:40]!r}; set student.path to the model that played"
                )


def _as_episode(conversation: Conversation, chat: Chat) -> Episode:
    """A conversation as if it had been played: its assistant turns are what was said, those of weight 0 apart."""
    example = example_of(conversation, chat)
    numbers = {0: 0}
    for turn, weight in enumerate(example.weights or (1.0,) * max(example.turn_ids), start=1):
        numbers[turn] = max(numbers.values()) + 1 if weight > 0 else 0
    turn_ids = tuple(numbers[turn] for turn in example.turn_ids)
    turns = []
    for number in range(1, max(turn_ids) + 1):
        start = turn_ids.index(number)
        stop = start + turn_ids.count(number)
        text = chat.tokenizer.decode(list(example.token_ids[start:stop]), skip_special_tokens=True)
        turns.append(Turn(number, start, stop, text, said=Said("", text)))
    first = next((place for place, turn in enumerate(turn_ids) if turn), len(turn_ids))
    prompt = []
    for message in conversation.messages:
        if message.role == "assistant":
            break
        prompt.append(message)
    blank = (0.0,) * len(turn_ids)
    trajectory = Trajectory(
        conversation.id,
        0,
        first,
        tuple(example.token_ids),
        turn_ids,
        blank,
        tuple(turns),
        StopReason.ANSWER,
        reward=conversation.reward or 0.0,
    )
    return Episode(Task(conversation.id, tuple(prompt), ""), trajectory)


def _parts(
    teacher: Teacher, episodes: Sequence[Episode], k: int, faults: list[Fault], progress: Progress
) -> Iterator[list[Scored]]:
    """The episodes with their scores, part by part; those that could not be scored are left out and noted."""
    for start in range(0, len(episodes), PART):
        part = episodes[start : start + PART]
        groups = [Group(episode.task.id, (episode.trajectory,)) for episode in part]
        batch = pack(groups, tasks=[episode.task for episode in part])
        scores = teacher.score(batch, batch.episodes, ScoreNeed(k=k))
        faults += scores.faults.values()
        rows = _rows_of(scores, batch.turn_BT > 0, k)
        scored = [
            Scored(one, row)
            for number, (one, row) in enumerate(zip(part, rows, strict=True))
            if number not in scores.faults
        ]
        finite = [one for one in scored if one.scores.finite]
        faults += [NOT_FINITE] * (len(scored) - len(finite))
        yield finite
        progress(start + len(part), len(episodes))


def _rows_of(scores: TeacherScores, action_BT: torch.Tensor, k: int) -> Iterator[RowScores]:
    """The scores of each trajectory by itself."""
    counts = action_BT.sum(1).tolist()
    empty = torch.zeros(sum(counts), 0)
    ids = (empty.long() if scores.ids_NK is None else scores.ids_NK).split(counts)
    best = (empty if scores.logps_NK is None else scores.logps_NK).split(counts)
    for row, action_T in enumerate(action_BT):
        yield RowScores(scores.logp_BT[row][action_T].numpy(), ids[row].numpy(), best[row].numpy())
