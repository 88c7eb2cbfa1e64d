"""Two models' tokens of a file's conversations: what is read, counted, shown and refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import TELLS, family, saved
from tokenizers import decoders

from sod.alignment.turns import Coverage
from sod.build import alignment
from sod.build.alignment import Pair, check_coverage, coverage_of, pair_of, refuse_uncovered, spread, teacher_reader
from sod.build.alignment_rows import Rows, row_to_show, rows_of, stand_ins
from sod.build.alignment_shown import BETWEEN, shown_turns
from sod.recipe import Recipe, parse_recipe
from sod.records import Message, SodError, Task, ToolCall
from sod.tasks.base import Conversation
from sod.teachers.translated import Reader as Side
from sod.teachers.translated import Translation
from sod.tools.python import SCHEMA

CODE = 'print("the number", 1234)\nprint(567890)'


def recipe(**sections: Any) -> Recipe:
    return parse_recipe({"student": {"path": "none"}, **sections}, "the test")


@pytest.fixture(scope="module")
def home(tmp_path_factory: Any) -> Path:
    directory: Path = tmp_path_factory.mktemp("tokenizers")
    return directory


@pytest.fixture(scope="module")
def pair(home: Path) -> Pair:
    """Byte-level tokens beside SentencePiece's with single bytes, which tell of tools in their own template's words."""
    return pair_of(recipe(), saved(home, "prose"), saved(home, "pieces", TELLS))


@pytest.fixture(scope="module")
def alike(home: Path) -> Pair:
    """Two byte-level tokenizers in one template."""
    return pair_of(recipe(), saved(home, "prose"), saved(home, "code"))


@cache
def talk(answer: str = "The number is 1234.", code: str = CODE) -> Conversation:
    messages = (
        Message("user", "What is the number?"),
        Message("assistant", "I print na\u00efve numbers.\n\nThen I tell.", (ToolCall("python", {"code": code}),)),
        Message("tool", "1234", name="python"),
        Message("assistant", answer),
    )
    return Conversation(f"talk-{answer}", messages)


UNDECLARED = Conversation(
    "undeclared",
    (Message("user", "Look."), Message("assistant", "", (ToolCall("lookup", {}),)), Message("tool", "no")),
)


def write(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_each_model_writes_the_turns_in_its_own_dialect(pair: Pair) -> None:
    """What is said matches, down to letters that one spells byte by byte; the call syntax does not."""
    assert (pair.student.chat.dialect.name, pair.teacher.chat.dialect.name) == ("hermes", "gemma3")
    first, second = pair.aligned(talk()).turns
    assert first.coverage.syntax > 0
    assert second.coverage.share == 1.0
    shown = shown_turns(pair.aligned(talk()))[0]
    naive = [pairing for pairing in shown.pairings if "\\xc3" in pairing.teacher]
    assert naive, "the teacher's tokens of a letter are bytes"
    assert all(pairing.kind in ("one", "several") for pairing in naive)


@pytest.mark.parametrize("name", ["pair", "alike"])
def test_all_tokens_of_both_are_shown_once_and_in_order(name: str, request: pytest.FixtureRequest) -> None:
    both: Pair = request.getfixturevalue(name)
    aligned = both.aligned(talk())
    for turn in shown_turns(aligned):
        own, theirs = said(aligned.student, turn.number), said(aligned.teacher, turn.number)
        assert as_bytes(stretch.text for line in turn.lines for stretch in line) == own
        assert as_bytes(pairing.student.replace(BETWEEN, "") for pairing in turn.pairings) == own
        assert as_bytes(pairing.teacher.replace(BETWEEN, "") for pairing in turn.pairings) == theirs
        assert sum(pairing.student.count(BETWEEN) + 1 for pairing in turn.pairings if pairing.student) == sum(
            k == turn.number for k in aligned.student.turn_ids
        )
        for pairing in turn.pairings:
            if pairing.kind == "one":
                assert pairing.student == pairing.teacher
            if pairing.kind == "several":
                bare = pairing.student.replace(BETWEEN, ""), pairing.teacher.replace(BETWEEN, "")
                assert as_bytes([bare[0]]) == as_bytes([bare[1]])
                assert pairing.student != pairing.teacher


def said(ledger: Any, turn: int) -> bytes:
    return bytes(ledger.pieces.join([id for id, k in zip(ledger.token_ids, ledger.turn_ids, strict=True) if k == turn]))


def as_bytes(texts: Any) -> bytes:
    """What the shown texts stand for: `\\xc3` is a byte of half a character."""
    text = "".join(texts).replace("\u23ce", "\n").replace("\\x", "\0")
    first, *rest = text.split("\0")
    return b"".join([first.encode(), *(bytes.fromhex(part[:2]) + part[2:].encode() for part in rest)])


def test_a_new_line_of_the_text_is_a_new_line_of_the_screen(alike: Pair) -> None:
    lines = [
        "".join(stretch.text for stretch in line) for turn in shown_turns(alike.aligned(talk())) for line in turn.lines
    ]
    assert any(line.endswith(("numbers.\u23ce\u23ce", "numbers.\u23ce")) for line in lines)
    assert all("\u23ce" not in line.rstrip("\u23ce") for line in lines)


def test_coverage_is_the_sum_of_its_turns_and_names_the_least(pair: Pair) -> None:
    """By the number of the turn; the row whose code is all edges is the one where least is matched."""
    dense = talk(code="\n\n".join('"\\"' for _ in range(6)))
    rows = [(0, talk()), (5, dense), (7, UNDECLARED)]
    covered = coverage_of(pair, rows)
    each = [turn.coverage for _, conversation in rows[:2] for turn in pair.aligned(conversation).turns]
    assert covered.total.coverage == sum(each, Coverage())
    assert [tally.turns for tally in covered.by_turn.values()] == [2, 2]
    assert covered.by_turn[1].coverage == each[0] + each[2]
    assert (covered.least.row, covered.least.turn) == (5, 1)
    assert covered.least.share == each[2].share < each[0].share
    assert [skip.row for skip in covered.skipped] == [7]
    assert "lookup" in covered.skipped[0].reason
    refuse_uncovered(covered, covered.share, "--min-coverage", "T")
    with pytest.raises(SodError, match=r"T: \d+\.\d% .* below --min-coverage=1; least in row 5, turn 1 \(.*--row 5"):
        refuse_uncovered(covered, 1.0, "--min-coverage", "T")


def test_rows_that_nobody_can_write_are_an_error_that_names_the_first(pair: Pair) -> None:
    with pytest.raises(SodError, match=r"no conversation can be written by the student; 1 skipped: row 3: it calls"):
        coverage_of(pair, [(3, UNDECLARED)])


@pytest.mark.parametrize(("rows", "count", "taken"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (4, 1, [0]), (5, 5, None)])
def test_rows_are_taken_from_all_over_a_file(rows: int, count: int, taken: Sequence[int] | None) -> None:
    numbered = [(number, talk()) for number in range(rows)]
    assert [number for number, _ in spread(numbered, count)] == (taken or list(range(rows)))


SOLVED = {"task_id": "t", "stop": "answer", "prompt": [{"role": "user", "content": "What?"}]} | {
    "turns": [{"text": "It is 4.", "said": {"thinking": "", "answer": "It is 4.", "calls": []}, "calls": []}]
}
MESSAGES = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It is 4."}]}
TASK = {"prompt": [{"role": "user", "content": "What is 2 + 2?"}], "reward_model": {"ground_truth": "4"}}


@pytest.mark.parametrize(
    ("row", "made_up", "last"),
    [(SOLVED, False, "It is 4."), (MESSAGES, False, "It is 4."), (TASK, True, "\\boxed{4}")],
    ids=["episodes", "conversations", "tasks"],
)
def test_what_a_file_may_hold(tmp_path: Path, row: Any, made_up: bool, last: str) -> None:
    read = rows_of(write(tmp_path / "rows.jsonl", row, row), recipe(), [SCHEMA])
    assert read.made_up is made_up
    assert [number for number, _ in read.numbered] == [0, 1]
    assert read.numbered[0][1].messages[-1] == Message("assistant", last)


def test_of_rows_of_both_kinds_the_more_are_taken_and_the_others_named(tmp_path: Path) -> None:
    mostly_tasks = rows_of(write(tmp_path / "a.jsonl", MESSAGES, TASK, TASK), recipe(), [SCHEMA])
    assert (mostly_tasks.made_up, [number for number, _ in mostly_tasks.numbered]) == (True, [1, 2])
    assert [skip.row for skip in mostly_tasks.skipped] == [0]
    mostly_talk = rows_of(write(tmp_path / "b.jsonl", MESSAGES, TASK, MESSAGES), recipe(), [SCHEMA])
    assert (mostly_talk.made_up, [skip.row for skip in mostly_talk.skipped]) == (False, [1])


def test_turns_of_a_task_are_its_own_text_a_call_and_the_truth(alike: Pair) -> None:
    """Each model can write them; tests, which are no answer, are not said."""
    tasks = [
        Task("a", (Message("system", "Be right."), Message("user", "What is 2 + 2?")), "4"),
        Task("b", (Message("user", "Write f."),), '{"tests": 1}', verifier="code"),
    ]
    first, second = stand_ins(tasks, [SCHEMA], recipe())
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert first.messages[2].content == "What is 2 + 2?"
    assert first.messages[2].tool_calls[0].name == "python"
    assert "tests" not in second.messages[-1].content
    (plain,) = stand_ins(tasks[:1], [], recipe())
    assert plain.messages[-1].content == "What is 2 + 2?\n\n\\boxed{4}"
    assert coverage_of(alike, [(0, first), (1, second)]).rows == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"x": 1}], "no known shape"),
        ([{"messages": []}], "no usable row"),
        ([], "no rows"),
    ],
)
def test_a_file_without_conversations(tmp_path: Path, rows: list[Any], said: str) -> None:
    file = write(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(SodError) as error:
        rows_of(file, recipe(), [SCHEMA])
    assert str(error.value).startswith(file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_a_fast_tokenizer(alike: Pair, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "vocab.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SodError, match=rf"^{slow}: no tokenizer.json, so no fast tokenizer.*save_pretrained$"):
        teacher_reader(recipe(), str(slow), alike.student.chat)
    with pytest.raises(SodError, match=r"nowhere: no such model directory"):
        pair_of(recipe(), alike.student.path, "./nowhere")


@pytest.mark.parametrize(
    ("template", "chat", "said"),
    [
        (
            TELLS,
            {"template": "tokenizer"},
            "chat template: it does not show the tools to the model; use chat",
        ),
        ("{{ 'no messages' }}", {}, "the teacher's own chat template cannot show it the run's tools"),
    ],
    ids=["as asked", "auto"],
)
def test_a_template_that_hides_the_tools(
    alike: Pair, tmp_path: Path, template: str, chat: dict[str, str], said: str
) -> None:
    """Where it is asked for, and where not even telling of them in words helps; with our template for both it does."""
    path = saved(tmp_path, "pieces", template)
    with pytest.raises(SodError) as error:
        teacher_reader(recipe(chat=chat), path, alike.student.chat)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert teacher_reader(recipe(chat={"template": "hermes"}), path, alike.student.chat).chat.dialect.name == "hermes"


def test_tokens_whose_bytes_nobody_can_tell(alike: Pair, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(family("prose"))
    tokenizer.eos_token = "<end>"
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SodError, match=rf"^{tmp_path}: .*(WordPiece).*another family$"):
        teacher_reader(recipe(), str(tmp_path), alike.student.chat)


def test_a_row_that_the_teacher_alone_cannot_write_counts_as_unmatched(alike: Pair, tmp_path: Path) -> None:
    """Its template refuses what the user says, as some do."""
    refuses = "{%- if 'weather' in messages[0].content -%}{{ raise_exception('no weather') }}{%- endif -%}"
    path = saved(tmp_path, "pieces", refuses + TELLS)
    pair = Pair(alike.student, teacher_reader(recipe(), path, alike.student.chat))
    opens = Conversation("opens", (Message("user", "How is the weather?"), *talk().messages[1:]))
    covered = coverage_of(pair, [(0, talk()), (4, opens)])
    assert [(skip.row, "no weather" in skip.reason) for skip in covered.unread] == [(4, True)]
    assert covered.rows == 2
    assert (covered.least.row, covered.least.turn, covered.least.share) == (4, 1, 0.0)
    alone, actions = coverage_of(pair, [(0, talk())]).total, sum(map(bool, pair.student.ledger(opens).turn_ids))
    assert covered.total.coverage.tokens == alone.coverage.tokens + actions
    assert covered.total.coverage.matched == alone.coverage.matched
    assert covered.share < alone.coverage.share
    rows = Rows([(0, talk()), (4, opens)], made_up=False)
    assert row_to_show("f", rows, rows.numbered[::-1], covered, None)[0] == 0
    with pytest.raises(SodError, match=r"^f: the teacher can be shown none of 1 rows, e.g. row 4: "):
        row_to_show("f", rows, rows.numbered[1:], covered, None)
    with pytest.raises(SodError, match=r"^f: no usable row 9; "):
        row_to_show("f", rows, rows.numbered, covered, 9)


def test_the_look_before_a_run_says_where_least_is_matched(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """At 32 rows, without a word where enough is; rows that the student cannot write stop nothing."""
    looked: list[int] = []
    monkeypatch.setattr(
        alignment, "coverage_of", lambda pair, rows: (looked.append(len(rows)), coverage_of(pair, rows))[1]
    )
    rows = [(number, talk()) for number in range(40)]
    own, theirs = (Side(model.chat, model.pieces) for model in (pair.student, pair.teacher))
    check_coverage(recipe(), Translation(own, theirs, "T", 0.1), rows)
    assert (looked, capfd.readouterr()) == ([32], ("", ""))
    with pytest.raises(SodError, match=r"^T: .*below method.alignment.min_coverage=1; least in row 0, turn 1"):
        check_coverage(recipe(), Translation(own, theirs, "T", 1.0), rows)
    check_coverage(recipe(), Translation(own, theirs, "T", 1.0), [(3, UNDECLARED)])
