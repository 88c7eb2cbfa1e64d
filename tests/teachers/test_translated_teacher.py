"""A teacher with another tokenizer: its own tokens' scores at the student's, span by span."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import pytest
import torch

from other_teacher import batch_of, other_reader
from sod.alignment.pieces import pieces_of
from sod.alignment.turns import match_trajectory
from sod.chat.render import Chat
from sod.objective.aggregation import loss_weights
from sod.objective.batch import TokenBatch
from sod.objective.methods import advantage, surrogate
from sod.objective.presets import PRESETS
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.objective.spans import by_token
from sod.records import Fault, FaultKind, Said, SodError, ToolCall
from sod.teachers.coverage import coverage_figures
from sod.teachers.local import LocalTeacher
from sod.teachers.translated import Reader, TranslatedTeacher, Translation

ALL = ScoreNeed(top1=True, entropy=True)


@pytest.fixture(scope="module")
def batch(chat: Chat) -> TokenBatch:
    """Four episodes of one to three turns."""
    return batch_of(chat)


@pytest.fixture(scope="module")
def own(chat: Chat) -> Reader:
    return Reader(chat, pieces_of(chat.tokenizer))


@pytest.fixture(scope="module")
def other() -> tuple[Reader, Any]:
    return other_reader()


def translated(student: Reader, other: tuple[Reader, Any], **options: Any) -> TranslatedTeacher:
    reader, model = other
    return TranslatedTeacher(LocalTeacher(model, 300), Translation(student, reader, "the-teacher", **options))


def old_logps(batch: TokenBatch) -> torch.Tensor:
    """Some log-probabilities of the student's."""
    generator = torch.Generator().manual_seed(3)
    return -3.0 * torch.rand(batch.token_BT.shape, generator=generator).masked_fill(batch.turn_BT == 0, 0.0)


@pytest.mark.parametrize("name", ["opd", "sod", "atod", "sage", "gated_opd", "error_decay"])
def test_the_students_own_tokenizer_gives_the_same_loss_to_the_bit(
    name: str, batch: TokenBatch, own: Reader, model: Any, clone: Callable[[Any], Any]
) -> None:
    """Scores, turn weights, advantage and the clipped loss of whatever method."""
    teacher = LocalTeacher(clone(model), 300)
    through = TranslatedTeacher(teacher, Translation(own, own, "the-teacher", min_coverage=1.0))
    logp_BT, losses, signals = old_logps(batch) - 0.1, [], []
    for scores in (teacher.score(batch, (), ALL), through.score(batch, batch.episodes, ALL)):
        scored = batch.scored(old_logps(batch), scores)
        signals.append(advantage(PRESETS[name](), scored))
        aimed = scored.aimed(signals[-1].advantage_BT).filled(loss_weight_BT=loss_weights(batch.turn_BT, "token-mean"))
        losses.append(surrogate(PRESETS[name](), logp_BT, aimed).loss)
    plain, aligned = signals
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(plain.advantage_BT, aligned.advantage_BT)
    assert plain.weight_BK is not None
    assert torch.equal(plain.weight_BK, aligned.weight_BK)
    assert plain.advantage_BT.abs().sum() > 0


def test_a_span_has_the_teachers_log_probability_of_its_text(
    batch: TokenBatch, own: Reader, other: tuple[Reader, Any], full_logps: Callable[..., list[float]]
) -> None:
    """By one plain forward over each of the teacher's renderings, and sums by hand."""
    scores = translated(own, other).score(batch, batch.episodes, ALL)
    assert scores.aligned is not None
    gap_BT = by_token(scores, old_logps(batch)).logp_BT - old_logps(batch)
    reader, model = other
    spans = several = 0
    for row, episode in enumerate(batch.episodes):
        ids, turns = reader.chat.encode_conversation(episode.messages)
        expected = full_logps(model, ids)
        at = torch.nonzero(batch.turn_BT[row]).flatten()
        student = own.ledger(episode.trajectory.token_ids, episode.trajectory.turn_ids, None)
        for turn in match_trajectory(student, reader.ledger(ids, turns, None)):
            found = turn.spans
            edges = (found.student_start, found.student_stop, found.teacher_start, found.teacher_stop)
            for a, b, c, d in zip(*(edge.tolist() for edge in edges), strict=True):
                total, tokens = sum(expected[c:d]), at[a:b]
                assert scores.logp_BT[row][tokens].tolist() == pytest.approx([total] * (b - a), abs=1e-4)
                assert len(set(scores.aligned.span_BT[row][tokens].tolist())) == 1
                student_total = float(old_logps(batch)[row][tokens].sum())
                assert float(gap_BT[row][tokens].sum()) == pytest.approx(total - student_total, abs=1e-4)
                spans, several = spans + 1, several + (b - a > 1 or d - c > 1)
    assert len(scores.aligned.span_BT.unique()) == spans + 1
    assert several > 10


