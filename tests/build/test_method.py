"""The `method` section of a recipe: which parts it names, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from sod.build.method import knob_rows, make_method, method_rows, refuse_unknown, refuse_unmet
from sod.objective.divergence import Divergence
from sod.objective.episodes import AfterTeacherTurns
from sod.objective.methods import Method, TeacherRule
from sod.objective.presets import PRESETS, knobs, make
from sod.objective.schedules import Schedule, constant
from sod.objective.scores import LEVELS
from sod.objective.stats import TurnStats
from sod.recipe import MethodSpec
from sod.records import SodError
from sod.teachers.base import Offer


def spec(**keys: Any) -> MethodSpec:
    return MethodSpec.model_validate(keys)


class TestKnobs:
    """From keys to parts."""

    def test_presets_keep_their_own_defaults(self) -> None:
        """Keys left out, or null as in a resolved recipe, keep the preset's value."""
        for name in PRESETS:
            plain = make_method(spec(name=name))
            nulls = dict.fromkeys(knobs(name))
            again = make_method(MethodSpec.model_validate(spec(name=name).model_dump() | nulls))
            assert (plain.kappa, plain.rho) == (PRESETS[name]().kappa, PRESETS[name]().rho)
            assert (again.kappa, again.rho, again.episodes) == (plain.kappa, plain.rho, plain.episodes)
            assert (plain.name, plain.loss_aggregation, plain.divergence) == (name, "token-mean", None)

    def test_what_goes_with_every_preset(self) -> None:
        """Clip range, loss_aggregation, dense divergence."""
        dense = {"kind": "jsd", "beta": 0.3, "top_k": 7, "chosen_by": "student"}
        method = make_method(
            spec(name="opd", clip_low=0.1, clip_high=0.3, dual_clip=4, loss_aggregation="turn-mean", divergence=dense)
        )
        assert (method.clip_low, method.clip_high, method.loss_aggregation) == (0.1, 0.3, "turn-mean")
        assert (method.dual_clip, make_method(spec(name="opd")).dual_clip) == (4.0, None)
        assert method.divergence == Divergence("jsd", 0.3, 7, "student")

    @pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
    def test_divergence_by_its_name(self, kind: str) -> None:
        """The short form: the full vocabulary."""
        assert make_method(spec(name="sod", divergence=kind)).divergence == Divergence(kind)  # type: ignore[arg-type]

    def test_coefficients_are_numbers_or_schedules(self) -> None:
        """Both become functions of the step."""
        method = make_method(
            spec(name="sod", kappa=0.5, rho={"schedule": "cosine", "start": 0.0, "end": 2.0, "steps": 10})
        )
        assert (method.kappa, method.rho) == (constant(0.5), Schedule("cosine", 0.0, 2.0, 10))
        assert [method.rho(step) for step in (1, 11)] == [0.0, 2.0]
        assert make_method(spec(name="opd", kappa=0)).kappa.never

    def test_knobs_reach_the_turn_weights(self) -> None:
        """delta, epsilon, decay and threshold by what they do to three turns, the second with a tool error."""
        turn_gap_BK, ones_BK = torch.tensor([[0.4, 0.9, 0.1]]), torch.ones(1, 3)
        error_BK = torch.tensor([[False, True, False]])
        stats = TurnStats(turn_gap_BK, ones_BK, ones_BK.long(), error_BK, ones_BK)

        def weights(**keys: Any) -> list[float]:
            rule = make_method(spec(**keys)).turn_weights
            assert rule is not None
            return [round(w, 5) for w in rule(stats)[0].tolist()]

        assert weights(name="sod", delta=1.0, epsilon=0.1) == [1.0, 0.5, 2.0]
        assert weights(name="sod", delta=float("inf"), epsilon=0.1) == [1.0, 0.5, 2.5]
        assert weights(name="error_decay", decay=0.5) == [1.0, 1.0, 0.5]
        assert weights(name="sage", threshold=0.5) == [0.0, 3.0, 0.0]
        assert weights(name="sage", threshold=0.2) == [1.0, 2.0, 0.0]

    def test_knobs_reach_gate_curriculum_and_teacher(self) -> None:
        """The rest of them."""
        gate = make_method(spec(name="gated_opd", beta_min=0.2, beta_max=0.4, gamma=100.0)).gate
        assert gate is not None
        assert gate(torch.tensor([-1.0, 1.0])).tolist() == pytest.approx([0.4, 0.2])
        assert make_method(spec(name="tcod_b2f", start=2, every=7)).episodes == AfterTeacherTurns(2, 7)
        ema = make_method(spec(name="opsd_hint", teacher_rule="ema", teacher_decay=0.5, teacher_every=3))
        assert ema.teacher_rule == TeacherRule("ema", 3, 0.5)

    def test_every_knob_is_a_key_of_the_recipe(self) -> None:
        """And a method that does not have it says which ones it has."""
        values = {"teacher_rule": "ema", "start": 2, "every": 2, "teacher_every": 2, "beta_min": 0.2}
        every = sorted({knob for name in PRESETS for knob in knobs(name)})
        for name, knob in itertools.product(PRESETS, every):
            given = spec(name=name, **{knob: values.get(knob, 0.5)})
            if knob in knobs(name):
                make_method(given)
            else:
                with pytest.raises(SodError, match=rf"^method\.{knob}: {name} has no such knob; it has "):
                    make_method(given)

    def test_defaults_are_values_that_a_recipe_may_give(self) -> None:
        """Each within its own range and of its own type."""
        for name in PRESETS:
            for knob, declared in knobs(name).items():
                value = declared.default
                if isinstance(value, Schedule):
                    ends = {"start": value.start, "end": value.end, "steps": value.steps}
                    value = {"schedule": value.kind} | ends
                make_method(spec(name=name, **{knob: value}))

    def test_a_mistyped_knob_is_offered_the_presets_nearest(self) -> None:
        """Not one of another preset."""
        with pytest.raises(SodError, match=r"^method\.evry: .*; did you mean every\?$"):
            make_method(spec(name="tcod_f2b", evry=1))
        with pytest.raises(SodError, match=r"it has kappa, rho, delta, epsilon$"):
            make_method(spec(name="sod", evry=1))


