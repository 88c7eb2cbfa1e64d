"""The methods of the field as presets: each names its parts, none has code of its own.

A preset's keyword arguments are its knobs, settable as `method.KNOB` in a recipe; `Knob` gives each its meaning and
range, here and nowhere else. What any method may set beside them (clip range, dual clip, loss aggregation, dense
divergence) is put in by `make`.

Deviations from the papers, beside those at the top of `episodes.py` and `weights.py`:

- All: DAPO's clip range 0.2 / 0.28 and no dual clip; the SOD paper trains with verl, whose dual clip at 3 is on.
- `gated_opd`: the defaults are those of its authors' code; their training script has `beta_max` 0.10.
- `opsd_gt`, `opsd_hint`: the sampled gap without a clip per token, where the paper has a dense divergence with one; the
  wording of the privileged prompt and where hints come from (`tasks/hints.py`) are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from torch import Tensor

from sod.objective import weights
from sod.objective.episodes import AfterTeacherTurns, FirstTurns
from sod.objective.knobs import Coefficient, Knob, PresetKnob, knobs_of
from sod.objective.methods import Method, TeacherRule
from sod.objective.needs import Need
from sod.objective.schedules import Schedule, constant, linear

SOD = "arXiv 2605.07725"
OPD = "arXiv 2306.13649"
ATOD_KAPPA, ATOD_RHO = linear(1.0, 0.1, 80), linear(1.0, 2.0, 80)


def _unless_rule(rule: str) -> Callable[[Mapping[str, Any]], str | None]:
    """The `idle` of a knob of one teacher rule."""

    def idle(values: Mapping[str, Any]) -> str | None:
        given = values["teacher_rule"]
        return None if given == rule else f"method.teacher_rule is {given}, not {rule}"

    return idle


def _level_gate(values: Mapping[str, Any]) -> str | None:
    return "method.beta_min and method.beta_max are equal" if values["beta_min"] == values["beta_max"] else None


Kappa = Annotated[Coefficient, Knob("factor on the teacher's signal")]
Rho = Annotated[Coefficient, Knob("factor on the reward's advantage")]
Delta = Annotated[float, Knob("no turn weighs more than 1 + delta; inf: no limit", least=0.0, infinite=True)]
Epsilon = Annotated[float, Knob("added to every turn gap d_k before their ratios (nats/token)", above=0.0)]
StartTurns = Annotated[int, Knob("turns that the student plays at first (the paper's k_0)", least=1)]
StepsPerTurn = Annotated[int, Knob("steps until the student plays one turn more (the paper's eta)", least=1)]
Rule = Annotated[
    Literal["frozen", "every", "ema"],
    Knob("how the teacher follows the student: never, as a copy now and then, or as a moving average"),
]
CopyEvery = Annotated[int, Knob("steps between copies, with teacher_rule=every", least=1, idle=_unless_rule("every"))]
EmaDecay = Annotated[
    float,
    Knob(
        "share of itself that the teacher keeps in a step, with teacher_rule=ema",
        least=0.0,
        below=1.0,
        idle=_unless_rule("ema"),
    ),
]
BetaMin = Annotated[float, Knob("factor on the teacher's signal after great success", least=0.0)]
BetaMax = Annotated[float, Knob("factor on the teacher's signal after great failure", least=0.0)]
Gamma = Annotated[
    float, Knob("how steeply the factor falls from beta_max to beta_min as the advantage rises", idle=_level_gate)
]
Decay = Annotated[float, Knob("factor per turn after the first tool error", least=0.0, most=1.0)]
Threshold = Annotated[float, Knob("turn gap d_k above which the teacher intervenes by half (nats/token)", least=0.0)]


def sft() -> Method:
    """Supervised fine-tuning on `data.sft`: as many updates, as many trajectories each, but none of its own."""
    return Method("sft", "-", asks=frozenset({Need.DEMONSTRATIONS}))


def grpo(*, rho: Rho = 1.0) -> Method:
    """Rewards only (arXiv 2402.03300) with DAPO's clip range."""
    return Method("grpo", "arXiv 2402.03300", rho=_schedule(rho))


def opd(*, kappa: Kappa = 1.0) -> Method:
    """Plain on-policy distillation: the teacher gap is the advantage (Agarwal et al.; Thinking Machines)."""
    return Method("opd", OPD, weights.uniform, _schedule(kappa))


def opd_grpo(*, kappa: Kappa = 1.0, rho: Rho = 1.0) -> Method:
    """The teacher gap with uniform weight, plus the reward term (ablation in SOD)."""
    return Method("opd_grpo", SOD, weights.uniform, _schedule(kappa), _schedule(rho))


def gated_opd(*, rho: Rho = 1.0, beta_min: BetaMin = 0.0, beta_max: BetaMax = 0.3, gamma: Gamma = 1.0) -> Method:
    """`A + beta * delta_t`, `beta = beta_min + (beta_max - beta_min) * sigmoid(-gamma * A)`: less after success.

    In the code of SOD's authors, whose defaults these are; their training script sets `beta_max` to 0.10.
    """

    if beta_min > beta_max:
        raise ValueError(f"{beta_min=} is above {beta_max=}; raise method.beta_max too")

    def gate(advantage_B: Tensor) -> Tensor:
        return beta_min + (beta_max - beta_min) * (-gamma * advantage_B).sigmoid()

    return Method("gated_opd", SOD, weights.uniform, rho=_schedule(rho), gate=gate)


