"""Every number that a run reports: its key, unit, name, format, place and meaning, once.

The step line, the curves, the trackers' dashboards and `docs/metrics.md` are made from this table. To add a metric,
compute it, put it into the step's row (`training/report.py`) and add its line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Panel:
    """One small plot of the curves.

    `from_zero`: its axis starts at zero. `exact`: never smoothed. `stacked`: areas on top of each other.
    """

    title: str
    from_zero: bool = False
    exact: bool = False
    stacked: bool = False


REWARD = Panel("reward and accuracy")
TEACHER_GAP = Panel("teacher gap (nats/token)")
TURN_GAP = Panel("turn gap (nats/token)", from_zero=True)
WEIGHT = Panel("mean turn weight", from_zero=True)
TOOLS = Panel("tool use and errors (shares)", from_zero=True)
TURNS = Panel("turns per episode", from_zero=True)
LENGTH = Panel("response length (tokens)", from_zero=True)
LOSS = Panel("loss")
GRADIENT = Panel("gradient norm", from_zero=True)
RATE = Panel("learning rate", from_zero=True, exact=True)
SPEED = Panel("tokens per second", from_zero=True)
SECONDS = Panel("seconds per step", from_zero=True, stacked=True)

PANELS = (REWARD, TEACHER_GAP, TURN_GAP, WEIGHT, TOOLS, TURNS, LENGTH, LOSS, GRADIENT, RATE, SPEED, SECONDS)
"""The panels in the order in which they are drawn."""


@final
@dataclass(frozen=True)
class Metric:
    """A number of a metrics row, or the family of all keys that begin with `key` where it ends in a slash.

    `label` is its name on the step line; without one it is not there. `format` is how it is written there. `panel` is
    where it is drawn, under the name `legend` (default: the label) where others are drawn too. `sparse`: not in every
    row, so that its points are shown. `unit` is empty for what has none.
    """

    key: str
    unit: str
    label: str
    format: str
    panel: Panel | None
    meaning: str
    legend: str = ""
    sparse: bool = False

    @property
    def family(self) -> bool:
        """Whether this is all keys with a prefix."""
        return self.key.endswith("/")

    @property
    def drawn_as(self) -> str:
        """Its name in a legend."""
        return self.legend or self.label


STEP_SECONDS = Metric("seconds", "s", "", "{:.2f}s", None, "wall clock of the step")
PHASE_SECONDS = Metric(
    "seconds/",
    "s",
    "",
    "{:.2f}",
    SECONDS,
    "wall clock of a phase: expert, sample, tools, reward, wait, old, teacher, update",
)

METRICS = (
    Metric("reward", "", "reward", "{:+.3f}", REWARD, "mean reward of the step's episodes"),
    Metric(
        "reward/",
        "",
        "",
        "{:+.3f}",
        None,
        "mean of a part of the reward: outcome, tool_bonus, overlong, judge, own functions by name",
    ),
    Metric("accuracy", "share", "acc", "{:.3f}", REWARD, "share of episodes whose answer is right", "accuracy"),
    Metric(
        "eval/avg_at_k",
        "share",
        "eval",
        "{:.3f}",
        REWARD,
        "mean accuracy on held-out tasks, k samples each (`train.evaluate_every`); of several named sets their mean",
        "eval avg@k",
        sparse=True,
    ),
    Metric(
        "eval/",
        "share",
        "",
        "{:.3f}",
        None,
        "other figures of that evaluation: pass_at_k, maj_at_k, of named sets NAME/avg_at_k and so on; "
        "of `sod eval` also pass_at_1, pass_at_2, ..., "
        "by/KEY/VALUE/avg_at_k and those of its episodes",
        sparse=True,
    ),
    Metric(
        "teacher_gap",
        "nats/token",
        "gap",
        "{:+.3f}",
        TEACHER_GAP,
        "mean over sampled tokens of the teacher's log-probability minus the student's",
    ),
    Metric(
        "coverage",
        "share",
        "cov",
        "{:.3f}",
        None,
        "share of what the student said that a teacher of another tokenizer can score (`method.alignment`)",
    ),
    Metric("coverage/", "share", "", "{:.3f}", None, "the same of first turns, of second ones, and so on"),
    Metric("aligned", "share", "", "{:.3f}", None, "share of all sampled tokens that such a teacher can score"),
    Metric(
        "left_out/",
        "share",
        "",
        "{:.3f}",
        None,
        "share of sampled tokens that it cannot: control tokens, call syntax, straddling an edge, in other bytes",
    ),
    Metric("unread", "episodes", "", "{:.0f}", None, "episodes that its template cannot show, or too long for it"),
    Metric("weight", "", "w", "{:.2f}", WEIGHT, "mean turn weight w_k", "weight"),
    Metric("teacher_confidence", "share", "", "{:.3f}", None, "mean over turns of the teacher's top-1 probability"),
    Metric(
        "tool_error_rate",
        "share",
        "tool-err",
        "{:.3f}",
        TOOLS,
        "share of tool calls that ended in an error",
        "failed calls",
    ),
    Metric("tool_errors/", "share", "", "{:.3f}", None, "share of tool calls that ended in the error of that name"),
    Metric("tool_calls", "calls", "", "{:.2f}", None, "mean tool calls of an episode"),
    Metric(
        "loss",
        "",
        "loss",
        "{:+.4f}",
        LOSS,
        "what is minimised, mean over updates; in SFT nats/token of the assistant's tokens",
    ),
    Metric("turns", "turns", "turns", "{:.1f}", TURNS, "mean turns of an episode"),
    Metric("response_tokens", "tokens", "len", "{:.0f}", LENGTH, "mean tokens after the prompt, tool output included"),
    Metric(
        "turn_gap_first",
        "nats/token",
        "d1",
        "{:.3f}",
        TURN_GAP,
        "mean turn gap d_k (mean absolute teacher gap of a turn) of first turns",
        "first turn",
    ),
    Metric("turn_gap_last", "nats/token", "dK", "{:.3f}", TURN_GAP, "mean turn gap of last turns", "last turn"),
    Metric("action_tokens", "tokens", "", "{:.0f}", None, "mean tokens that the student sampled in an episode"),
    Metric("truncated", "share", "", "{:.3f}", None, "share of episodes that a token limit ended"),
    Metric("out_of_turns", "share", "", "{:.3f}", None, "share of episodes with a call open at their last turn"),
    Metric(
        "unreadable", "share", "", "{:.3f}", None, "share of episodes that ended in a turn without a readable answer"
    ),
    Metric(
        "tool_use",
        "share",
        "",
        "{:.3f}",
        TOOLS,
        "share of episodes that called a tool; a run tells where it falls to nearly nothing",
        "episodes with a call",
    ),
    Metric("teacher_accuracy", "share", "", "{:.3f}", None, "share of the teacher's own episodes that are right (b2f)"),
    Metric("replayed", "share", "", "{:.3f}", None, "share of tasks that begin after turns of the teacher's (b2f)"),
    Metric("flat_groups", "share", "", "{:.3f}", None, "share of groups whose rewards are all equal: nothing for GRPO"),
    Metric("clip_fraction", "share", "", "{:.3f}", None, "share of the loss whose ratio was clipped"),
    Metric(
        "dual_clip_fraction", "share", "", "{:.3f}", None, "share of the loss that `method.dual_clip` bounds; else 0"
    ),
    Metric(
        "kl", "nats/token", "", "{:.2e}", None, "KL (k3 estimate) of the weights that sampled from those of each update"
    ),
    Metric("grad_norm", "", "grad", "{:.2f}", GRADIENT, "norm of the gradient before clipping, mean over updates"),
    Metric("lr", "", "lr", "{:.1e}", RATE, "learning rate"),
    Metric("updates", "updates", "", "{:.0f}", None, "optimizer steps in this step (`optim.mini_batch_prompts`)"),
    Metric("kappa", "", "", "{:.3f}", None, "coefficient of the distillation term in this step"),
    Metric("rho", "", "", "{:.3f}", None, "coefficient of the reward term in this step"),
    Metric(
        "train_inference_gap",
        "nats/token",
        "",
        "{:.1e}",
        None,
        "mean absolute difference between the engine's log-probabilities and the trainer's",
    ),
    Metric(
        "mismatch",
        "nats/token",
        "",
        "{:.1e}",
        None,
        "the same over all tokens of the step, where `rollout.importance` weights them",
    ),
    Metric(
        "importance_weight", "", "", "{:.3f}", None, "mean of `min(pi_old / pi_sampled, 2)` over the sampled tokens"
    ),
    Metric("importance_truncated", "share", "", "{:.3f}", None, "share of sampled tokens whose weight is cut at 2"),
    Metric("staleness", "versions", "", "{:.0f}", None, "by how many updates the episodes are behind the weights"),
    Metric("seconds_beside/", "s", "", "{:.2f}", None, "phases of playing the episodes, beside the step before"),
    Metric("faults", "episodes", "", "{:.0f}", None, "episodes set apart because something of ours failed"),
    Metric("faults/", "episodes", "", "{:.0f}", None, "of those, the ones with a fault of that kind"),
    Metric("fault_rate", "share", "", "{:.3f}", None, "share of the step's episodes that were set apart"),
    Metric("retries", "calls", "", "{:.0f}", None, "turns and tool calls tried again after a fault"),
    Metric("engine_deaths", "", "", "{:.0f}", None, "how often a server that samples failed (`engine.kind=vllm`)"),
    Metric(
        "distilled_before_fault",
        "episodes",
        "",
        "{:.0f}",
        None,
        "faulted episodes whose turns before the fault were distilled (`rollout.distill_before_fault`)",
    ),
    Metric(
        "tokens_per_second",
        "tokens/s",
        "tok/s",
        "{:.0f}",
        SPEED,
        "sampled tokens (of SFT: all tokens) over the seconds of the step",
    ),
    STEP_SECONDS,
    PHASE_SECONDS,
)
"""By importance, which is also the order of the step line: where a terminal is narrow the later ones are left out."""


def metric_of(key: str) -> Metric | None:
    """The metric of a row's key, by name or else by family; None for a key that is not in the table."""
    return _NAMED.get(key) or next((metric for metric in _FAMILIES if key.startswith(metric.key)), None)


def drawn_in(panel: Panel) -> Sequence[Metric]:
    """The metrics of a panel, in order."""
    return [metric for metric in METRICS if metric.panel is panel]


_NAMED: Mapping[str, Metric] = {metric.key: metric for metric in METRICS if not metric.family}
_FAMILIES = tuple(metric for metric in METRICS if metric.family)
