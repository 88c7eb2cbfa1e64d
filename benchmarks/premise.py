"""Does the teacher's advice get worse after a bad tool call? The premise of SOD (arXiv 2605.07725), measured.

    python benchmarks/premise.py recipes/compare-unreliable.yaml --world runs/compare/world-HASH-sSEED --out premise

In the generated world of nested arithmetic (`sod.tasks.chain`). The student plays validation tasks with the recipe's
tool. A *state* is the beginning of a turn up to which the student made no mistake, so that it can still succeed: each
call that ran, and each that came back `unavailable`, was the chain's next step. States are classed by the failed calls
before them (0, 1, 2 or more); those after an error of the student's own making (an exception, a malformed call) are a
class of their own. A class has at most one state of a task, drawn evenly from the task's distinct histories. The class
without errors holds beginnings of first turns as well: after a failed first call nothing is done yet either.

From each state the student and the teacher play on, by default with a tool that does not fail from there on. They do so
once more from the same state with the failed calls cut out of its history: the same task and the same steps done, so
that what differs is the errors alone. Continuations have twice the recipe's turns and tokens, or a long history would
be punished for its length. Of the student's first turn from a state are told:

    d_k           mean absolute teacher gap over its tokens, as SOD has it (nats/token)
    gap           mean teacher gap over its tokens, the signal that OPD moves along (nats/token)
    agreement     over pairs of continuations from the same state of which one succeeded and one failed: the share in
                  which the teacher's score of the turn is higher for the one that succeeded. A tie is one half, so
                  is chance. The score is the gap, or the teacher's log-probability of the whole turn.
    differing     the same, by the gap, over those pairs alone whose turns are no tie

Every state counts once. Intervals are 95% bootstrap intervals over states: they hold for these two models alone, and
where all states agree they have no width, which is no certainty.
"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()

import argparse
import io
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch

from side_by_side import machine
from sod.build.data import fitting_tasks, loaded_tasks
from sod.build.job import Job, final_model
from sod.build.rollout import make_collector
from sod.build.tools import make_reward_function, make_tools
from sod.build.vocabulary import chat_over
from sod.engines.base import Sampling
from sod.evaluation.runner import episode_figures
from sod.models.load import load_model, load_tokenizer
from sod.models.support import Support
from sod.objective import turn_stats
from sod.objective.batch import pack
from sod.objective.scores import SAMPLED_ONLY
from sod.quickstart.run import in_world, make_world
from sod.recipe import Recipe, ToolsSpec, load_recipe, parse_recipe
from sod.records import Group, SodError, Task, Trajectory, Turn
from sod.report.console import notice
from sod.report.curves import COLOURS, DPI, GRID, INK, TITLE_HEIGHT, WIDTH, style
from sod.rollout.collect import Collector
from sod.rollout.health import refuse_unhealthy
from sod.rollout.prefix import Prefix, prefix_of
from sod.runlog import RunLog, write_bytes_atomic, write_json_atomic, write_text_atomic
from sod.seeds import derive
from sod.tasks import chain
from sod.teachers.base import Teacher
from sod.teachers.local import LocalTeacher
from sod.tools.unreliable import ERROR as UNAVAILABLE

CLASSES = ("0", "1", "2+", "own")
TITLES = {"0": "no error", "1": "1 error", "2+": "2+ errors", "own": "own error"}
PAIRED = {"d_k": "d_k", "gap": "teacher gap", "teacher": "teacher succeeds", "student": "student succeeds"}
PAIRS = {"agreement": "agreement (gap)", "agreement_logp": "agreement (log-prob)", "differing": "differing"}
ALL = (*PAIRED, *PAIRS, "tied")
SAME = 1e-4  # nats; scores of the same tokens from different batches differ by rounding, far less than this
CHUNK = 512  # episodes at a time

Row = dict[str, float]
"""The figures of one state; those of pairs only where it has a pair."""
Figures = dict[str, dict[str, float] | None]
"""Mean, 95% interval and number of states of each figure; None where no state has it."""


@dataclass(frozen=True)
class State:
    """The beginning of a turn, and its history with and (`clean`) without the failed calls.

    `failed` calls came back unavailable, `own` turns were errors of the student's making, `since` operations were done
    after the last of both, `left` are to do.
    """

    task: Task
    history: Prefix
    clean: Prefix
    failed: int
    own: int
    since: int
    left: int

    @property
    def label(self) -> str:
        """Its class."""
        return "own" if self.own else ("2+" if self.failed > 1 else str(self.failed))


def outcome(turn: Turn, step: str | None) -> Literal["done", "failed", "own", "mistake"]:
    """What a turn with results did, where `step` is the code of the next step (None: all are done)."""
    errors = {result.error for result in turn.results}
    if len(turn.calls) == 1 and errors <= {None, UNAVAILABLE}:
        if dict(turn.calls[0].arguments) != {"code": step}:
            return "mistake"
        return "failed" if UNAVAILABLE in errors else "done"
    return "mistake" if errors & {None, UNAVAILABLE} else "own"


def states_of(task: Task, asked: chain.Chain, trajectory: Trajectory) -> Iterator[State]:
    """The beginnings of an episode's turns, in order, up to the student's first mistake that is no tool error."""
    steps = [f"print({code})" for code, _ in asked.steps()]
    clean_ids = trajectory.token_ids[: trajectory.prompt_tokens]
    counts = {"done": 0, "failed": 0, "own": 0}
    since = 0
    yield State(task, prefix_of(trajectory, 0), Prefix(clean_ids, 0), 0, 0, 0, len(steps))
    for turn, following in pairwise(trajectory.turns):
        done = counts["done"]
        what = outcome(turn, steps[done] if done < len(steps) else None)
        if what == "mistake":
            return
        counts[what] += 1
        since = since + 1 if what == "done" else 0
        if what == "done":
            clean_ids += trajectory.token_ids[turn.start : following.start]
        # The clean history counts as many turns as the real one, so that both leave the same number of them.
        both = prefix_of(trajectory, turn.index), Prefix(clean_ids, turn.index)
        yield State(task, *both, counts["failed"], counts["own"], since, len(steps) - counts["done"])


def chosen(states: Sequence[State], most: int, seed: int) -> list[State]:
    """At most `most` states of each class and one of each task in a class, of which a history is there but once."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, dict[tuple[int, ...], State]]] = {label: defaultdict(dict) for label in CLASSES}
    for state in states:
        found[state.label][state.task.id].setdefault(state.history.token_ids, state)
    out = []
    for label in CLASSES:
        one_each = [list(same.values())[int(rng.integers(len(same)))] for same in found[label].values()]
        out += [one_each[at] for at in sorted(rng.permutation(len(one_each))[:most])]
    return out


