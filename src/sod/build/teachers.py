"""From the recipe's `teacher` and `teachers` to what scores: models in this process and servers, by source of task.

What can be wrong with a server (no such model, other tokens, no log-probabilities of given tokens) is found out before
weights are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from sod.build.devices import Devices
from sod.build.fitness import refuse_short_server
from sod.build.job import Learner, compile_where_wanted
from sod.build.method import refuse_unmet
from sod.build.vocabulary import check_rows
from sod.chat.render import Chat
from sod.models.adapters import is_adapter, same_place
from sod.models.load import check_compatible, load_model, load_tokenizer
from sod.models.lora import without_adapter
from sod.models.memory import naming_phase
from sod.models.meter import Meter
from sod.models.ranks import Ranks
from sod.models.support import Support
from sod.objective.episodes import WHOLE_EPISODES
from sod.objective.methods import Method
from sod.objective.needs import SELF_TEACHER, Need
from sod.recipe import ModelSpec, Notice, Recipe, TeacherSpec
from sod.records import SodError, Task
from sod.teachers.base import Offer, Teacher
from sod.teachers.first_rank import FirstRanksTeacher
from sod.teachers.local import LocalTeacher
from sod.teachers.probe import probed
from sod.teachers.routed import Route, RoutedTeacher
from sod.teachers.served import ServedTeacher
from sod.teachers.server import Server
from sod.teachers.stored import StoredTeacher, read_scores, vocabulary_hash
from sod.teachers.translated import TranslatedTeacher, Translation
from sod.training.stored import StoredEpisodes

SERVED_AT_BEST = Offer("topk", temperatures=frozenset({1.0}), entropy=False)
"""What no server can exceed."""
WHOLE_MODEL = frozenset({Need.FULL, Need.TEACHER_EPISODES}) | SELF_TEACHER
"""Needs that only a teacher in this process can meet."""


@final
@dataclass(frozen=True)
class Stored:
    """Episodes in place of new ones, and the teacher's scores of them; `where` is the key that names them."""

    where: str
    episodes: StoredEpisodes
    teacher: StoredTeacher


def stored_episodes(recipe: Recipe, method: Method, notice: Notice) -> Stored | None:
    """What is behind `teacher.scores`; None without. Raises SodError where the method cannot be taught by it."""
    if recipe.teacher is None or recipe.teacher.scores is None or method.needs & SELF_TEACHER:
        return None
    where = f"teacher.scores={recipe.teacher.scores}"
    if recipe.environment is not None:
        raise SodError(f"{where}: stored episodes are learned from, and none are played; leave environment out")
    if method.episodes is not WHOLE_EPISODES:
        raise SodError(
            f"{where}: {method.name} chooses who plays which turns, and these are played; take another method"
        )
    about, scored = read_scores(Path(recipe.teacher.scores).expanduser())
    teacher = StoredTeacher(about, scored)
    refuse_unmet(method, teacher.offers, recipe.rollout.temperature, where)
    longest = recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens
    kept = [one.episode for one in scored if len(one.episode.trajectory.token_ids) <= longest]
    if len(kept) < len(scored):
        notice(
            f"{where}: {len(scored) - len(kept)} of {len(scored)} episodes are longer than rollout.max_prompt_tokens + "
            f"rollout.max_response_tokens ({longest:,} tokens); left out"
        )
    if not kept:
        raise SodError(
            f"{where}: no episode fits rollout.max_prompt_tokens + rollout.max_response_tokens ({longest:,})"
        )
    return Stored(where, StoredEpisodes(kept, recipe.seed), teacher)


def refuse_other_tokens(stored: Stored, chat: Chat, recipe: Recipe) -> None:
    """Raises SodError where stored episodes are in other tokens than the student's."""
    if stored.teacher.about.vocabulary != vocabulary_hash(chat.tokenizer):
        raise SodError(
            f"{stored.where}: its episodes are in other tokens than those of student.path={recipe.student.path}; take "
            "a student of the same tokenizer, or score anew"
        )
    if stored.teacher.highest_token >= Support.of(chat.tokenizer).size:
        raise SodError(
            f"{stored.where}: damaged, token {stored.teacher.highest_token} is beyond its vocabulary; make it "
            "anew by `sod teacher score`"
        )


@final
@dataclass(frozen=True)
class Teaching:
    """What scores a run; and the one teacher whose model it needs, or else None. `models` are those in this process, by
    role.
    """

    scorer: Teacher | None = None
    model: LocalTeacher | None = None
    models: Mapping[str, Any] = field(default_factory=dict)


