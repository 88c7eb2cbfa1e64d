"""Losses across tokenizers beside plain sums over every event of tiny vocabularies with other merges."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from sod.alignment import estimators
from sod.alignment.estimators import Chunk
from sod.alignment.pieces import Pieces
from sod.alignment.spans import Spans, aligned_spans
from sod.alignment.vocabularies import blank_tokens, longest_prefixes, shared_tokens
from sod.objective.divergence import Divergence, divergence

STUDENT = (b"a", b"b", b" ", b"ab", b"ba", b"bb")
TEACHER = (b"bab", b"b", b"a", b"aa", b"ab", b"a b", b" ")


def pieces(names: Sequence[bytes], control: Sequence[bytes] = ()) -> Pieces:
    table = (*names, *control, b"")
    none = np.zeros(len(table), dtype=bool)
    marks = np.array([*([False] * len(names)), *([True] * len(control)), True])
    return Pieces(table, np.array([len(name) for name in table]), marks, none, b"", str)


def cut(text: bytes, vocabulary: Sequence[bytes], rng: random.Random) -> list[int]:
    """One of the ways to write a text in a vocabulary."""
    ids = []
    while text:
        fits = [id for id, piece in enumerate(vocabulary) if text.startswith(piece)]
        ids.append(rng.choice(fits))
        text = text[len(vocabulary[ids[-1]]) :]
    return ids


def part_of(seed: int, student: Sequence[bytes] = STUDENT, teacher: Sequence[bytes] = TEACHER) -> Chunk:
    """A random text of up to a dozen bytes in both vocabularies, with random logits (float64)."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    text = bytes(rng.choices(b"ab ", k=rng.randrange(4, 12)))
    own, theirs = cut(text, student, rng), cut(text, teacher, rng)
    lengths = [np.array([len(names[id]) for id in ids]) for names, ids in ((student, own), (teacher, theirs))]
    spans = aligned_spans(*lengths)
    own_NV = torch.randn(len(own), len(student), generator=generator, dtype=torch.float64)
    theirs_MW = torch.randn(len(theirs), len(teacher), generator=generator, dtype=torch.float64)
    columns = (spans.student_start, spans.student_stop, spans.teacher_start, spans.teacher_stop)
    edges = [torch.as_tensor(column) for column in columns]
    return Chunk(own_NV, theirs_MW, torch.tensor(own), torch.tensor(theirs), *edges)


def shared() -> tuple[Tensor, Tensor]:
    found = shared_tokens(pieces(STUDENT), pieces(TEACHER))
    return torch.as_tensor(found.student), torch.as_tensor(found.teacher)


PARTS = [part_of(seed) for seed in range(40)]


def softmax(scores: dict[bytes, float]) -> dict[bytes, float]:
    total = sum(math.exp(score) for score in scores.values())
    return {event: math.exp(score) / total for event, score in scores.items()}


def logs(row: Tensor, names: Sequence[bytes]) -> dict[bytes, float]:
    return {event: math.log(p) for event, p in softmax(dict(zip(names, row.tolist(), strict=True))).items()}


def kl(left: dict[bytes, float], right: dict[bytes, float]) -> float:
    return sum(p * math.log(p / right[event]) for event, p in left.items())


def written(
    part: Chunk, span: int
) -> tuple[list[dict[bytes, float]], list[bytes], list[dict[bytes, float]], list[bytes]]:
    """A span's log-probabilities at each of its tokens, and those tokens, on both sides."""
    own = range(int(part.student_start_S[span]), int(part.student_stop_S[span]))
    theirs = range(int(part.teacher_start_S[span]), int(part.teacher_stop_S[span]))
    return (
        [logs(part.student_logits_NV[n], STUDENT) for n in own],
        [STUDENT[part.student_id_N[n]] for n in own],
        [logs(part.teacher_logits_MW[m], TEACHER) for m in theirs],
        [TEACHER[part.teacher_id_M[m]] for m in theirs],
    )


COMMON = [name for name in STUDENT if name in TEACHER]


def plain_simct(part: Chunk, span: int) -> float:
    own, own_tokens, theirs, their_tokens = written(part, span)
    left, right = ({name: rows[0][name] for name in COMMON} for rows in (own, theirs))
    if own_tokens != their_tokens or len(own_tokens) > 1:
        left[b"unit"] = sum(row[token] for row, token in zip(own, own_tokens, strict=True)) / len(own)
        right[b"unit"] = sum(row[token] for row, token in zip(theirs, their_tokens, strict=True)) / len(theirs)
    return kl(softmax(left), softmax(right))


