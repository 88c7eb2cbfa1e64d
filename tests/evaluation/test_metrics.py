"""Metrics against brute force: enumeration of subsets and of orders."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.evaluation.intervals import mean_interval
from sod.evaluation.metrics import (
    Estimate,
    avg_at_k,
    avg_per_problem,
    maj_at_k,
    maj_per_problem,
    pass_at_k,
    pass_curve,
    pass_per_problem,
    powers_up_to,
    summarise,
)

rows = st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=5)
votes = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=6)


def test_avg_is_the_mean_of_row_means_not_of_all_samples() -> None:
    correct = [[1, 1, 1, 1], [0], [True, False]]
    assert avg_per_problem(correct) == [1.0, 0.0, 0.5]
    assert avg_at_k(correct) == 0.5  # pooling all seven samples would give 5/7


def test_avg_takes_the_first_k_and_any_score() -> None:
    assert avg_at_k([[1.0, 0.0, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0]], k=2) == 0.5
    assert avg_at_k([[1.0], [0.0, 0.0, 1.0]], k=2) == 0.5  # a short row counts with what it has


def test_empty_rows_are_left_out_of_every_metric() -> None:
    correct: list[list[float]] = [[1, 0], [], [0, 0]]
    answers: list[list[str | None]] = [["1", None], [], ["2", "2"]]
    assert avg_at_k(correct) == 0.25
    assert pass_at_k(correct) == 0.5
    assert maj_at_k(answers, correct) == 0.5
    assert len(avg_per_problem(correct)) == len(maj_per_problem(answers, correct)) == 2


def test_numpy_arrays_are_welcome() -> None:
    assert avg_at_k(np.array([[1, 0], [1, 1]])) == 0.75  # type: ignore[arg-type]
    assert pass_at_k(np.array([[True, False], [False, False]])) == 0.5  # type: ignore[arg-type]


@settings(deadline=None)
@given(rows, st.data())
def test_pass_at_k_equals_enumeration_of_all_subsets(correct: list[list[bool]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, min(len(row) for row in correct)))
    exact = []
    for row in correct:
        subsets = list(itertools.combinations(row, k))
        exact.append(Fraction(sum(any(subset) for subset in subsets), len(subsets)))
    assert pass_per_problem(correct, k) == pytest.approx([float(value) for value in exact], abs=1e-12)
    assert pass_at_k(correct, k) == pytest.approx(float(sum(exact) / len(exact)), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(10_000, 1, 10), (10_000, 3, 5_000), (2_000, 1_990, 10)])
def test_pass_at_k_is_stable_where_the_binomials_overflow(n: int, c: int, k: int) -> None:
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k([[1] * c + [0] * (n - c)], k) == pytest.approx(float(exact), rel=1e-9)


def test_pass_at_k_defaults_to_the_smallest_row() -> None:
    correct = [[1, 0, 0], [0, 1]]
    assert pass_at_k(correct) == pass_at_k(correct, k=2) == pytest.approx((2 / 3 + 1) / 2)
    assert pass_at_k(correct, k=1) == pytest.approx(avg_at_k(correct))


def test_pass_at_k_names_the_row_that_is_too_short() -> None:
    with pytest.raises(ValueError, match=r"row 1 has 2 samples: too few for pass@3"):
        pass_at_k([[1, 0, 0], [0, 1]], k=3)


def test_pass_at_k_refuses_partial_credit() -> None:
    with pytest.raises(ValueError, match=r"row 1 .*right or wrong"):
        pass_at_k([[1, 0], [0.5, 0]])


def test_majority_of_the_first_k() -> None:
    answers = [["7", "7", "8", "8", "8"]]
    correct = [[0, 0, 1, 1, 1]]
    assert maj_at_k(answers, correct) == 1.0
    assert maj_at_k(answers, correct, k=3) == 0.0
    assert maj_at_k(answers, correct, k=4) == 0.5


def test_no_answer_never_wins_against_an_answer() -> None:
    assert maj_at_k([[None, None, None, "7"]], [[0, 0, 0, 1]]) == 1.0
    assert maj_at_k([[None, None]], [[0, 0]]) == 0.0


def test_a_tie_is_the_mean_over_the_tied_answers() -> None:
    assert maj_at_k([["1", "2", "3"]], [[1, 0, 0]]) == pytest.approx(1 / 3)
    assert maj_at_k([["1", "1", "2", "2", "3"]], [[1, 1, 0, 0, 0]]) == 0.5


@settings(deadline=None)
@given(votes)
def test_majority_equals_random_tie_breaking_over_all_orders(answers: list[str | None]) -> None:
    correct = [float(answer == "1") for answer in answers]
    outcomes = []
    for order in itertools.permutations(range(len(answers))):
        given_answers = [answers[i] for i in order if answers[i] is not None]
        # `max` keeps the tied answer that came first; over all orders each comes first equally often.
        counts = {a: given_answers.count(a) for a in given_answers}
        outcomes.append(float(bool(counts) and max(counts, key=lambda a: counts[a]) == "1"))
    assert maj_at_k([answers], [correct]) == pytest.approx(np.mean(outcomes), abs=1e-12)


@settings(deadline=None)
@given(votes, st.randoms(use_true_random=False))
def test_majority_does_not_depend_on_order(answers: list[str | None], random: object) -> None:
    pairs = [(answer, float(answer == "1")) for answer in answers]
    shuffled = pairs.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = ([[p[0] for p in x]] for x in (pairs, shuffled))
    assert maj_at_k(one, [[p[1] for p in pairs]]) == pytest.approx(maj_at_k(two, [[p[1] for p in shuffled]]), abs=1e-12)


def test_rows_that_do_not_match_are_named() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 answers but 2 correctness values"):
        maj_at_k([["1"], ["2"]], [[1], [0, 0]])
    with pytest.raises(ValueError, match="2 rows of answers but 1 rows"):
        maj_at_k([["1"], ["2"]], [[1]])


@pytest.mark.parametrize("empty", [[], [[]], [[], []]])
def test_empty_input_is_an_error(empty: list[list[float]]) -> None:
    answers: list[list[str | None]] = [[] for _ in empty]
    for call in (
        lambda: avg_at_k(empty),
        lambda: pass_at_k(empty),
        lambda: maj_at_k(answers, empty),
        lambda: summarise(answers, empty, k=1),
        lambda: mean_interval([]),
    ):
        with pytest.raises(ValueError, match=r"no samples|no problem|no values"):
            call()


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_an_error(k: int) -> None:
    for call in (
        lambda: avg_at_k([[1]], k),
        lambda: pass_at_k([[1]], k),
        lambda: maj_at_k([["1"]], [[1]], k),
        lambda: summarise([["1"]], [[1]], k),
    ):
        with pytest.raises(ValueError, match="k must be at least 1"):
            call()


def test_a_score_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        avg_at_k([[1.0, math.nan]])


@settings(max_examples=25, deadline=None)
@given(rows)
def test_summary_holds_the_three_metrics_with_their_intervals(correct: list[list[bool]]) -> None:
    answers: list[list[str | None]] = [["1" if right else "0" for right in row] for row in correct]
    k = min(len(row) for row in correct)
    summary = summarise(answers, correct, k)
    assert list(summary) == ["avg_at_k", "pass_at_k", "maj_at_k"]
    assert summary["avg_at_k"].value == avg_at_k(correct, k)
    assert summary["pass_at_k"].value == pass_at_k(correct, k)
    assert summary["maj_at_k"].value == maj_at_k(answers, correct, k)
    expected = mean_interval(pass_per_problem(correct, k))
    assert (summary["pass_at_k"].low, summary["pass_at_k"].high) == expected
    for estimate in summary.values():
        assert isinstance(estimate, Estimate)
        assert estimate.low <= estimate.value + 1e-12
        assert estimate.value <= estimate.high + 1e-12


def test_one_lost_episode_does_not_cost_the_evaluation() -> None:
    answers = [["1", "0"], ["1"], ["0", "0"]]
    correct = [[1, 0], [1], [0, 0]]
    summary = summarise(answers, correct, k=2)
    assert summary["avg_at_k"].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert summary["pass_at_k"].value == 0.5  # over the two problems that kept both samples
    with pytest.raises(ValueError, match="no problem has the 3 samples"):
        summarise(answers, correct, k=3)


@pytest.mark.parametrize(("k", "powers"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (32, [1, 2, 4, 8, 16, 32])])
def test_powers_of_two_up_to_k_and_k(k: int, powers: list[int]) -> None:
    assert powers_up_to(k) == powers


def test_the_curve_of_pass_takes_the_problems_with_enough_samples() -> None:
    """By enumerating subsets; a problem that lost a sample counts for the smaller numbers, and none for 8."""
    correct = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    curve = pass_curve(correct, 8)
    assert list(curve) == [1, 2, 4]
    pairs = [[max(pair) for pair in itertools.combinations(row, 2)] for row in correct]
    assert curve[1].value == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert curve[2].value == pytest.approx(np.mean([np.mean(row) for row in pairs]))
    assert curve[4].value == 1.0
    assert (curve[2].low, curve[2].high) == pytest.approx(mean_interval([float(np.mean(row)) for row in pairs]))