class TestRefusals:
    """What cannot be."""

    @pytest.mark.parametrize(
        ("name", "near"), [("sodd", "sod"), ("atd", "atod"), ("opsd", "opsd_gt"), ("tcod", "tcod_f2b"), ("GRPO", "")]
    )
    def test_unknown_name(self, name: str, near: str) -> None:
        """The nearest are offered, or all where none is near, and where to find them."""
        with pytest.raises(SodError) as caught:
            make_method(spec(name=name))
        message = str(caught.value)
        assert message.startswith(f"method: unknown method {name!r}; ")
        assert "`sod methods`" in message
        offered = message.partition("; ")[2]
        assert (f"did you mean {near}" in message or f" or {near}" in message) if near else "grpo" in offered

    def test_names_that_come_on_top(self) -> None:
        """`sod compare` has more of them."""
        refuse_unknown(["sod", "student"], ["student"])
        with pytest.raises(SodError, match="'studnt'; did you mean student"):
            refuse_unknown(["sod", "studnt"], ["student"])

    def test_divergence_without_a_teacher(self) -> None:
        """There is nothing to diverge from."""
        for name in ("grpo", "sft"):
            with pytest.raises(SodError, match=rf"method\.divergence: {name} has no teacher"):
                make_method(spec(name=name, divergence="jsd"))

    @pytest.mark.parametrize("offered", LEVELS)
    def test_a_teacher_that_cannot_give_what_is_needed(self, offered: Any) -> None:
        """Every preset, plain and dense, against every kind of teacher; both sides are named."""
        methods: list[Method] = [PRESETS[name]() for name in PRESETS]
        methods += [make("opd", {}, divergence=Divergence("jsd", top_k=k)) for k in (0, 5)]
        enough = {None: 0, "sampled": 1, "top1": 2, "topk": 3, "full": 4}
        refused = 0
        for method in methods:
            if enough[method.level] <= enough[offered]:
                refuse_unmet(method, Offer(offered), 1.0, "an API teacher")
                continue
            refused += 1
            with pytest.raises(
                SodError,
                match=f"method {method.name} needs {method.level} .*an API teacher gives {offered}",
            ):
                refuse_unmet(method, Offer(offered), 1.0, "an API teacher")
        assert refused == {"sampled": 3, "top1": 2, "topk": 1, "full": 0}[offered]

    def test_a_teacher_with_few_tokens_or_one_temperature(self) -> None:
        """The k of a top-k loss and the temperature count too; a method without a teacher asks for neither."""
        offer = Offer("topk", largest_k=20, temperatures=frozenset({1.0}))
        few, many = (make("opd", {}, divergence=Divergence("jsd", top_k=k)) for k in (20, 21))
        refuse_unmet(few, offer, 1.0, "an API teacher")
        with pytest.raises(SodError, match=r"method\.divergence\.top_k=21: an API teacher gives 20 tokens at most"):
            refuse_unmet(many, offer, 1.0, "an API teacher")
        with pytest.raises(SodError, match=r"rollout\.temperature=0\.7: an API teacher scores at temperature 1 only"):
            refuse_unmet(few, offer, 0.7, "an API teacher")
        refuse_unmet(PRESETS["grpo"](), offer, 0.7, "an API teacher")

    @pytest.mark.parametrize(
        ("keys", "named"),
        [
            ({"kappa": "high"}, "kappa='high'"),
            ({"kappa": True}, "kappa=True"),
            ({"kappa": float("nan")}, "kappa.start=nan"),
            ({"rho": float("inf")}, "rho.start=inf"),
            ({"kappa": {"schedule": "step", "start": 1, "end": 0}}, "kappa.schedule='step'"),
            ({"kappa": {"start": 1, "end": 0, "steps": 0}}, "kappa.steps=0"),
            ({"kappa": {"start": 1, "end": float("nan"), "steps": 5}}, "kappa.end=nan"),
            ({"kappa": {"start": 1, "steps": 5}}, "key method.kappa.end is missing"),
            ({"kappa": {"start": 1, "end": 0, "stpes": 5}}, "unknown key method.kappa.stpes"),
            ({"name": "error_decay", "decay": 1.5}, "decay=1.5"),
            ({"name": "error_decay", "decay": float("nan")}, "decay=nan"),
            ({"delta": -0.1}, "delta=-0.1"),
            ({"delta": float("nan")}, "delta=nan"),
            ({"delta": [1]}, "delta=[1]"),
            ({"epsilon": 0}, "epsilon=0: input should be greater than 0"),
            ({"epsilon": float("inf")}, "epsilon=inf: input should be a finite number"),
            ({"name": "tcod_f2b", "start": 0}, "start=0"),
            ({"name": "tcod_f2b", "start": 1.5}, "start=1.5"),
            ({"name": "tcod_b2f", "every": 0}, "every=0"),
            ({"name": "opsd_gt", "teacher_rule": "sometimes"}, "teacher_rule='sometimes'"),
            ({"name": "opsd_gt", "teacher_every": 0}, "teacher_every=0"),
            ({"name": "opsd_hint", "teacher_decay": 1.0}, "teacher_decay=1.0"),
            ({"name": "gated_opd", "gamma": float("nan")}, "gamma=nan"),
            ({"name": "gated_opd", "beta_min": -1}, "beta_min=-1"),
            ({"name": "sage", "threshold": -1}, "threshold=-1"),
        ],
        ids=str,
    )
    def test_knobs_out_of_range(self, keys: dict[str, Any], named: str) -> None:
        """In one line with key and value."""
        with pytest.raises(SodError) as caught:
            make_method(spec(**keys))
        message = str(caught.value)
        assert named in message
        assert "method." in message
        assert "\n" not in message

    def test_values_that_contradict_each_other(self) -> None:
        """Each in range by itself."""
        with pytest.raises(SodError, match=r"^method: beta_min=2\.0 is above beta_max=0\.3"):
            make_method(spec(name="gated_opd", beta_min=2))

    @pytest.mark.parametrize(
        ("keys", "named"),
        [
            ({"loss_aggregation": "mean"}, "loss_aggregation"),
            ({"loss_aggregation": "token"}, "loss_aggregation"),
            ({"divergence": "kl"}, "divergence.kind"),
            ({"divergence": {"kind": "jsd", "beta": 1.0}}, "divergence.beta"),
            ({"divergence": {"kind": "jsd", "top_k": -1}}, "divergence.top_k"),
            ({"clip_low": 1.0}, "clip_low"),
            ({"dual_clip": 1.0}, "dual_clip"),
            ({"dual_clip": float("inf")}, "dual_clip"),
        ],
        ids=str,
    )
    def test_values_out_of_range(self, keys: dict[str, Any], named: str) -> None:
        """Refused where the recipe is read."""
        with pytest.raises(ValidationError, match=f"(?s){named}"):
            spec(**keys)


