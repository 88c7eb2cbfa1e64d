"""The part of the composition root that makes an objective of the recipe's `method` section, and lists them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from sod.objective.alignments import Alignment, Kind, default_kind
from sod.objective.divergence import Divergence
from sod.objective.knobs import PresetKnob
from sod.objective.methods import Method
from sod.objective.needs import Need
from sod.objective.presets import PRESETS, knobs, make
from sod.objective.schedules import Schedule
from sod.objective.scores import LEVELS
from sod.recipe import AlignmentSpec, CoefficientSpec, MethodSpec, ScheduleSpec, validated
from sod.recipe.describe import shown_default, shown_type
from sod.recipe.explain import unknown_key
from sod.recipe.nearest import offered
from sod.records import SodError
from sod.teachers.base import Offer

COMMON = ("loss_aggregation", "clip_low", "clip_high", "dual_clip")
"""Keys that go with every preset and are passed on to `Method` as they are."""
OF_THE_TEACHER = frozenset({Need.TEACHER, Need.TOP1, Need.ENTROPY, Need.TOP_K, Need.FULL})


def make_method(spec: MethodSpec) -> Method:
    """The preset named by the recipe with its knobs.

    Raises SodError for an unknown name (with the nearest ones), for a knob that the preset does not have, whose value
    is of the wrong type or out of range, for a dense divergence in a method without a teacher, and for an alignment in
    one whose teacher needs the student's tokenizer.
    """
    refuse_unknown([spec.name])
    declared = knobs(spec.name)
    for knob in spec.knobs:
        if knob not in declared:
            raise SodError(_no_such_knob(spec.name, knob, list(declared)))
    values = {knob: _value(declared[knob], given, f"method.{knob}") for knob, given in spec.knobs.items()}
    divergence = Divergence(**spec.divergence.model_dump()) if spec.divergence is not None else None
    named = spec.alignment
    alignment = None if named is None or named.kind is None else _alignment(named, named.kind)
    common = {key: getattr(spec, key) for key in COMMON}
    try:
        method = make(spec.name, values, divergence=divergence, alignment=alignment, **common)
    except ValueError as error:
        raise SodError(f"method: {error}") from None
    if divergence is not None and Need.TEACHER not in method.needs:
        raise SodError(f"method.divergence: {spec.name} has no teacher to diverge from; leave it out")
    if spec.alignment is not None and not can_align(method):
        raise SodError(_unaligned(spec.alignment, method))
    if Need.DEMONSTRATIONS in method.needs and spec.loss_aggregation != "token-mean":
        raise SodError(f"method.loss_aggregation: {spec.name} is always a token mean; leave it out")
    return method


def alignment_of(spec: MethodSpec, offer: Offer) -> Alignment:
    """How a teacher of another tokenizer gives its signal: as the recipe says, or by what it offers."""
    given = spec.alignment or AlignmentSpec()
    return _alignment(given, given.kind or default_kind(offer.level))


def _alignment(spec: AlignmentSpec, kind: Kind) -> Alignment:
    return Alignment(kind, **spec.model_dump(exclude={"kind", "min_coverage"}))


def can_align(method: Method) -> bool:
    """Whether the method's teacher may have another tokenizer."""
    own_tokens = method.divergence is not None or method.context is not None
    return Need.TEACHER in method.needs and Need.TEACHER_EPISODES not in method.needs and not own_tokens


def _unaligned(spec: AlignmentSpec, method: Method) -> str:
    """Why the method's teacher cannot have another tokenizer, and whose can."""
    if Need.TEACHER not in method.needs:
        why = "has no teacher to align with"
    elif Need.TEACHER_EPISODES in method.needs:
        why = "lets the student go on in the teacher's own tokens"
    elif method.context is not None:
        why = "has the student itself as its teacher"
    else:
        why = "compares whole distributions over one vocabulary (method.divergence)"
    others = ", ".join(name for name, preset in PRESETS.items() if can_align(preset()))
    shown = "" if spec.kind is None else f"={spec.kind}"
    return (
        f"method.alignment{shown}: {method.name} {why}; leave it out, or take a method that can align, without a "
        f"divergence: {others}"
    )


def check_knobs(spec: MethodSpec, where: str) -> None:
    """What can be known to be wrong with a recipe's knobs, whichever methods it will be used for.

    A knob is checked against the recipe's own preset, or where that has none of the name against the first that does.
    Raises SodError naming the file `where`, key and value (one line, every problem in it).
    """
    own = knobs(spec.name) if spec.name in PRESETS else {}
    every = {knob: declared for name in reversed(PRESETS) for knob, declared in knobs(name).items()} | own
    problems = []
    for knob, given in spec.knobs.items():
        if knob not in every:
            known = [f"method.{key}" for key in [*(own or every), *MethodSpec.model_fields]]
            problems.append(unknown_key(f"method.{knob}", given, known, where))
            continue
        try:
            _value(every[knob], given, f"method.{knob}", where)
        except SodError as error:
            problems.append(str(error))
    if problems:
        raise SodError("; ".join(problems))