def refuse_unmet_teachers(recipe: Recipe, method: Method, tasks: Iterable[Task] = ()) -> None:
    """Raises SodError where the recipe has not the teachers that the method needs, or none for the source of a task."""
    if method.needs & SELF_TEACHER:
        refuse_unmet(method, LocalTeacher.offers, recipe.rollout.temperature, "a local teacher")
        return
    if Need.TEACHER in method.needs and not recipe.teaching:
        raise SodError(f"method {method.name} needs a teacher; set teacher.path or teacher.url")
    for key, spec in recipe.teaching.items():
        if spec.kind == "path":
            refuse_unmet(method, LocalTeacher.offers, recipe.rollout.temperature, "a local teacher")
        if spec.kind == "url":
            refuse_unmet(method, SERVED_AT_BEST, recipe.rollout.temperature, f"{key}.url={spec.url}")
        if Need.TEACHER_EPISODES in method.needs and (spec.path is None or key != "teacher"):
            raise SodError(f"method {method.name}: its teacher plays episodes, in this process; set teacher.path")
    if len(recipe.teaching) > 1 and method.level == "full":
        raise SodError(
            f"method {method.name} needs the whole distribution of its teacher, in the update, and that is one "
            "teacher's; take one, or set method.divergence.top_k"
        )
    _refuse_untaught(recipe, tasks)


def _refuse_untaught(recipe: Recipe, tasks: Iterable[Task]) -> None:
    if not recipe.teachers.by_name or any(spec.sources is None for spec in recipe.teaching.values()):
        return
    taught = {source for spec in recipe.teaching.values() for source in spec.sources or ()}
    untaught = sorted({task.data_source for task in tasks} - taught)
    if untaught:
        raise SodError(
            f"teachers: none has the tasks of source {', '.join(map(repr, untaught))}; name it in the sources of one, "
            "or give one of them sources: null, for all others"
        )


def teacher_vocabulary(recipe: Recipe, method: Method) -> str | None:
    """Where the one teacher's tokenizer is read from; None where it is the student's without more, and of several."""
    if recipe.teacher is None or method.needs & SELF_TEACHER:
        return None
    return recipe.teacher.path if recipe.teacher.path is not None else recipe.teacher.tokenizer


def refuse_other_vocabularies(recipe: Recipe, method: Method, chat: Chat, notice: Notice) -> None:
    """Raises SodError where one of several teachers has other tokens than the student."""
    if method.needs & SELF_TEACHER:
        return
    for key, spec in recipe.teaching.items():
        path = spec.path if spec.path is not None else spec.tokenizer
        if key == "teacher" or path is None:
            continue
        check_compatible(chat.tokenizer, load_tokenizer(path), recipe.student.path, path)
        if spec.path is not None:
            check_rows(chat.tokenizer, path, notice)


def served_teachers(
    recipe: Recipe, method: Method, chat: Chat, translation: Translation | None, notice: Notice, resources: ExitStack
) -> dict[str, ServedTeacher]:
    """The teachers behind urls, each asked what it offers. Raises SodError where that is not enough, or wrong."""
    found: dict[str, ServedTeacher] = {}
    if method.needs & SELF_TEACHER or Need.TEACHER not in method.needs:
        return found
    tokenizer = chat.tokenizer if translation is None else translation.teacher.chat.tokenizer
    wanted = wanted_k(method)
    for key, spec in recipe.teaching.items():
        if spec.url is None:
            continue
        teacher = served_teacher(spec, key, tokenizer, wanted, recipe.seed, notice)
        resources.callback(teacher.close)
        offered = teacher.offered
        where = f"{key}.url={spec.url}"
        refuse_unmet(method, offered.offer, recipe.rollout.temperature, where)
        if translation is None:
            refuse_short_server(offered.longest, recipe, where)
        found[key] = teacher
    return found


def served_teacher(
    spec: TeacherSpec, key: str, tokenizer: Any, wanted: int, seed: int, notice: Notice
) -> ServedTeacher:
    """The teacher behind a url, proven to read the tokenizer's tokens. Raises SodError as `probed`."""
    server = Server(spec, key, Support.of(tokenizer).size, seed)
    try:
        return ServedTeacher(server, probed(server, tokenizer, wanted, notice))
    except BaseException:
        server.cache.close()
        raise


def wanted_k(method: Method) -> int:
    """How many of the most probable tokens the method reads in scores."""
    return max(method.choices, int(method.score_need.top1))