def test_tokens_in_no_span_have_the_rewards_signal_alone(
    batch: TokenBatch, own: Reader, other: tuple[Reader, Any]
) -> None:
    """And a turn's gap is the mean over the others."""
    scored = batch.scored(old_logps(batch), translated(own, other).score(batch, batch.episodes, ALL))
    scores = scored.scores
    assert scores is not None
    assert scores.teacher is not None
    assert scores.teacher.aligned is not None
    left_BT = (batch.turn_BT > 0) & (scores.teacher.aligned.span_BT == 0)
    assert 0 < int(left_BT.sum()) < batch.action_tokens() / 4
    assert not advantage(PRESETS["opd"](), scored).advantage_BT[left_BT].any()
    signal = advantage(PRESETS["sod"](), scored)
    reward_BT = torch.zeros(left_BT.shape) + signal.reward_advantage_B[:, None]  # type: ignore[index]
    assert torch.equal(signal.advantage_BT[left_BT], reward_BT[left_BT])
    gap_BT = by_token(scores.teacher, old_logps(batch)).logp_BT - old_logps(batch)
    of_turn = (scores.teacher.aligned.span_BT[0] > 0) & (batch.turn_BT[0] == 2)
    assert signal.stats is not None
    assert float(signal.stats.turn_gap_BK[0, 1]) == pytest.approx(float(gap_BT[0][of_turn].abs().mean()), rel=1e-5)


def test_coverage_counts_every_action_token(batch: TokenBatch, own: Reader, other: tuple[Reader, Any]) -> None:
    aligned = translated(own, other).score(batch, batch.episodes, ALL).aligned
    assert aligned is not None
    figures = coverage_figures(aligned)
    left_out = sum(value for key, value in figures.items() if key.startswith("left_out/"))
    assert figures["aligned"] + left_out == pytest.approx(1.0)
    assert figures["aligned"] == pytest.approx(float((aligned.span_BT > 0).sum()) / batch.action_tokens())
    assert figures["coverage"] > 0.9
    assert [key for key in figures if key.startswith("coverage/")] == [f"coverage/turn{k}" for k in (1, 2, 3)]
    assert figures["unread"] == 0.0


@final
class FailsTwice:
    """A teacher that cannot score the first two rows that it is given."""

    def __init__(self, inner: LocalTeacher) -> None:
        self.inner, self.offers, self.state, self.load = inner, inner.offers, inner.state, inner.load

    def score(self, batch: TokenBatch, episodes: Any, need: ScoreNeed) -> TeacherScores:
        fault = Fault(FaultKind.TIMEOUT, "late")
        return replace(self.inner.score(batch, episodes, need), faults={0: fault, 1: fault})


def test_faults_are_of_the_episodes_that_were_shown(batch: TokenBatch, own: Reader, other: tuple[Reader, Any]) -> None:
    """The first episode is too long for the teacher, so that its rows are the others."""
    reader, model = other
    lengths = sorted(len(reader.chat.encode_conversation(one.messages)[0]) for one in batch.episodes)
    between = Translation(own, reader, "the-teacher", longest=lengths[-2])
    scores = TranslatedTeacher(FailsTwice(LocalTeacher(model, 300)), between).score(batch, batch.episodes, ALL)
    assert scores.aligned is not None
    assert scores.aligned.unread_B.tolist() == [True, False, False, False]
    assert sorted(scores.faults) == [1, 2]


