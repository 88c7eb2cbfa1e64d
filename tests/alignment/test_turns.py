"""A turn of the student beside the same turn in the teacher's rendering: what matches, and what becomes of the rest."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import family

from sod.alignment.located import Located, Proofs, located
from sod.alignment.pieces import Pieces, pieces_of
from sod.alignment.sides import Side, laid_out
from sod.alignment.turns import KINDS, Ledger, MatchedTurn, match_trajectory, match_turn, token_kinds
from sod.chat.dialects.base import Dialect
from sod.chat.dialects.gemma3 import GEMMA3
from sod.chat.dialects.hermes import HERMES
from sod.chat.dialects.qwen_xml import QWEN_XML
from sod.chat.render import Chat
from sod.records import Message, Said, ToolCall
from sod.tools.python import SCHEMA

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
CODE = 'def f(x):\n    return "number " + str(x)\n\nprint(f(1234))'


@cache
def pieces(name: str) -> Pieces:
    return pieces_of(family(name))


def side(name: str, text: str, dialect: Dialect = HERMES, ended: bool = True) -> Side:
    ids = family(name).encode(text, add_special_tokens=False)
    end = [family(name).convert_tokens_to_ids("<end>")] if ended else []
    return Side(pieces(name).known([*ids, *end]), pieces(name), lambda text: dialect.read(text, False, ended), ended)


def found(own: Side) -> Located:
    return laid_out([own]).turns[0].found


def written(message: Message, dialect: Dialect) -> str:
    return dialect.write(message, False)


def shown(turn: MatchedTurn, student: Side, teacher: Side) -> list[tuple[bytes, bytes]]:
    """What each span spells on both sides."""
    spans = turn.spans
    own = zip(spans.student_start.tolist(), spans.student_stop.tolist(), strict=True)
    theirs = zip(spans.teacher_start.tolist(), spans.teacher_stop.tolist(), strict=True)
    return [
        (student.pieces.join(student.ids[a:b]), teacher.pieces.join(teacher.ids[c:d]))
        for (a, b), (c, d) in zip(own, theirs, strict=True)
    ]


def matched(student: Side, teacher: Side) -> bytes:
    """All that is matched, which has to be the same on both sides, in order."""
    turn = match_turn(student, teacher)
    pairs = shown(turn, student, teacher)
    assert all(own == theirs for own, theirs in pairs)
    for starts in (turn.spans.student_start, turn.spans.teacher_start):
        assert (starts[1:] > starts[:-1]).all()
    assert turn.coverage.tokens == len(student.ids)
    kinds = token_kinds(student, teacher)
    counted = {kind: int((kinds == place).sum()) for place, kind in enumerate(KINDS)}
    assert counted == {kind: getattr(turn.coverage, kind) for kind in KINDS}
    in_spans = {
        at for a, b in zip(turn.spans.student_start, turn.spans.student_stop, strict=True) for at in range(a, b)
    }
    assert set(np.flatnonzero(kinds == KINDS.index("matched")).tolist()) == in_spans
    return b"".join(own for own, _ in pairs)


@pytest.mark.parametrize("name", ["prose", "digits", "pieces", "prefixed"])
@settings(max_examples=25, deadline=None)
@given(thought=TEXTS, answer=TEXTS, code=TEXTS)
def test_one_tokenizer_and_one_rendering_give_every_token_one_to_one(
    name: str, thought: str, answer: str, code: str
) -> None:
    """Marks, call syntax and the end token too, whatever is said."""
    call = json.dumps({"name": "python", "arguments": {"code": code}})
    own = side(name, f"<think>{thought}</think>{answer}<tool_call>{call}</tool_call>")
    turn = match_turn(own, side(name, f"<think>{thought}</think>{answer}<tool_call>{call}</tool_call>"))
    numbers = list(range(len(own.ids)))
    assert turn.spans.student_start.tolist() == turn.spans.teacher_start.tolist() == numbers
    assert turn.spans.one_to_one.all()
    assert (turn.coverage.matched, turn.coverage.share) == (len(numbers), 1.0)


@pytest.mark.parametrize("teacher", [HERMES, QWEN_XML, GEMMA3], ids=lambda dialect: dialect.name)
@settings(max_examples=20, deadline=None)
@given(answer=TEXTS, code=TEXTS, names=st.permutations(["prose", "code", "digits", "pieces"]))
def test_what_is_matched_has_equal_bytes_in_order(teacher: Dialect, answer: str, code: str, names: list[str]) -> None:
    """`matched` asserts it, whatever the two tokenizers and dialects make of any text."""
    message = Message("assistant", answer, (ToolCall("python", {"code": code, "n": 3}),))
    matched(side(names[0], written(message, HERMES)), side(names[1], written(message, teacher), teacher))


SAID = Message(
    "assistant", "I print the number.", (ToolCall("python", {"code": CODE, "n": 1234}),), reasoning="The tool tells."
)


@pytest.mark.parametrize("names", [("prose", "code"), ("prose", "pieces"), ("code", "digits"), ("pieces", "prose")])
def test_contents_match_across_tokenizers_and_call_syntax(names: tuple[str, str]) -> None:
    own, theirs = side(names[0], written(SAID, HERMES)), side(names[1], written(SAID, QWEN_XML), QWEN_XML)
    said = matched(own, theirs)
    coverage = match_turn(own, theirs).coverage
    assert said.startswith(b"<think>\nThe tool tells.\n</think>\n\nI print the number.")  # the marks are equal, too
    assert b"return" in said
    assert b'"arguments"' not in said
    assert coverage.control == 3  # two of the call, and the end, as what stands before it differs
    assert coverage.syntax > 0
    assert coverage.share > 0.5  # so short a code is mostly edges of escapes


def test_one_way_of_writing_calls_matches_all_but_control_tokens() -> None:
    """JSON on both sides, and so its syntax between name and arguments, escapes included."""
    own, theirs = side("prose", written(SAID, HERMES)), side("code", written(SAID, HERMES))
    said = matched(own, theirs)
    assert b'python", "arguments": {"code": ' + json.dumps(CODE).encode() in said
    assert match_turn(own, theirs).coverage.share == 1.0


def test_an_escaped_string_matches_a_raw_one_between_its_escapes() -> None:
    call = (ToolCall("python", {"code": "aa\nbb\u00e9cc"}),)
    own = side("prose", written(Message("assistant", "", call), HERMES))
    theirs = side("prose", written(Message("assistant", "", call), QWEN_XML), QWEN_XML)
    said = matched(own, theirs)
    assert b"bb\xc3\xa9cc" in said
    assert b"\\n" not in said
    assert b"\n" not in said.split(b"aa")[1].split(b"bb")[0]


def test_a_value_is_not_taken_for_a_key_of_its_spelling() -> None:
    """The same letters stand four times in the call, each of them in another place."""
    call = ToolCall("name", {"name": "arguments", "arguments": "name"})
    text = written(Message("assistant", "", (call,)), HERMES)
    contents = located(text, lambda text: HERMES.read(text, False, True)).contents
    assert [content.key for content in contents] == [("name", 0), ("argument", 0, "name"), ("argument", 0, "arguments")]
    assert (
        text == '<tool_call>\n{"name": "name", "arguments": {"name": "arguments", "arguments": "name"}}\n</tool_call>'
    )
    assert [content.start for content in contents] == [22, 52, 78]


@pytest.mark.parametrize("before", ["", "\n", "<think>\n\n</think>\n\n"])
def test_an_answer_alone_stands_behind_what_is_no_content(before: str) -> None:
    found = located(f"{before}It is 4.\n", lambda text: HERMES.read(text, False, True))
    (answer,) = found.contents
    assert (answer.key, answer.value) == (("answer", 0), "It is 4.")
    assert (answer.start, answer.stop) == (len(before), len(before) + 8)
    assert found.missing == ()


def test_a_value_written_with_escapes_that_no_writer_needs_is_not_found() -> None:
    """The key is not taken for it, and what cannot be told counts as unmatched."""
    own = side("prose", '<tool_call>\n{"name": "f", "arguments": {"a": "\\u0061"}}\n</tool_call>')
    assert found(own).missing == (("argument", 0, "a"),)
    theirs = side("prose", '<tool_call>\n{"name": "f", "arguments": {"a": "a"}}\n</tool_call>')
    coverage = match_turn(own, theirs).coverage
    assert coverage.unmatched > 0
    assert coverage.share < 1


def test_one_proof_does_for_all_turns_whose_contents_alone_differ() -> None:
    """Nor does it for a turn in which a key has the spelling of its value."""
    read: list[str] = []

    def reader(text: str) -> Said:
        read.append(text)
        return HERMES.read(text, False, True)

    def turn(said: str, code: str) -> str:
        return written(Message("assistant", said, (ToolCall("python", {"code": code}),)), HERMES)

    proofs: Proofs = {}
    first, second, third = turn("I add.", "2 + 3"), turn("So it is.", 'print("4")\n'), turn("I add.", "code")
    located(first, reader, proofs)
    assert (len(read), len(proofs)) == (2, 1)
    contents = located(second, reader, proofs).contents
    assert (len(read), len(proofs)) == (3, 1)
    assert [content.value for content in contents] == ["So it is.", "python", 'print("4")\n']
    assert contents == located(second, reader).contents
    assert located(third, reader, proofs) == located(third, reader)
    assert len(proofs) > 1  # the key of that spelling was tried in vain


def test_turns_matched_together_are_what_each_is_alone() -> None:
    """Turns of several kinds, ended and cut off, in two dialects."""
    calls = [ToolCall("python", {"code": CODE}), ToolCall("name", {"name": "name", "n": 5})]
    said = [
        SAID,
        Message("assistant", "It is 4."),
        Message("assistant", "caf\u00e9", (calls[1],)),
        Message("assistant", "", (*calls,)),
    ]
    sides = [
        (side("prose", written(one, HERMES), ended=ended), side("digits", written(one, GEMMA3), GEMMA3))
        for one in said
        for ended in (True, False)
    ]
    alone = [laid_out([own]).turns[0].found for own, _ in sides]
    assert [turn.found for turn in laid_out([own for own, _ in sides]).turns] == alone
    assert len({len(found.contents) for found in alone}) > 2


def test_values_beyond_the_most_that_are_looked_for_count_as_not_found() -> None:
    call = ToolCall("f", {f"k{number}": f"v{number}x" for number in range(70)})
    own = side("prose", written(Message("assistant", "", (call,)), HERMES))
    assert len(found(own).contents) == 65
    assert found(own).missing == tuple(("argument", 0, f"k{number}") for number in range(64, 70))


def test_calls_match_with_calls_of_their_number_and_order() -> None:
    """Their arguments in another order lie crosswise: only the part that is in order on both sides is matched."""
    calls = (ToolCall("f", {"x": "first words"}), ToolCall("f", {"x": "first words", "y": "other words"}))
    own = side("prose", written(Message("assistant", "", calls), HERMES))
    crossed = (calls[0], ToolCall("f", {"y": "other words", "x": "first words"}))
    theirs = side("code", written(Message("assistant", "", crossed), HERMES))
    assert matched(own, theirs).count(b"first words") == 2
    assert b"other words" not in matched(own, theirs)
    assert match_turn(own, theirs).coverage.unmatched > 0


def test_what_is_said_otherwise_is_not_matched() -> None:
    own, theirs = side("prose", "the tool says 1234"), side("code", "the tool says 1235")
    assert matched(own, theirs) == b""
    coverage = match_turn(own, theirs).coverage
    assert (coverage.control, coverage.matched) == (1, 0)
    assert coverage.unmatched == len(own.ids) - 1


def test_a_normalizer_leaves_out_what_it_changes_only() -> None:
    """The student wrote an accent of its own character, which NFC joins with its letter."""
    own, theirs = side("prose", "the cafe\u0301 tells"), side("digits", "the cafe\u0301 tells")
    said = matched(own, theirs)
    assert said.startswith(b"the ")
    assert b" tells" in said
    assert b"\xcc\x81" not in said
    assert match_turn(own, theirs).coverage.unmatched + match_turn(own, theirs).coverage.straddling > 0


def test_half_a_character_does_not_stop_the_rest() -> None:
    """The student stopped within a character; the teacher reads the replacement character that its text holds."""
    ids = family("prose").encode("the number \U0001f642", add_special_tokens=False)[:-2]
    own = Side(pieces("prose").known(ids), pieces("prose"), lambda text: HERMES.read(text, False, False), False)
    said = matched(own, side("code", "the number \ufffd"))
    assert said.startswith(b"the number")
    assert b"\xf0" not in said


def test_a_partial_character_of_a_token_is_part_of_a_span() -> None:
    own, theirs = side("prose", "caf\u00e9"), side("code", "caf\u00e9 ")
    pairs = shown(match_turn(own, theirs), own, theirs)
    assert "\u00e9".encode() in b"".join(pair[0] for pair in pairs)
    assert all(pair[0].decode() for pair in pairs)


def test_a_mark_that_the_student_sampled_and_the_teacher_spells_is_left_out() -> None:
    """A call that cannot be read stays in the answer: its marks are control tokens on one side, text on the other."""
    text = 'so <tool_call>{"name": python}</tool_call>'
    own = side("prose", text)
    plain = family("code").encode(text, add_special_tokens=False, split_special_tokens=True)
    end = family("code").convert_tokens_to_ids("<end>")
    ids = pieces("code").known([*plain, end])
    theirs = Side(ids, pieces("code"), lambda text: HERMES.read(text, False, True), True)
    said = matched(own, theirs)
    assert b"python" in said
    assert b"tool_call" not in said
    assert match_turn(own, theirs).coverage.control >= 2


def test_a_phantom_space_before_a_text_costs_its_first_token() -> None:
    own, theirs = side("prose", "the number 12"), side("prefixed", "the number 12")
    said = matched(own, theirs)
    assert said == b" number 12<end>"
    assert match_turn(own, theirs).coverage.straddling == 1


@pytest.mark.slow
def test_a_trajectory_in_the_teachers_own_template(tokenizer: Any) -> None:
    """Two chats over one tokenizer: the student's templates says less around a turn, and calls the tool alike."""
    messages = [
        Message("user", "What is 2 + 3?"),
        Message("assistant", "", (ToolCall("python", {"code": "print(2 + 3)"}),), reasoning="I add."),
        Message("tool", "5"),
        Message("assistant", "It is 5.", reasoning="So it is."),
    ]
    chat = Chat(tokenizer, [SCHEMA])
    own_pieces = pieces_of(tokenizer)
    student = Ledger(chat, own_pieces, *chat.encode_conversation(messages))
    turns = match_trajectory(student, Ledger(chat, own_pieces, *chat.encode_conversation(messages)))
    assert len(turns) == 2
    actions = sum(1 for k in student.turn_ids if k)
    assert [n for turn in turns for n in turn.spans.student_start.tolist()] == list(range(actions))
    positions = [at for at, k in enumerate(student.turn_ids) if k]
    assert [n for turn in turns for n in turn.spans.teacher_start.tolist()] == positions
    with pytest.raises(ValueError, match="2 turns were sampled and 1 are"):
        match_trajectory(student, Ledger(chat, own_pieces, *chat.encode_conversation(messages[:2])))