def differing_knobs(spec: MethodSpec) -> list[str]:
    """`knob=value` of everything that the recipe sets otherwise than the preset, as YAML would have it."""
    declared = knobs(spec.name)
    changed = []
    for knob, given in spec.knobs.items():
        if _value(declared[knob], given, f"method.{knob}") != declared[knob].default:
            changed.append(f"{knob}={_shown_given(given)}")
    plain = MethodSpec(name=spec.name)
    for key in COMMON:
        if (value := getattr(spec, key)) != getattr(plain, key):
            changed.append(f"{key}={shown_default(value)}")
    if spec.divergence is not None:
        changed.append(f"divergence={spec.divergence.kind}")
    if spec.alignment is not None:
        kind = spec.alignment.kind
        changed.append("alignment" if kind is None else f"alignment={kind}")
    return changed


def _shown_given(value: Any) -> str:
    """A knob's value as it was given; a schedule's keys in its braces."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown_given(inner)}" for key, inner in value.items()) + "}"
    return shown_default(value)


def refuse_unknown(names: Iterable[str], others: Sequence[str] = ()) -> None:
    """Raises SodError for a name that is neither a preset nor one of `others`, offering the nearest."""
    known = [*PRESETS, *others]
    for name in names:
        if name not in known:
            offer = offered(name, known, count=3) or f"; there are {', '.join(known)};"
            raise SodError(f"method: unknown method {name!r}{offer} `sod methods` lists them all")


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
        shown = ", ".join(f"{knob}={shown_knob_default(declared)}" for knob, declared in knobs(name).items())
        text = " ".join((preset.__doc__ or "").strip().split("\n\n")[0].split())
        rows.append((name, preset().paper, _needs(preset()), shown or "-", text))
    return rows


def _needs(method: Method) -> str:
    """The needs in words; the most that is asked of the teacher stands for all below it."""
    shown = {"sampled": ["sampled log-probs"], "top1": ["sampled and top-1 log-probs"]}
    needs = [] if method.level is None else shown.get(method.level, [f"{method.level} log-probs"])
    others = [need for need in Need if need in method.needs and need not in OF_THE_TEACHER]
    return ", ".join([*needs, *others])


def knob_rows(names: Iterable[str] = tuple(PRESETS)) -> list[tuple[str, str, str]]:
    """`(knob, the values it takes, what it means)` of every knob of these presets, once each."""
    declared = [knob for name in names for knob in knobs(name).items()]
    rows = [(knob, shown_knob_type(one), one.declared.meaning) for knob, one in declared]
    return list(dict.fromkeys(rows))


def shown_knob_type(knob: PresetKnob) -> str:
    """The values of a knob in words."""
    return "number or schedule" if knob.kind == "coefficient" else shown_type(knob_type(knob))


def shown_knob_default(knob: PresetKnob) -> str:
    """The default as `sod methods` and the reference of keys write it."""
    value = knob.default
    if isinstance(value, Schedule):
        return f"{value.kind} {value.start:g} to {value.end:g} over {value.steps}"
    return shown_default(value)


def _no_such_knob(name: str, knob: str, known: Sequence[str]) -> str:
    has = ", ".join(known) or "none of its own"
    return f"method.{knob}: {name} has no such knob; it has {has}{offered(knob, known)}"


def _value(knob: PresetKnob, given: Any, key: str, where: str = "") -> Any:
    """What the preset takes for the `given` YAML value. Raises SodError where it is not one of the knob's values."""
    value = validated(knob_type(knob), given, key, where)
    if isinstance(value, ScheduleSpec):
        return Schedule(value.schedule, value.start, value.end, value.steps or 1)
    return value


def knob_type(knob: PresetKnob) -> Any:
    """The values of a knob as pydantic checks them."""
    if knob.kind == "coefficient":
        return CoefficientSpec
    if knob.kind == "choice":
        return Literal[knob.choices]
    declared = knob.declared
    bounds: Any = Field(ge=declared.least, gt=declared.above, le=declared.most, lt=declared.below)
    if knob.kind == "whole number":
        return Annotated[int, bounds]
    return Annotated[float, bounds, Field(allow_inf_nan=declared.infinite)]