def best_offer(recipe: Recipe) -> Offer:
    """What the recipe's one teacher can offer at best, as far as the recipe tells."""
    served = recipe.teacher is not None and recipe.teacher.url is not None
    return SERVED_AT_BEST if served else LocalTeacher.offers


def asked_by_first(own: Mapping[str, Teacher], ranks: Ranks) -> Mapping[str, Teacher]:
    """Teachers that rank 0 has, by key, as every rank sees them: rank 0 asks for all."""
    if ranks.count == 1:
        return own
    offers = ranks.shared(lambda: {key: teacher.offers for key, teacher in own.items()})
    return {key: FirstRanksTeacher(own.get(key), offer, ranks) for key, offer in offers.items()}


def longest_read_by(served: Mapping[str, ServedTeacher]) -> int | None:
    """The most tokens that the one teacher reads where it is served; None where it is not, or does not say."""
    return served["teacher"].offered.longest if "teacher" in served else None


def make_teaching(
    recipe: Recipe,
    method: Method,
    learner: Learner,
    devices: Devices,
    chat: Chat,
    translation: Translation | None,
    served: Mapping[str, Teacher],
    meter: Meter,
    notice: Notice,
) -> Teaching:
    """The recipe's teachers, those in this process loaded; `served` are the others."""
    support = Support.of(chat.tokenizer if translation is None else translation.teacher.chat.tokenizer)
    specs = {"teacher": recipe.student.whole} if method.needs & SELF_TEACHER else recipe.local_teachers
    local = {
        key: make_teacher(recipe, spec, method, support, learner, devices.of(key), meter, notice)
        for key, spec in specs.items()
    }
    teachers: dict[str, Teacher] = {**local, **served}
    if not teachers:
        return Teaching()
    models = {key: teacher.model for key, teacher in local.items()}
    alone = next(iter(local.values()), None) if len(teachers) == 1 else None
    from_model = bool(method.needs & WHOLE_MODEL) or Need.TOP_K in method.needs
    scorer = scorer_of(recipe, method, teachers, translation)
    return Teaching(scorer, alone if from_model else None, models)


def scorer_of(
    recipe: Recipe, method: Method, teachers: Mapping[str, Teacher], translation: Translation | None
) -> Teacher:
    """One teacher as it is, or reading its own rendering; several, and one with a weight, by source of task."""
    if translation is not None:
        teachers = {key: TranslatedTeacher(teacher, translation) for key, teacher in teachers.items()}
    if method.needs & SELF_TEACHER:
        return teachers["teacher"]
    specs = recipe.teaching
    if len(teachers) == 1 and all(spec.weight == 1.0 for spec in specs.values()):
        return next(iter(teachers.values()))
    routes: dict[str, Route] = {}
    for key, teacher in teachers.items():
        sources = specs[key].sources
        routes[key] = Route(teacher, None if sources is None else frozenset(sources), specs[key].weight)
    return RoutedTeacher(routes)


def make_teacher(
    recipe: Recipe,
    spec: ModelSpec,
    method: Method,
    support: Support,
    learner: Learner,
    device: torch.device,
    meter: Meter,
    notice: Notice,
) -> LocalTeacher:
    """A teacher in this process, on its device; a self-teacher is the student as it was at the start.

    A student with an adapter and a teacher that is its base model, or it itself, are over the same weights in memory.
    """
    weights = _shared(recipe, spec, method, learner, device)
    with naming_phase("loading the teacher"):
        if weights is None:
            weights = load_model(spec.path, spec.dtype, support, device)
        compile_where_wanted(weights, recipe.optim, notice)
    return LocalTeacher(weights, recipe.optim.micro_batch_tokens, recipe.rollout.temperature, meter, learner.ranks)


def _shared(recipe: Recipe, spec: ModelSpec, method: Method, learner: Learner, device: torch.device) -> Any | None:
    """The teacher that `spec` means over the weights of the learner's base model; None where they are not the same.

    A new adapter changes nothing, so it is left out of a teacher that never follows the student.
    """
    student = recipe.student
    if learner.start is None or spec.dtype != student.dtype or learner.model.device != device:
        return None
    if same_place(spec.path, student.path):
        plain = method.teacher_rule.kind == "frozen" and not is_adapter(student.path)
        return without_adapter(learner.start) if plain else learner.start
    return without_adapter(learner.start) if same_place(spec.path, learner.model.name_or_path) else None