def plain_strict(part: Chunk, span: int, k: int = 2) -> float:
    own, own_tokens, theirs, their_tokens = written(part, span)
    if own_tokens != their_tokens or len(own_tokens) > 1:
        return 0.0
    chosen = sorted(COMMON, key=lambda name: -own[0][name])[:k]
    left, right = ({name: rows[0][name] for name in chosen} for rows in (own, theirs))
    return kl(softmax(left), softmax(right))


def merged(rows: list[dict[bytes, float]], tokens: list[bytes]) -> dict[bytes, float]:
    rest = math.prod(math.exp(row[token]) for row, token in zip(rows[1:], tokens[1:], strict=True))
    return {name: math.exp(logp) * rest for name, logp in rows[0].items()}


def l1(own: Sequence[float], theirs: Sequence[float]) -> float:
    size = max(len(own), len(theirs))
    pairs = ([*sorted(side, reverse=True), *[0.0] * (size - len(side))] for side in (own, theirs))
    return sum(abs(p - q) for p, q in zip(*pairs, strict=True))


def plain_gold(part: Chunk, span: int, beta: float = 0.3) -> float:
    own, own_tokens, theirs, their_tokens = written(part, span)
    p, q = merged(theirs, their_tokens), merged(own, own_tokens)
    jsd = 0.0
    for name in COMMON:
        m = beta * p[name] + (1 - beta) * q[name]
        jsd += beta * p[name] * math.log(p[name] / m) + (1 - beta) * q[name] * math.log(q[name] / m)
    rest = l1([q[name] for name in STUDENT if name not in COMMON], [p[name] for name in TEACHER if name not in COMMON])
    share = len(COMMON) / len(TEACHER)
    return share * jsd + (1 - share) * rest


def plain_uld(part: Chunk, span: int) -> float:
    own, own_tokens, theirs, their_tokens = written(part, span)
    return l1(list(merged(own, own_tokens).values()), list(merged(theirs, their_tokens).values()))


def plain_bpm(part: Chunk, span: int) -> float:
    own, own_tokens, theirs, _ = written(part, span)
    if own_tokens[0].isspace():
        return 0.0
    target: dict[bytes, float] = {}
    for name, logp in theirs[0].items():
        prefix = max((piece for piece in STUDENT if name.startswith(piece)), key=len)
        target[prefix] = target.get(prefix, 0.0) + math.exp(logp)
    return sum(p * (math.log(p) - own[0][name]) for name, p in target.items())


def bpm(part: Chunk) -> Tensor:
    student, teacher = pieces(STUDENT), pieces(TEACHER)
    prefix_W, blank_V = longest_prefixes(student, teacher), blank_tokens(student)
    return estimators.bpm(part, torch.as_tensor(prefix_W), torch.as_tensor(blank_V))


DENSE: dict[str, tuple[Callable[[Chunk], Tensor], Callable[[Chunk, int], float]]] = {
    "simct": (lambda part: estimators.simct(part, *shared()), plain_simct),
    "strict_topk": (lambda part: estimators.strict_topk(part, *shared(), k=2), plain_strict),
    "shared_tokens": (
        lambda part: estimators.shared_tokens(part, *shared()),
        lambda part, span: plain_strict(part, span, 99),
    ),
    "gold": (lambda part: estimators.gold(part, *shared(), beta=0.3), plain_gold),
    "uld": (estimators.uld, plain_uld),
    "bpm": (bpm, plain_bpm),
}


@pytest.mark.parametrize("name", DENSE)
def test_the_loss_of_every_span_is_the_sum_over_its_events(name: str) -> None:
    estimator, plain = DENSE[name]
    for part in PARTS:
        expected = [plain(part, span) for span in range(len(part.student_start_S))]
        assert estimator(part).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert any(len(part.student_id_N) > len(part.student_start_S) for part in PARTS)


