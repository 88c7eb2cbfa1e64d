"""The part of the composition root that makes an objective of the recipe's `method` section, and lists them all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from sod.objective.divergence import Divergence
from sod.objective.methods import Method
from sod.objective.needs import Need
from sod.objective.presets import PRESETS, knobs, make
from sod.objective.schedules import Schedule
from sod.objective.scores import LEVELS
from sod.recipe import MethodSpec, ScheduleSpec
from sod.records import SodError
from sod.teachers.base import Offer

COMMON = ("name", "loss_aggregation", "divergence", "clip_low", "clip_high")
OF_THE_TEACHER = frozenset({Need.TEACHER, Need.TOP1, Need.ENTROPY, Need.TOP_K, Need.FULL})


def make_method(spec: MethodSpec) -> Method:
    """The preset named by the recipe with its knobs.

    Raises SodError for an unknown name (with the nearest ones), for a knob that the preset does not have or whose value
    it refuses, and for a dense divergence in a method without a teacher.
    """
    refuse_unknown([spec.name])
    given = {k: v for k in spec.model_fields_set - set(COMMON) if (v := getattr(spec, k)) is not None}
    accepted = knobs(spec.name)
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        known = ", ".join(accepted) or "none of its own"
        raise SodError(f"method.{unknown[0]}: {spec.name} has no such knob; it has {known}")
    values = {knob: _value(value) for knob, value in given.items()}
    divergence = Divergence(**spec.divergence.model_dump()) if spec.divergence is not None else None
    common = {"loss_aggregation": spec.loss_aggregation, "clip_low": spec.clip_low, "clip_high": spec.clip_high}
    try:
        method = make(spec.name, values, divergence=divergence, **common)
    except ValueError as error:
        raise SodError(f"method: {error}") from None
    if divergence is not None and Need.TEACHER not in method.needs:
        raise SodError(f"method.divergence: {spec.name} has no teacher to diverge from; leave it out")
    if Need.DEMONSTRATIONS in method.needs and spec.loss_aggregation != "token":
        raise SodError(f"method.loss_aggregation: {spec.name} is always a token mean; leave it out")
    return method


def refuse_unknown(names: Iterable[str], others: Sequence[str] = ()) -> None:
    """Raises SodError for a name that is neither a preset nor one of `others`, offering the nearest."""
    known = [*PRESETS, *others]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            offer = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise SodError(f"method: unknown method {name!r}; {offer} `sod methods` lists them all")


def refuse_unmet(method: Method, offer: Offer, temperature: float, where: str) -> None:
    """Raises SodError where the method needs more of the teacher than it offers; `where` names the teacher."""
    level = method.level
    if level is None:
        return
    if LEVELS.index(level) > LEVELS.index(offer.level):
        raise SodError(
            f"method {method.name} needs {level} log-probabilities from its teacher, {where} gives {offer.level} "
            "ones; take a local teacher, or a method without a dense divergence"
        )
    k = method.divergence.top_k if method.divergence is not None else 0
    if level == "topk" and offer.largest_k is not None and k > offer.largest_k:
        raise SodError(f"method.divergence.top_k={k}: {where} gives {offer.largest_k} tokens at most")
    if offer.temperatures is not None and temperature not in offer.temperatures:
        given = ", ".join(f"{value:g}" for value in sorted(offer.temperatures))
        raise SodError(f"rollout.temperature={temperature:g}: {where} scores at temperature {given} only")


def method_rows() -> list[tuple[str, str, str, str, str]]:
    """`(name, paper, needs, knobs with defaults, what it is)` of every preset, for `sod methods`."""
    rows = []
    for name, preset in PRESETS.items():
        shown = ", ".join(f"{knob}={_shown(value)}" for knob, value in knobs(name).items())
        text = " ".join((preset.__doc__ or "").strip().split("\n\n")[0].split())
        rows.append((name, preset().paper, _needs(preset()), shown or "-", text))
    return rows


def _needs(method: Method) -> str:
    """The needs in words; the most that is asked of the teacher stands for all below it."""
    shown = {"sampled": ["sampled log-probs"], "top1": ["sampled and top-1 log-probs"]}
    needs = [] if method.level is None else shown.get(method.level, [f"{method.level} log-probs"])
    others = [need for need in Need if need in method.needs and need not in OF_THE_TEACHER]
    return ", ".join([*needs, *others])


def _value(value: Any) -> Any:
    if isinstance(value, ScheduleSpec):
        return Schedule(value.schedule, value.start, value.end, value.steps or 1)
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Schedule):
        return f"{value.kind} {value.start:g} to {value.end:g} over {value.steps}"
    return f"{value:g}" if isinstance(value, float) else str(value)