def test_rows_of_the_list() -> None:
    """Every preset once, in order: a paper, what it needs, all its knobs with their defaults, what it is."""
    rows = method_rows()
    assert [row[0] for row in rows] == list(PRESETS)
    needs = {name: need for name, _, need, _, _ in rows}
    assert needs["sft"] == "demonstrations"
    assert needs["grpo"] == "reward, group"
    assert needs["opd"] == "sampled log-probs"
    assert needs["sod"] == "sampled log-probs, reward, group"
    assert needs["sage"] == "sampled and top-1 log-probs"
    assert needs["opsd_gt"] == "sampled log-probs, privileged context (ground truth)"
    assert needs["opsd_hint"] == "sampled log-probs, privileged context (hint)"
    assert needs["tcod_b2f"] == "sampled log-probs, teacher's episodes"
    for name, paper, _, shown, text in rows:
        assert paper == PRESETS[name]().paper
        assert [part.partition("=")[0] for part in shown.split(", ") if "=" in part] == list(knobs(name))
        assert text
        assert "\n" not in text
    shown = {row[0]: row[3] for row in rows}
    assert shown["sod"] == "kappa=1, rho=1, delta=0.2, epsilon=1e-06"
    values = {knob: (kind, meaning) for knob, kind, meaning in knob_rows()}
    assert set(values) == {knob for name in PRESETS for knob in knobs(name)}
    assert values["epsilon"] == ("number > 0", knobs("sod")["epsilon"].declared.meaning)
    assert values["kappa"][0] == "number or schedule"
    assert values["teacher_rule"][0] == "frozen, every or ema"
    assert len(knob_rows(["sod", "sod_no_clip"])) == 4
    assert shown["atod"] == "kappa=linear 1 to 0.1 over 80, rho=linear 1 to 2 over 80"