@pytest.mark.parametrize("name", DENSE)
def test_the_gradient_is_that_of_the_sum_over_events(name: str) -> None:
    """Central differences of the plain sum, at every student logit of a few texts."""
    estimator, plain = DENSE[name]
    step = 1e-6
    for part in PARTS[:4]:
        spans = range(len(part.student_start_S))
        logits = part.student_logits_NV.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(estimator(replace(part, student_logits_NV=logits)).sum(), logits)
        for n, v in product(range(logits.shape[0]), range(logits.shape[1])):
            sides = []
            for sign in (1, -1):
                moved = part.student_logits_NV.clone()
                moved[n, v] += sign * step
                sides.append(sum(plain(replace(part, student_logits_NV=moved), span) for span in spans))
            assert float(gradient[n, v]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("name", DENSE)
def test_no_span_at_all_is_no_loss(name: str) -> None:
    none, part = torch.zeros(0, dtype=torch.int64), PARTS[0]
    edges = dict.fromkeys(("student_start_S", "student_stop_S", "teacher_start_S", "teacher_stop_S"), none)
    assert DENSE[name][0](replace(part, **edges)).shape == (0,)


def test_the_teacher_is_constant() -> None:
    for estimator, _ in DENSE.values():
        logits = PARTS[0].teacher_logits_MW.clone().requires_grad_()
        own = PARTS[0].student_logits_NV.clone().requires_grad_()
        loss = estimator(replace(PARTS[0], teacher_logits_MW=logits, student_logits_NV=own)).sum()
        assert torch.autograd.grad(loss, logits, allow_unused=True) == (None,)


def test_the_authors_simct_takes_mean_raw_logits_of_a_unit() -> None:
    """A shift of all logits of one row changes it, and not the paper's."""
    part = next(part for part in PARTS if (part.student_stop_S - part.student_start_S > 1).any())
    span = int((part.student_stop_S - part.student_start_S > 1).nonzero()[0])
    later = int(part.student_start_S[span]) + 1
    shifted = part.student_logits_NV.clone()
    shifted[later] += 2.0
    moved = replace(part, student_logits_NV=shifted)
    paper = [estimators.simct(which, *shared())[span].item() for which in (part, moved)]
    authors = [estimators.simct(which, *shared(), unit_score="logit")[span].item() for which in (part, moved)]
    assert paper[0] == pytest.approx(paper[1], rel=1e-12)
    assert abs(authors[0] - authors[1]) > 1e-3
    own, theirs = (
        slice(int(part.student_start_S[span]), int(part.student_stop_S[span])),
        slice(int(part.teacher_start_S[span]), int(part.teacher_stop_S[span])),
    )
    sides = []
    for logits, ids, names, at in (
        (part.student_logits_NV, part.student_id_N, STUDENT, own),
        (part.teacher_logits_MW, part.teacher_id_M, TEACHER, theirs),
    ):
        rows = logits[at].tolist()
        scores = {name: rows[0][names.index(name)] for name in COMMON}
        scores[b"unit"] = sum(row[id] for row, id in zip(rows, ids[at].tolist(), strict=True)) / len(rows)
        sides.append(softmax(scores))
    assert authors[0] == pytest.approx(kl(*sides), rel=1e-9)


def test_one_token_each_that_is_no_shared_pair_is_nothing_to_strict_topk_and_a_unit_to_simct() -> None:
    """Tokens of equal bytes may be no pair (a control token and text): a unit of one token is scored as a token is."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(1, len(names), generator=generator) for names in (STUDENT, TEACHER)]
    ids = torch.tensor([STUDENT.index(b"a")]), torch.tensor([TEACHER.index(b"a")])
    part = Chunk(*logits, *ids, *[torch.tensor([0]), torch.tensor([1])] * 2)
    own_C, theirs_C = shared()
    others = own_C != ids[0]
    for estimator in (estimators.strict_topk, estimators.shared_tokens):
        assert estimator(part, own_C, theirs_C).all()
        assert not estimator(part, own_C[others], theirs_C[others]).any()
    unit = estimators.simct(part, own_C[others], theirs_C[others])
    torch.testing.assert_close(unit, estimators.simct(part, own_C, theirs_C))


# One tokenizer on both sides


def same(seed: int) -> Chunk:
    rng = random.Random(seed)
    part = part_of(seed, STUDENT, STUDENT)
    ids = torch.tensor([rng.randrange(len(STUDENT)) for _ in range(20)])
    edges = [torch.arange(20), torch.arange(1, 21)] * 2
    own, theirs = (torch.randn(20, len(STUDENT), generator=torch.Generator().manual_seed(seed + n)) for n in (0, 1))
    assert part.student_logits_NV.dtype == torch.float64
    return Chunk(own, theirs, ids, ids, *edges)


ALL = torch.arange(len(STUDENT))


@pytest.mark.parametrize(
    ("estimator", "spec"),
    [
        (lambda part: estimators.strict_topk(part, ALL, ALL, k=len(STUDENT)), Divergence("reverse_kl")),
        (lambda part: estimators.shared_tokens(part, ALL, ALL), Divergence("reverse_kl")),
        (lambda part: estimators.simct(part, ALL, ALL), Divergence("reverse_kl")),
        (lambda part: estimators.simct(part, ALL, ALL, "logit"), Divergence("reverse_kl")),
        (lambda part: estimators.gold(part, ALL, ALL, beta=0.3), Divergence("jsd", beta=0.3)),
    ],
)
def test_one_tokenizer_gives_the_loss_of_one_tokenizer_to_the_bit(
    estimator: Callable[[Chunk], Tensor], spec: Divergence
) -> None:
    part = same(3)
    logits = part.student_logits_NV.clone().requires_grad_()
    loss = estimator(replace(part, student_logits_NV=logits))
    expected = divergence(logits, part.teacher_logits_MW, spec)
    assert torch.equal(loss, expected)
    left, right = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (loss, expected))
    assert torch.equal(left, right)


def test_one_tokenizer_gives_the_forward_kl_by_prefixes() -> None:
    part = same(4)
    blank_V = torch.zeros(len(STUDENT), dtype=torch.bool)
    expected = divergence(part.student_logits_NV, part.teacher_logits_MW, Divergence("forward_kl"))
    torch.testing.assert_close(estimators.bpm(part, ALL, blank_V), expected)


def test_one_tokenizer_gives_the_teacher_gap_to_the_bit() -> None:
    own, theirs = -torch.rand(50), -torch.rand(50)
    ones = np.ones(50, dtype=np.int64)
    gap, aligned = estimators.chunk(own, theirs, aligned_spans(ones, ones))
    assert torch.equal(gap, theirs - own)
    assert aligned.all()


# The chunk advantage


def test_chunk_shares_the_teachers_log_probability_by_the_students() -> None:
    """The numbers by hand: L_T = -1.2 over tokens of -1 and -3, then -0.5 - 0.25 over one of -2, then none."""
    spans = Spans(*(np.array(column) for column in ([0, 2], [2, 3], [0, 1], [1, 3])))
    gap, aligned = estimators.chunk(torch.tensor([-1.0, -3, -2, -7]), torch.tensor([-1.2, -0.5, -0.25, -9]), spans)
    assert gap.tolist() == pytest.approx([-0.3 + 1, -0.9 + 3, -0.75 + 2, 0.0])
    assert aligned.tolist() == [True, True, True, False]
    certain, _ = estimators.chunk(torch.tensor([0.0, 0.0, -1, 0]), torch.tensor([-1.0, 0, -1, 0]), spans)
    assert certain.tolist() == [-0.5, -0.5, 0.0, 0.0]
    none, aligned = estimators.chunk(torch.tensor([-1.0]), torch.tensor([-2.0]), spans.kept(np.zeros(2, dtype=bool)))
    assert (none.tolist(), aligned.tolist()) == ([0.0], [False])


def test_chunk_advantages_of_a_span_sum_to_the_gap_of_its_text() -> None:
    for part in PARTS:
        own = part.student_logits_NV.log_softmax(1).gather(1, part.student_id_N[:, None])[:, 0]
        theirs = part.teacher_logits_MW.log_softmax(1).gather(1, part.teacher_id_M[:, None])[:, 0]
        edges = (part.student_start_S, part.student_stop_S, part.teacher_start_S, part.teacher_stop_S)
        spans = Spans(*(edge.numpy() for edge in edges))
        gap, aligned = estimators.chunk(own, theirs, spans)
        assert aligned.all()
        assert float(gap.sum()) == pytest.approx(float(theirs.sum() - own.sum()))
        for a, b, c, d in zip(*(edge.tolist() for edge in edges), strict=True):
            assert float(gap[a:b].sum()) == pytest.approx(float(theirs[c:d].sum() - own[a:b].sum()))


def test_chunk_in_expectation_over_all_that_one_token_may_say_is_the_gradient_of_the_kl() -> None:
    """The student says one token, the teacher reads its text in letters: `KL(student || teacher's text)` exactly."""
    torch.manual_seed(0)
    names, letters = (b"a", b"b", b"ab", b"bab"), {b"a": 0, b"b": 1}
    logits = torch.randn(4, dtype=torch.float64)
    table = {text: torch.randn(2).log_softmax(0).double() for text in (b"", b"a", b"b", b"ba", b"ab")}

    def teacher(text: bytes) -> list[float]:
        return [float(table[text[:at]][letters[text[at : at + 1]]]) for at in range(len(text))]

    def divergence_of(values: Tensor) -> float:
        logp = values.log_softmax(0).tolist()
        return sum(math.exp(own) * (own - sum(teacher(text))) for own, text in zip(logp, names, strict=True))

    own = logits.clone().requires_grad_()
    logp, expected_gradient = own.log_softmax(0), torch.zeros(4, dtype=torch.float64)
    for token, text in enumerate(names):
        spans = aligned_spans(np.array([len(text)]), np.ones(len(text), dtype=np.int64))
        gap, _ = estimators.chunk(logp[token : token + 1], torch.tensor(teacher(text), dtype=torch.float64), spans)
        (direction,) = torch.autograd.grad(logp[token], own, retain_graph=True)
        expected_gradient += logp[token].exp().detach() * gap[0] * direction
    for v in range(4):
        steps = [logits.clone(), logits.clone()]
        steps[0][v] += 1e-6
        steps[1][v] -= 1e-6
        slope = (divergence_of(steps[0]) - divergence_of(steps[1])) / 2e-6
        assert float(expected_gradient[v]) == pytest.approx(-slope, abs=1e-8)


# Vocabularies


def certain(ids: Sequence[int], vocabulary: int) -> Tensor:
    logits_NV = torch.zeros(len(ids), vocabulary, dtype=torch.float64)
    logits_NV[range(len(ids)), ids] = 12.0
    return logits_NV


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("shared_tokens", 0, 0), ("bpm", 0, 1e-3), ("uld", 0, 1e-3), ("simct", 4, 9), ("gold", 0.3, 0.7)],
)
def test_where_both_are_certain_of_a_number_that_one_of_them_cuts(name: str, least: float, most: float) -> None:
    """A known property of `simct` and `gold` as they are published: the number's first digit, which both have as a
    token, competes with the number itself, so that they are not 0 where both models agree (docs/methods.md)."""
    digits = [b"2", b"8"]
    student, teacher = pieces(digits), pieces([*digits, b"82"])
    edges = [torch.tensor([edge]) for edge in (0, 2, 0, 1)]
    part = Chunk(certain([1, 0], 2), certain([2], 3), torch.tensor([1, 0]), torch.tensor([2]), *edges)
    both = torch.arange(2)
    values = {
        "shared_tokens": estimators.shared_tokens(part, both, both),
        "bpm": estimators.bpm(part, torch.as_tensor(longest_prefixes(student, teacher)), torch.zeros(2).bool()),
        "uld": estimators.uld(part),
        "simct": estimators.simct(part, both, both),
        "gold": estimators.gold(part, both, both),
    }
    assert least <= float(values[name]) <= most


def test_tokens_are_shared_by_their_bytes() -> None:
    found = shared_tokens(pieces(STUDENT, (b"<end>", b"a")), pieces(TEACHER, (b"<end>",)))
    assert [(*STUDENT, b"<end>")[id] for id in found.student] == [*COMMON, b"<end>"]
    assert [(*TEACHER, b"<end>")[id] for id in found.teacher] == [*COMMON, b"<end>"]
    one = shared_tokens(pieces(STUDENT, (b"<end>",)), pieces(STUDENT, (b"<end>",)))
    assert one.student.tolist() == one.teacher.tolist() == list(range(len(STUDENT) + 1))


def test_a_spelled_byte_stands_for_a_token_where_there_is_no_other() -> None:
    own = pieces((b"a", b"a", b"\n"))
    own = replace(own, fallback=np.array([True, False, True, False]))
    found = shared_tokens(own, pieces((b"\n", b"a")))
    assert list(zip(found.student.tolist(), found.teacher.tolist(), strict=True)) == [(1, 1), (2, 0)]


def test_the_longest_prefix_of_each_of_the_teachers_tokens() -> None:
    prefix = longest_prefixes(pieces(STUDENT), pieces((*TEACHER, b"c"), (b"<end>",)))
    expected = [b"ba", b"b", b"a", b"a", b"ab", b"a", b" "]
    assert [STUDENT[id] for id in prefix[: len(expected)]] == expected
    assert prefix[len(expected) :].tolist() == [-1, -1]
    assert [STUDENT[id] for id in np.flatnonzero(blank_tokens(pieces(STUDENT)))] == [b" "]


def test_mass_without_a_prefix_is_one_more_event() -> None:
    """The teacher's control token, and the student's tokens that no token of the teacher's begins with."""
    own, theirs = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.2, 0.1]])
    edges = [torch.tensor([0]), torch.tensor([1])] * 2
    part = Chunk(own, theirs, torch.tensor([0]), torch.tensor([0]), *edges)
    loss = estimators.bpm(part, torch.tensor([1, -1]), torch.zeros(3, dtype=torch.bool))
    p, q = theirs.softmax(1)[0].tolist(), own.softmax(1)[0].tolist()
    expected = p[0] * math.log(p[0] / q[1]) + p[1] * math.log(p[1] / (q[0] + q[2]))
    assert loss.tolist() == pytest.approx([expected], rel=1e-5)