def test_scores_go_with_their_rows(batch: TokenBatch, own: Reader, other: tuple[Reader, Any]) -> None:
    """A part of a batch has the advantage that its rows have in the whole."""
    scored = batch.scored(old_logps(batch), translated(own, other).score(batch, batch.episodes, ALL))
    whole = advantage(PRESETS["opd"](), scored).advantage_BT
    part = scored.rows([3, 1])
    alone = advantage(PRESETS["opd"](), part).advantage_BT
    width = alone.shape[1]
    assert torch.equal(alone, whole[[3, 1]][:, :width])


@pytest.mark.parametrize("why", ["too long", "not to be written"])
def test_an_episode_that_the_teacher_cannot_be_shown_is_left_out_and_counted(
    why: str, batch: TokenBatch, own: Reader, other: tuple[Reader, Any]
) -> None:
    longest = None
    episodes = list(batch.episodes)
    if why == "too long":
        lengths = sorted(len(other[0].chat.encode_conversation(one.messages)[0]) for one in episodes)
        longest, row = lengths[-2], 0
    else:  # the words before the call begin another one in the teacher's dialect
        opened = "<tool_call>\n<function=python>\n<parameter=code>\n"
        row, said = 1, Said(answer=opened, calls=(ToolCall("python", {"code": "1"}),))
        turn = replace(episodes[1].trajectory.turns[0], said=said)
        trajectory = replace(episodes[1].trajectory, turns=(turn, *episodes[1].trajectory.turns[1:]))
        episodes[1] = replace(episodes[1], trajectory=trajectory)
    scores = translated(own, other, longest=longest).score(batch, episodes, ALL)
    plain = translated(own, other).score(batch, batch.episodes, ALL)
    assert scores.aligned is not None
    assert scores.aligned.unread_B.tolist() == [number == row for number in range(4)]
    assert not scores.aligned.span_BT[row].any()
    others = [number for number in range(4) if number != row]
    torch.testing.assert_close(scores.logp_BT[others], plain.logp_BT[others], atol=1e-5, rtol=1e-5)
    counts = coverage_figures(scores.aligned)
    assert counts["unread"] == 1.0
    assert counts["left_out/unmatched"] > 0.1
    signal = advantage(PRESETS["sod"](), batch.scored(old_logps(batch), scores))
    assert signal.weight_BK is not None
    assert not signal.weight_BK[row].any()
    assert torch.isfinite(signal.advantage_BT).all()


def test_no_episode_that_the_teacher_could_read(batch: TokenBatch, own: Reader, other: tuple[Reader, Any]) -> None:
    scores = translated(own, other, longest=1).score(batch, batch.episodes, ScoreNeed())
    assert not scores.logp_BT.any()
    assert not advantage(PRESETS["opd"](), batch.scored(old_logps(batch), scores)).advantage_BT.any()


def test_too_little_coverage_stops_the_run_and_says_where(
    batch: TokenBatch, own: Reader, other: tuple[Reader, Any]
) -> None:
    """The last turn of an episode of three says something else in what the teacher reads."""
    episodes = list(batch.episodes)
    first = episodes[0].trajectory
    lied = replace(first.turns[2], said=Said(answer="Something that the student never said."))
    episodes[0] = replace(episodes[0], trajectory=replace(first, turns=(*first.turns[:2], lied)))
    assert translated(own, other, min_coverage=0.5).score(batch, episodes, ScoreNeed()).aligned is not None
    told = (
        r"^the-teacher: .* can score \d\d% .*min_coverage=0\.99; lowest is turn 3 with 0%: \d+ of its \d+ tokens are "
    )
    with pytest.raises(SodError, match=told + "unmatched"):
        translated(own, other, min_coverage=0.99).score(batch, episodes, ScoreNeed())


def test_what_cannot_be_asked_of_it(batch: TokenBatch, own: Reader, other: tuple[Reader, Any]) -> None:
    teacher = translated(own, other)
    assert teacher.offers.level == "top1"
    with pytest.raises(ValueError, match="are not the student's"):
        teacher.score(batch, batch.episodes, ScoreNeed(k=3))
    with pytest.raises(ValueError, match="4 trajectories and 0 episodes"):
        teacher.score(batch, (), ScoreNeed())