def preference(scores: Sequence[float], successes: Sequence[bool]) -> tuple[float, float] | None:
    """`(share preferred, share tied)` of the pairs of a success and a failure; None where there is no such pair."""
    both = list(zip(scores, successes, strict=True))
    above = [good - bad for good, success in both if success for bad, other in both if not other]
    return (fmean(x > SAME for x in above), fmean(abs(x) <= SAME for x in above)) if above else None


def figures_of_state(turns: Sequence[Mapping[str, float]], student: Sequence[bool], teacher: Sequence[bool]) -> Row:
    """`turns` are the `first_turns` of the student's continuations; the others tell which of whose succeeded."""
    row = {key: fmean(turn[key] for turn in turns) for key in ("d_k", "gap")}
    row |= {"teacher": fmean(teacher), "student": fmean(student)}
    pairs = [preference([turn[score] for turn in turns], student) for score in ("gap", "logp")]
    for key, pair in zip(("agreement", "agreement_logp"), pairs, strict=True):
        if pair:
            row[key] = pair[0] + pair[1] / 2
    if by_gap := pairs[0]:
        row |= {"tied": by_gap[1]} | ({"differing": by_gap[0] / (1 - by_gap[1])} if by_gap[1] < 1 else {})
    return row


def bootstrap(values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """95% percentile interval of the mean, the states resampled (Efron & Tibshirani 1993, ch. 13); always the same.

    Not the interval of evaluations: these figures have no bounds that it could use.
    """
    rng = np.random.default_rng(0)
    values_S = np.asarray(values, dtype=np.float64)
    means = [values_S[rng.integers(len(values_S), size=len(values_S))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def summary(rows: Sequence[Row], keys: Collection[str]) -> Figures:
    """Each figure over the states that have it."""
    found: Figures = dict.fromkeys(keys)
    for key in keys:
        if values := [row[key] for row in rows if key in row]:
            low, high = bootstrap(values)
            found[key] = {"value": fmean(values), "low": low, "high": high, "states": len(values)}
    return found


def played(
    player: Collector, begun: Sequence[tuple[Task, Prefix]], samples: int, sampling: Sampling, purpose: str
) -> list[Group]:
    """`samples` episodes of every task from its prefix, a part of the tasks at a time."""
    groups: list[Group] = []
    at_once = max(1, CHUNK // samples)
    for first in range(0, len(begun), at_once):
        tasks, prefixes = zip(*begun[first : first + at_once], strict=True)
        groups += player.collect(tasks, samples, sampling, purpose, first, prefixes=prefixes).groups
    return groups


def first_turns(teacher: Teacher, trajectories: Sequence[Trajectory]) -> list[dict[str, float]]:
    """d_k and mean gap (nats/token) and the teacher's log-probability (nats) of each trajectory's first turn.

    The student's log-probabilities are those it sampled with.
    """
    cut = []
    for t in trajectories:
        end = t.turns[0].stop
        columns = {key: getattr(t, key)[:end] for key in ("token_ids", "turn_ids", "sampled_logps")}
        cut.append(replace(t, turns=t.turns[:1], **columns))
    batch = pack([Group("", tuple(cut))])
    scores = teacher.score(batch, batch.episodes, SAMPLED_ONLY)
    teacher_BT = scores.logp_BT
    stats = turn_stats(batch.sampled_BT, scores, batch.turn_BT)
    gap_B = ((teacher_BT - batch.sampled_BT) * (batch.turn_BT > 0)).sum(1) / stats.tokens_BK[:, 0]
    columns = {"d_k": stats.turn_gap_BK[:, 0], "gap": gap_B, "logp": teacher_BT.sum(1)}
    return [{key: float(column_B[row]) for key, column_B in columns.items()} for row in range(len(cut))]


@dataclass(frozen=True)
class Players:
    """Student and teacher, ready to play on from a state, and the teacher as one who scores."""

    student: Collector
    teacher: Collector
    scorer: Teacher
    sampling: Sampling
    samples: int

    def rows(self, begun: Sequence[tuple[Task, Prefix]]) -> list[Row | None]:
        """The figures of each state, as `figures_of_state`; None for one that lost every episode to faults."""
        own = played(self.student, begun, self.samples, self.sampling, "premise-student")
        theirs = played(self.teacher, begun, self.samples, self.sampling, "premise-teacher")
        whole = [t for group in own for t in group.trajectories]
        scored = iter(first_turns(self.scorer, whole) if whole else [])
        rows: list[Row | None] = []
        for mine, other in zip(own, theirs, strict=True):
            turns = [next(scored) for _ in mine.trajectories]
            success = [[t.correct for t in group.trajectories] for group in (mine, other)]
            rows.append(figures_of_state(turns, *success) if all(success) else None)
        return rows


def measure(players: Players, states: Sequence[State]) -> dict[str, Any]:
    """The figures of every class, the same without the failed calls, and the changes: with them minus without."""
    dirty = players.rows([(s.task, s.history) for s in states])
    after = [at for at, s in enumerate(states) if s.failed or s.own]
    clean_rows = players.rows([(states[at].task, states[at].clean) for at in after])
    clean = dict(zip(after, clean_rows, strict=True))
    found: dict[str, Any] = {"classes": {}, "without_errors": {}, "changes": {}, "rows": []}
    for label in CLASSES:
        mine = [at for at, s in enumerate(states) if s.label == label and dirty[at] and clean.get(at, dirty[at])]
        rows = [row for at in mine if (row := dirty[at])]
        facts = {"states": len(mine), "operations_left": fmean(states[at].left for at in mine) if mine else None}
        found["classes"][label] = {**facts, **summary(rows, ALL)}
        if label != "0":
            without = [row for at in mine if (row := clean[at])]
            change = [{key: a[key] - b[key] for key in PAIRED} for a, b in zip(rows, without, strict=True)]
            found["without_errors"][label] = {**facts, **summary(without, ALL)}
            found["changes"][label] = {"states": len(mine), **summary(change, PAIRED)}
        for at in mine:
            counts = {key: getattr(states[at], key) for key in ("failed", "own", "since", "left")}
            task = {"task": states[at].task.id, "class": label}
            found["rows"].append({**task, **counts, "with": dirty[at], "without": clean.get(at)})
    return found


def world_tasks(recipe: Recipe, directory: Path) -> tuple[Recipe, list[chain.Chain]]:
    """The recipe with models, data and seed of the world in `directory`, and the world's validation chains.

    Seed and world are those that the student's SFT was run with. Raises SodError where there is no such world, and
    where the recipe's rollout truncates, for then the sampled log-probabilities are not the student's own.
    """
    if recipe.rollout.top_p < 1.0 or recipe.rollout.top_k:
        raise SodError("the teacher gap needs the student's own log-probabilities: set rollout.top_p=1 rollout.top_k=0")
    if recipe.tools.python is None or recipe.tools.python.stateful:
        raise SodError("the chain world needs tools.python, with stateful=false")
    run = RunLog.open(directory / "student-sft")
    made = parse_recipe(run.recipe(), str(run.path))
    if made.world is None:
        raise SodError(f"{run.path}: its recipe has no world section")
    recipe = in_world(recipe.model_copy(update={"seed": made.seed}), directory)
    sizes = {name: getattr(made.world, name) for name in ("sft", "train", "validation")}
    return recipe, chain.splits(sizes, made.world.shortest, made.world.longest, made.seed)["validation"]


def run(recipe: Recipe, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Play, choose states, measure. Raises SodError where the world's tasks are not the chains they should be."""
    recipe, chains = world_tasks(recipe, directory)
    specs = {"student": recipe.student, "teacher": recipe.local_teachers.get("teacher") or recipe.student}
    paths = {role: final_model(spec.path) for role, spec in specs.items()}
    own, theirs = ((paths[role], load_tokenizer(paths[role])) for role in ("student", "teacher"))
    chat = chat_over(recipe, own, theirs, notice)
    tasks = fitting_tasks(
        loaded_tasks(recipe.data.validation_tasks, "validation", recipe, notice), chat, recipe, notice
    )
    asked = {f"chain-{number}": one for number, one in enumerate(chains)}
    if any(task.id not in asked or task.prompt[0].content != asked[task.id].expression for task in tasks):
        raise SodError(f"{directory}: its validation tasks are not those of its world and seed")
    began = time.perf_counter()
    with ExitStack() as opened:
        later = after_the_state(recipe, options.keep_failing)
        reward_function, tools, later_tools = (
            make_reward_function(recipe, opened, tasks),
            make_tools(recipe, opened, chat.tokenizer),
            make_tools(later, opened, chat.tokenizer),
        )
        refuse_unhealthy(tools)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        support = Support.of(chat.tokenizer)
        models = {role: load_model(path, specs[role].dtype, support) for role, path in paths.items()}
        acting = make_collector(recipe, chat, tools, reward_function, models["student"])
        sampling = Sampling(recipe.rollout.temperature, recipe.rollout.top_p, recipe.rollout.top_k)
        by_task = {task.id: task for task in tasks[: options.tasks]}
        begun = [(task, Prefix(tuple(chat.prompt_ids(task.prompt)), 0)) for task in by_task.values()]
        groups = played(acting, begun, options.episodes, sampling, "premise")
        episodes = [t for group in groups for t in group.trajectories]
        states = [s for t in episodes for s in states_of(by_task[t.task_id], asked[t.task_id], t)]
        picked = chosen(states, options.states, derive(recipe.seed, "premise"))
        notice(f"{len(episodes)} episodes in {time.perf_counter() - began:.0f} s; {len(picked)} states")
        student, teacher = (make_collector(later, chat, later_tools, reward_function, models[role]) for role in paths)
        scorer = LocalTeacher(models["teacher"], recipe.optim.micro_batch_tokens, recipe.rollout.temperature)
        found = measure(Players(student, teacher, scorer, sampling, options.samples), picked)
    settings = {key: getattr(options, key) for key in ("tasks", "episodes", "samples", "states", "keep_failing")}
    facts = {"recipe": recipe.name, "world": directory.name, "seed": recipe.seed, "settings": settings}
    facts |= {"episodes": len(episodes), **episode_figures(episodes), "seconds": time.perf_counter() - began}
    return {**facts, **found, "machine": machine()}


def after_the_state(recipe: Recipe, keep_failing: bool) -> Recipe:
    """The recipe that continuations are played by: twice the room, and a reliable tool unless `keep_failing`."""
    assert recipe.tools.python is not None
    rate = recipe.tools.python.failure_rate if keep_failing else 0.0
    python = recipe.tools.python.model_copy(update={"failure_rate": rate})
    room = {key: 2 * getattr(recipe.rollout, key) for key in ("max_turns", "max_response_tokens")}
    update = {"rollout": recipe.rollout.model_copy(update=room), "tools": ToolsSpec(python=python)}
    return recipe.model_copy(update=update)


def markdown(found: Mapping[str, Any]) -> str:
    """Both tables. Agreement names the number of its states; `tied` is the share of its pairs that are ties."""
    rows = []
    for label in CLASSES:
        rows.append(_class_cells(TITLES[label], found["classes"][label]))
        if (without := found["without_errors"].get(label)) and without["states"]:
            rows.append(_class_cells(f"{TITLES[label]}, cut out", without))
    changed = [
        [TITLES[label], str(change["states"]), *(_cell(change[key], "{:+.3f}") for key in PAIRED)]
        for label, change in found["changes"].items()
    ]
    return f"""{found["recipe"]} in {found["world"]}, seed {found["seed"]}: {found["settings"]}

{_table(("history", "states", "left", *PAIRED.values(), *PAIRS.values(), "tied"), rows)}

What the errors in the history change (with them minus without, the same states):

{_table(("history", "states", *PAIRED.values()), changed)}
"""


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows))


def _class_cells(title: str, facts: Mapping[str, Any]) -> list[str]:
    none = "no pair" if facts["states"] else "-"
    cells = [title, str(facts["states"]), f"{facts['operations_left']:.1f}" if facts["states"] else "-"]
    cells += [_cell(facts[key]) for key in PAIRED]
    cells += [f"{_cell(facts[key])} ({facts[key]['states']})" if facts[key] else none for key in PAIRS]
    return [*cells, f"{facts['tied']['value']:.2f}" if facts["tied"] else "-"]


def _cell(figure: Mapping[str, float] | None, form: str = "{:.3f}") -> str:
    if figure is None:
        return "-"
    value, low, high = (form.format(figure[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Three panels over the classes 0, 1 and 2+: filled marks as it was, hollow ones with the failed calls cut out."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels: tuple[tuple[str, dict[str, str]], ...] = (
        ("turn gap d_k (nats/token)", {"d_k": "d_k"}),
        ("success from the state", {"teacher": "teacher", "student": "student"}),
        ("agreement (chance: 0.5)", {"agreement": "by gap", "differing": "by gap, turns differ"}),
    )
    with rc_context(style()):
        figure = Figure(figsize=(WIDTH, TITLE_HEIGHT + 3.4), dpi=DPI, layout="constrained")
        figure.suptitle(f"The teacher after failed calls ({found['recipe']}, {found['world']})", x=0.012, ha="left")
        for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            axes.set_title(title)
            axes.grid(color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_xticks(range(3), CLASSES[:3])
            axes.set_xlim(-0.4, 2.4)
            for number, (key, label) in enumerate(lines.items()):
                colour, shift = COLOURS[number], 0.16 * (number - (len(lines) - 1) / 2)
                _marks(axes, found["classes"], key, colour, shift - 0.03, label, colour)
                _marks(axes, found["without_errors"], key, colour, shift + 0.03, f"{label}, cut out", "white")
            axes.set_ylim(*((0.0, None) if "d_k" in lines else (-0.04, 1.04)))
            if "agreement" in lines:
                axes.axhline(0.5, color=INK, linewidth=0.8, linestyle="--")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
            axes.set_xlabel("failed calls before the turn")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    write_bytes_atomic(path, picture.getvalue())


def _marks(axes: Any, classes: Mapping[str, Any], key: str, colour: str, shift: float, label: str, fill: str) -> None:
    """The classes that have the figure, with their intervals."""
    points = [(x, f) for x, name in enumerate(CLASSES[:3]) if name in classes and (f := classes[name][key])]
    if points:
        x, values = [at + shift for at, _ in points], [f["value"] for _, f in points]
        arms = [[abs(f[end] - f["value"]) for _, f in points] for end in ("low", "high")]
        axes.errorbar(x, values, yerr=arms, color=colour, fmt="o", markersize=6, mfc=fill, label=label, linewidth=1.2)


def _run_quietly(_: str, job: Job) -> None:
    with closing(job):
        job.start([])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its tool's failure_rate decides which errors there are")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--world", type=Path, help="a world as `sod compare` leaves it; default: made in OUT/world")
    parser.add_argument("--tasks", type=int, help="of the validation tasks; default: all")
    parser.add_argument("--episodes", type=int, default=8, help="of each task, to find states in")
    parser.add_argument("--samples", type=int, default=8, help="continuations of each state, by each player")
    parser.add_argument("--states", type=int, default=60, help="of each class, at most")
    parser.add_argument("--keep-failing", action="store_true", help="the tool stays as the recipe has it")
    parser.add_argument("--out", type=Path, required=True, help="for premise.json, premise.md and premise.png")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    if any(count is not None and count < 1 for count in (options.tasks, options.episodes, options.samples)):
        parser.error("a count below 1")
    try:
        recipe = load_recipe(options.recipe, options.overrides)
        world = options.world or options.out / "world"
        if options.world is None and not world.exists():
            make_world(recipe, world, _run_quietly, notice)
        found = run(recipe, world, options)
        for path in (options.out / "premise.json", options.json):
            if path is not None:
                write_json_atomic(path, found)
        write_text_atomic(options.out / "premise.md", markdown(found))
        draw(found, options.out / "premise.png")
    except SodError as error:
        raise SystemExit(str(error)) from None
    print(markdown(found))


if __name__ == "__main__":
    main()