def opsd_gt(
    *, kappa: Kappa = 1.0, teacher_rule: Rule = "frozen", teacher_every: CopyEvery = 10, teacher_decay: EmaDecay = 0.99
) -> Method:
    """On-policy self-distillation: the teacher is the student at the start, with the ground truth in its prompt."""
    rule = TeacherRule(teacher_rule, teacher_every, teacher_decay)
    return Method(
        "opsd_gt", "arXiv 2601.18734", weights.uniform, _schedule(kappa), context="ground_truth", teacher_rule=rule
    )


def opsd_hint(
    *, kappa: Kappa = 1.0, teacher_rule: Rule = "frozen", teacher_every: CopyEvery = 10, teacher_decay: EmaDecay = 0.99
) -> Method:
    """As `opsd_gt`, with the task's hint instead of its ground truth."""
    method = opsd_gt(kappa=kappa, teacher_rule=teacher_rule, teacher_every=teacher_every, teacher_decay=teacher_decay)
    return replace(method, name="opsd_hint", context="hint")


def sod(*, kappa: Kappa = 1.0, rho: Rho = 1.0, delta: Delta = 0.2, epsilon: Epsilon = 1e-6) -> Method:
    """Step-wise on-policy distillation: SOD's turn weights on the gap, plus the reward term."""
    rule = partial(weights.sod, delta=delta, epsilon=epsilon)
    return Method("sod", SOD, rule, _schedule(kappa), _schedule(rho))


def sod_no_grpo(*, kappa: Kappa = 1.0, delta: Delta = 0.2, epsilon: Epsilon = 1e-6) -> Method:
    """SOD without the reward term (ablation in SOD)."""
    return replace(sod(kappa=kappa, rho=0.0, delta=delta, epsilon=epsilon), name="sod_no_grpo")


def sod_no_clip(*, kappa: Kappa = 1.0, rho: Rho = 1.0, epsilon: Epsilon = 1e-6) -> Method:
    """SOD whose weights have no upper limit (ablation in SOD)."""
    return replace(sod(kappa=kappa, rho=rho, delta=float("inf"), epsilon=epsilon), name="sod_no_clip")


def error_decay(*, kappa: Kappa = 1.0, rho: Rho = 1.0, decay: Decay = 0.9) -> Method:
    """Weights that fall by `decay` a turn after the first tool error (ablation in SOD)."""
    return Method("error_decay", SOD, partial(weights.error_decay, decay=decay), _schedule(kappa), _schedule(rho))


def error_mask(*, kappa: Kappa = 1.0, rho: Rho = 1.0) -> Method:
    """No teacher's signal after the first tool error (ablation in SOD)."""
    return Method("error_mask", SOD, weights.error_mask, _schedule(kappa), _schedule(rho))


def atod(*, kappa: Kappa = ATOD_KAPPA, rho: Rho = ATOD_RHO) -> Method:
    """ATOD: more teacher where the student is unsure or far off; from the teacher to the reward over the run."""
    return Method("atod", "arXiv 2606.27814", weights.atod, _schedule(kappa), _schedule(rho))


def tcod_f2b(*, kappa: Kappa = 1.0, start: StartTurns = 1, every: StepsPerTurn = 2) -> Method:
    """TCOD front to back: OPD on the first turns, more of them as the run goes on."""
    first_turns = FirstTurns(start, every)
    return Method("tcod_f2b", "arXiv 2604.24005", weights.uniform, _schedule(kappa), episodes=first_turns)


def tcod_b2f(*, kappa: Kappa = 1.0, start: StartTurns = 1, every: StepsPerTurn = 2) -> Method:
    """TCOD back to front: OPD on the last turns, after those of a success of the teacher's, fewer of them over time."""
    last_turns = AfterTeacherTurns(start, every)
    return Method("tcod_b2f", "arXiv 2604.24005", weights.uniform, _schedule(kappa), episodes=last_turns)


def sage(*, kappa: Kappa = 1.0, threshold: Threshold = 0.1) -> Method:
    """SAGE-OPD: the teacher's signal only at turns that need it, as strongly as the teacher is sure."""
    rule = partial(weights.sage, threshold=threshold)
    asks = frozenset({Need.TOP1})
    return Method("sage", "arXiv 2606.19659", rule, _schedule(kappa), asks=asks, scope="batch")


PRESETS: dict[str, Callable[..., Method]] = {
    preset.__name__: preset
    for preset in (
        sft,
        grpo,
        opd,
        opd_grpo,
        gated_opd,
        opsd_gt,
        opsd_hint,
        sod,
        sod_no_grpo,
        sod_no_clip,
        error_decay,
        error_mask,
        atod,
        tcod_f2b,
        tcod_b2f,
        sage,
    )
}


def knobs(name: str) -> dict[str, PresetKnob]:
    """The knobs of a preset by name: default, kind, range and meaning. Raises KeyError for an unknown name."""
    return knobs_of(PRESETS[name])


def make(name: str, given: dict[str, Any], **common: Any) -> Method:
    """The preset with `given` knobs and the parts that any method may set (fields of `Method`).

    Ranges of single knobs are checked where recipes are read, not here. Raises KeyError for an unknown name, TypeError
    for an unknown knob and ValueError for values that contradict each other.
    """
    return replace(PRESETS[name](**given), **common)


def _schedule(value: Coefficient) -> Schedule:
    return value if isinstance(value, Schedule) else constant(float(value))
