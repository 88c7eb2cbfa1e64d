"""Tool calls out of sampled text: a call or a named failure for everything a model can write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.chat.bound import BoundDialect
from sod.chat.dialects.hermes import HERMES, pieces, read, render_call
from sod.chat.render import Chat
from sod.records import MalformedCall, Message, Said, StopReason, ToolCall, Trajectory, Turn
from sod.runlog import RunLog, trajectory_of, trajectory_row

GOOD = '<tool_call>\n{"name": "python", "arguments": {"code": "print(1)"}}\n</tool_call>'
CALL = ToolCall("python", {"code": "print(1)"})


def parse_calls(text: str) -> tuple[ToolCall | MalformedCall, ...]:
    return read(text).calls


def wrapped(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


def errors(text: str) -> list[str | None]:
    """The failure's name at each call, None for a call that could be read."""
    return [call.error if isinstance(call, MalformedCall) else None for call in parse_calls(text)]


def test_text_without_calls() -> None:
    assert parse_calls("") == parse_calls('The answer is \\boxed{3}; {"name": 1}') == ()


def test_several_calls_in_order_with_text_between() -> None:
    second = ToolCall("search", {"q": "x", "n": 3})
    assert parse_calls(f"first {GOOD} then {render_call(second)} end") == (CALL, second)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("{'name': 'python', 'arguments': {}}", "invalid_json"),
        ('{"name": "python", "arguments": {}} trailing', "invalid_json"),
        ('{"name": "python", "arguments": {"code": "a\nb"}}', "invalid_json"),  # a raw newline in a string
        ("[" * 200_000, "invalid_json"),
        ('{"name": "p", "arguments": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "invalid_json"),
        ('{"name": "p", "arguments": {"n": ' + "7" * 5_000 + "}}", "invalid_json"),
        ("[1, 2]", "invalid_call"),
        ("null", "invalid_call"),
        ('"python"', "invalid_call"),
        ('{"arguments": {}}', "invalid_call"),
        ('{"name": 3, "arguments": {}}', "invalid_call"),
        ('{"name": "python"}', "invalid_call"),
        ('{"name": "python", "arguments": "print(1)"}', "invalid_call"),
        ('{"name": "python", "arguments": ["print(1)"]}', "invalid_call"),
        ('{"name": "python", "arguments": null}', "invalid_call"),
    ],
)
def test_malformed_calls_are_named(body: str, error: str) -> None:
    """Each failure has a name and a short reason that goes to the model, and spoils no neighbour."""
    assert errors(f"{GOOD}{wrapped(body)}{GOOD}") == [None, error, None]
    (failure,) = parse_calls(wrapped(body))
    assert isinstance(failure, MalformedCall)
    result = failure.result()
    assert result.error == error
    assert result.text.startswith(f"Error: {error}: ")
    assert len(result.text) < 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<tool_call>", ["unclosed_tool_call"]),
        ('<tool_call>{"name": "python", "arguments": {}}', ["unclosed_tool_call"]),
        (f"{GOOD}<tool_call>", [None, "unclosed_tool_call"]),
        ("</tool_call>", ["unopened_tool_call"]),
        (f"</tool_call>{GOOD}", ["unopened_tool_call", None]),
        (f"{GOOD}</tool_call>", [None, "unopened_tool_call"]),
        (f"<tool_call>{GOOD}", ["unclosed_tool_call", None]),
        (f"<tool_call>{GOOD}</tool_call>", ["unclosed_tool_call", None, "unopened_tool_call"]),
    ],
)
def test_unbalanced_marks_are_named(text: str, expected: list[str | None]) -> None:
    assert errors(text) == expected


def test_arguments_keep_their_types() -> None:
    arguments = {"code": 'a\n\t"b" <x> \\ é 🙂', "n": 10**100, "deep": [{"x": [None, True, 1.5]}]}
    assert parse_calls(render_call(ToolCall("f", arguments))) == (ToolCall("f", arguments),)


MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
TRICKY = ToolCall("python", {"code": "print('</think> <think> </tool_call> <tool_call>')"})
JUST_OPENED = '<tool_call>{"name": "python", "arguments": {"code": "</think>'

# text, whether the prompt leaves a thought open, thinking, answer, calls
RULE: list[tuple[str, bool, str, str, tuple[ToolCall | str, ...]]] = [
    # no thought
    ("", False, "", "", ()),
    ("\\boxed{3}", False, "", "\\boxed{3}", ()),
    (f"so\n{GOOD}", False, "", "so", (CALL,)),
    (f"so\n{GOOD}\n{GOOD} end", False, "", "so end", (CALL, CALL)),
    (f"so\n\n{GOOD}{GOOD}", False, "", "so\n", (CALL, CALL)),
    (f"{GOOD}<tool_call>{{</tool_call>", False, "", "<tool_call>{</tool_call>", (CALL, "invalid_json")),
    (f"<tool_call>{GOOD}", False, "", "<tool_call>", ("unclosed_tool_call", CALL)),
    # a closed thought is thinking, the rest is said
    ("<think>hm</think>\n\n7", False, "hm", "\n\n7", ()),
    (f"<think>{GOOD}</think>{GOOD}", False, GOOD, "", (CALL,)),
    (f"<think>maybe {GOOD}</think>no", False, f"maybe {GOOD}", "no", ()),
    (f"<think><tool_call></think>{GOOD}", False, "<tool_call>", "", (CALL,)),
    (f"<think></tool_call></think>{GOOD}", False, "</tool_call>", "", (CALL,)),
    ("<think>a<think>b</think>c", False, "a<think>b", "c", ()),
    ("<think></think>7", False, "", "7", ()),
    ("so <think>hm</think>7", False, "hm", "so 7", ()),
    # several thoughts
    ("<think>a</think>b<think>c</think>d", False, "a\nc", "bd", ()),
    (f"<think>a</think>{GOOD}<think>b</think>done", False, "a\nb", "done", (CALL,)),
    (f"{GOOD}<think>b</think>", False, "b", "", (CALL,)),
    # a thought that is never closed
    ("<think>never closed", False, "never closed", "", ()),
    (f"<think>never closed {GOOD}", False, f"never closed {GOOD}", "", ()),
    (f"{GOOD} or <think>{GOOD}", False, GOOD, " or ", (CALL,)),
    (f"<think>a</think>b<think>{GOOD}", False, f"a\n{GOOD}", "b", ()),
    # a `</think>` that nothing opened
    ("hm</think>7", False, "hm", "7", ()),
    (f"hm {GOOD}</think>7", False, f"hm {GOOD}", "7", ()),
    (f"hm <tool_call></think>{GOOD}", False, "hm <tool_call>", "", (CALL,)),
    ("a</think>b</think>c", False, "a\nb", "c", ()),
    ("<think>a</think>b</think>c", False, "a\nb", "c", ()),
    (f"a<think>b</think>{GOOD}d</think>e", False, f"a\nb\n{GOOD}d", "e", ()),
    ("</think>7", False, "", "7", ()),
    # the prompt leaves a thought open
    ("", True, "", "", ()),
    ("hm</think>7", True, "hm", "7", ()),
    (f"hm</think>{GOOD}", True, "hm", "", (CALL,)),
    (f"hm {GOOD}", True, f"hm {GOOD}", "", ()),
    ("\\boxed{3}", True, "\\boxed{3}", "", ()),
    (f"{GOOD}hm</think>7", True, f"{GOOD}hm", "7", ()),
    ("<think>hm</think>7", True, "hm", "7", ()),
    ("<think>hm", True, "hm", "", ()),
    (f"a</think>b<think>{GOOD}</think>c", True, f"a\n{GOOD}", "bc", ()),
    # marks in strings of a call are text, wherever it stands
    (f"so\n{render_call(TRICKY)}", False, "", "so", (TRICKY,)),
    (f"<think>{render_call(TRICKY)}</think>7", False, render_call(TRICKY), "7", ()),
    (f"<think>{render_call(TRICKY)}", False, render_call(TRICKY), "", ()),
    (f"{render_call(TRICKY)}</think>7", True, render_call(TRICKY), "7", ()),
    (f"{render_call(TRICKY)}</think>7", False, render_call(TRICKY), "7", ()),
    ('<tool_call>{"name": "</think>"}', False, "", '<tool_call>{"name": "</think>"}', ("unclosed_tool_call",)),
    (
        '<tool_call>{"a": "</tool_call>"} x</tool_call>',
        False,
        "",
        '<tool_call>{"a": "</tool_call>"} x</tool_call>',
        ("invalid_json",),
    ),
    # what is no whole call hides no mark
    (f"<think>{JUST_OPENED}7", False, JUST_OPENED.removesuffix("</think>"), "7", ()),
    (f"{JUST_OPENED}7", True, JUST_OPENED.removesuffix("</think>"), "7", ()),
    (f'<think>{JUST_OPENED}"}}}}</think>7', False, JUST_OPENED.removesuffix("</think>") + '\n"}}', "7", ()),
]


def described(calls: tuple[ToolCall | MalformedCall, ...]) -> tuple[ToolCall | str, ...]:
    return tuple(call if isinstance(call, ToolCall) else call.error for call in calls)


@pytest.mark.parametrize(("text", "thought_open", "thinking", "answer", "calls"), RULE)
def test_every_clause_of_the_rule(
    text: str, thought_open: bool, thinking: str, answer: str, calls: tuple[ToolCall | str, ...]
) -> None:
    said = read(text, thought_open)
    assert (said.thinking, said.answer, described(said.calls)) == (thinking, answer, calls)


@pytest.mark.parametrize(("text", "thought_open", "thinking", "answer", "calls"), RULE)
def test_pieces_are_the_marks_that_were_read(
    text: str, thought_open: bool, thinking: str, answer: str, calls: tuple[ToolCall | str, ...]
) -> None:
    """Together they are the text; every call has two frames, or one where it is unclosed or unopened."""
    found = pieces(text, thought_open)
    assert "".join(piece.text for piece in found) == text
    frames = [piece.text for piece in found if piece.frame]
    assert set(frames) <= set(MARKS)
    assert ("<think>" in frames or "</think>" in frames or thought_open) or not thinking
    errors = calls.count("unclosed_tool_call") + calls.count("unopened_tool_call")
    assert frames.count("<tool_call>") + frames.count("</tool_call>") == 2 * len(calls) - errors


@pytest.mark.parametrize(
    ("text", "thought_open", "frames"),
    [
        (render_call(TRICKY), False, ["<tool_call>", "</tool_call>"]),
        (f"<think>{render_call(TRICKY)}</think>", False, ["<think>", "</think>"]),
        (f"hm {GOOD}</think>{GOOD}", False, ["</think>", "<tool_call>", "</tool_call>"]),
        (f"hm {GOOD}", True, []),
        ("<think>hm", True, ["<think>"]),
        ("</tool_call> <tool_call>", False, ["</tool_call>", "<tool_call>"]),
        ("<tool_call>{</tool_call>", False, ["<tool_call>", "</tool_call>"]),
    ],
)
def test_what_is_a_frame(text: str, thought_open: bool, frames: list[str]) -> None:
    assert [piece.text for piece in pieces(text, thought_open) if piece.frame] == frames


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>", True),
        ("<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("<think> 1", False),
        ("<think>" + "\n" * 500, True),
    ],
)
def test_when_a_prompt_leaves_a_thought_open(prompt: str, expected: bool) -> None:
    assert HERMES.opens_thought(prompt) is expected


def test_a_turn_that_was_cut_off_makes_no_calls(chat: Chat) -> None:
    """Without its end token a call is text; with any of the stop tokens it is made."""
    ids = chat.tokenizer.encode(f"<think>hm</think>{GOOD}", add_special_tokens=False)
    dialect = BoundDialect(HERMES, chat.decode_turn, chat.stop_ids)
    assert dialect.parse(ids) == Said("hm", GOOD, ())
    for stop in chat.stop_ids:
        assert dialect.parse([*ids, stop]) == chat.parse([*ids, stop]) == Said("hm", "", (CALL,))
    assert dialect.parse([]) == Said()


def test_a_turn_that_was_cut_off_is_read_by_the_same_rule(chat: Chat) -> None:
    """Its thoughts are thinking, its calls are text of the answer, and in an open thought nothing is said."""
    cut = {True: BoundDialect(HERMES, chat.decode_turn, chat.stop_ids, thought_open=True), False: chat.dialect}
    for text, thought_open, said in [
        (f"a<think>b</think>{GOOD}<tool_call>{{", False, Said("b", f"a{GOOD}<tool_call>{{")),
        (f"<think>{GOOD}", False, Said(GOOD)),
        (GOOD, True, Said(GOOD)),
        (f"b</think>{GOOD}", True, Said("b", GOOD)),
    ]:
        assert cut[thought_open].parse(chat.tokenizer.encode(text, add_special_tokens=False)) == said


TEXT = st.lists(st.text(max_size=5) | st.sampled_from([*MARKS, '"', "\\", "{", "}", "\n"]), max_size=6).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.builds(ToolCall, TEXT, st.dictionaries(TEXT, JSON, max_size=3))
PROSE = TEXT.filter(lambda text: not any(mark in text for mark in MARKS))


def rendered_calls_are_read_back(calls: list[ToolCall], thought: str, answer: str, prompted: bool) -> None:
    text = f"{'' if prompted else '<think>'}{thought}</think>{answer}\n" + "".join(map(render_call, calls))
    assert read(text, prompted) == Said(thought, answer, tuple(calls))
    assert [piece.text for piece in pieces(text, prompted) if piece.frame] == [
        *([] if prompted else ["<think>"]),
        "</think>",
        *["<tool_call>", "</tool_call>"] * len(calls),
    ]


@pytest.mark.parametrize("examples", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_rendered_calls_are_read_back(examples: int) -> None:
    """Any name and arguments, marks, quotes and backslashes in their strings included; and nothing else is a frame."""
    several = st.lists(CALLS, min_size=1, max_size=3)
    drawn = given(calls=several, thought=PROSE, answer=PROSE, prompted=st.booleans())(rendered_calls_are_read_back)
    settings(max_examples=examples, deadline=None)(drawn)()


@settings(max_examples=30, deadline=None)
@given(calls=st.lists(CALLS, min_size=1, max_size=2), thought=PROSE, answer=PROSE)
def test_rendered_calls_are_read_back_from_token_ids(
    chat: Chat, calls: list[ToolCall], thought: str, answer: str
) -> None:
    """The same through `Chat`, whose marks are single tokens in front of and behind a call, and text within it."""
    message = Message("assistant", f"<think>{thought}</think>{answer}", tuple(calls))
    ids = chat.tokenizer.encode(chat.assistant_text(message), add_special_tokens=False)
    assert chat.parse([*ids, chat.end_id]) == Said(thought, answer, tuple(calls))


@settings(max_examples=40, deadline=None)
@given(
    calls=st.lists(CALLS, max_size=2),
    thought=TEXT.filter(lambda t: "</think>" not in t),
    answer=PROSE,
    prompted=st.booleans(),
)
def test_a_message_is_read_back_as_it_was_written(
    calls: list[ToolCall], thought: str, answer: str, prompted: bool
) -> None:
    """Thought, answer and calls, white space around the first two apart; marks in a thought too, save its own end."""
    message = Message("assistant", answer, tuple(calls), reasoning=thought or None)
    said = HERMES.read(HERMES.write(message, prompted), prompted, finished=True)
    assert (said.thinking.strip(), said.answer.strip(), said.calls) == (thought.strip(), answer.strip(), tuple(calls))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ '<tool_call>' }}", True),
        ("{{ '<|im_start|>' }}", False),
        ("{{ '<tool_call><function=' }}", False),
        ("{{ '<tool_call>f<arg_key>' }}", False),
    ],
)
def test_which_templates_speak_it(template: str, expected: bool) -> None:
    assert HERMES.speaks(template) is expected


@settings(max_examples=30, deadline=None)
@given(calls=st.lists(CALLS, min_size=1, max_size=2))
def test_calls_in_a_thought_are_not_made(calls: list[ToolCall]) -> None:
    """Whatever stands in their strings: it ends no thought."""
    thought = "".join(map(render_call, calls))
    assert read(f"<think>{thought}</think>7") == read(f"{thought}</think>7", True) == Said(thought, "7")
    assert read(f"<think>{thought}") == read(thought, True) == Said(thought)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*MARKS, "{", "}", '"', "\\", "[", ":", "x", GOOD, render_call(TRICKY)])), st.booleans()
)
def test_nothing_is_lost_and_counts_add_up(parts: list[str], thought_open: bool) -> None:
    """For any text: pieces are the text, frames the marks; each call has two, an unclosed or unopened one has one."""
    text = "".join(parts)
    found, said = pieces(text, thought_open), read(text, thought_open)
    assert "".join(piece.text for piece in found) == text
    frames = [piece.text for piece in found if piece.frame]
    assert set(frames) <= set(MARKS)
    names = described(said.calls)
    paired = len(names) - names.count("unclosed_tool_call") - names.count("unopened_tool_call")
    assert frames.count("<tool_call>") == paired + names.count("unclosed_tool_call")
    assert frames.count("</tool_call>") == paired + names.count("unopened_tool_call")
    content = "".join(piece.text for piece in found if not piece.frame)
    if not said.calls:
        assert sorted((said.thinking + said.answer).replace("\n", "")) == sorted(content.replace("\n", ""))


@pytest.mark.parametrize(
    "unit",
    [
        "<tool_call>{",
        "<tool_call>",
        "</tool_call>",
        '"',
        '<tool_call>["',
        '<tool_call>["\\"',
        '<tool_call>"" ',
        '<tool_call>[1,"',
        "<tool_call>[1,2,3,4,5,6,7,8,9,",
        "<think>",
        "</think>",
        "<think></think>",
        '<think><tool_call>["',
        "<tool_call>1",
        f"{GOOD}</think>",
    ],
)
@pytest.mark.parametrize("lead", ["", "<think>", '<tool_call>["'])
def test_the_work_grows_with_the_length_and_no_faster(lead: str, unit: str, handed: list[int]) -> None:
    text = lead + unit * 500
    read(text)
    pieces(text)
    assert sum(handed) <= 2 * (2 * len(text))


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ude00\\ud83d", "x\\ud83d", "\\ud83d\\ude00"])
@pytest.mark.parametrize(
    "body", ['{"name": "f", "arguments": {"ESCAPE": [{"b": "ESCAPE"}]}}', '{"name": "ESCAPE", "arguments": {}}']
)
def test_half_a_character_can_be_recorded(tmp_path: Path, body: str, escape: str) -> None:
    """JSON can write a lone surrogate, which no encoding has: the call is made, and its record is read back as it was.

    What the Python tool says to it is tested with the tool (`test_real_python_errors_are_read_by_the_model`).
    """
    said = read(f"<think>hm</think>{wrapped(body.replace('ESCAPE', escape))}")
    (call,) = said.calls
    assert isinstance(call, ToolCall)
    turn = Turn(1, 1, 2, "", calls=(call,), said=said)
    trajectory = Trajectory("t", 0, 1, (1, 2), (0, 1), (0.0, -1.0), (turn,), StopReason.ANSWER)
    log = RunLog.create(tmp_path / "run", {}, 0)
    log.write_trajectories(1, [trajectory_row(trajectory)])
    assert [trajectory_of(row) for row in log.trajectories(1)] == [trajectory]


@pytest.mark.parametrize("depth", [10, 300, 500, 700, 900])
def test_what_is_parsed_can_be_recorded(tmp_path: Path, depth: int) -> None:
    """A nesting just shallow enough to be read must not stop the run where its trajectory is written."""
    (call,) = parse_calls(wrapped('{"name": "f", "arguments": {"x": ' + "[" * depth + "]" * depth + "}}"))
    if isinstance(call, MalformedCall):
        assert call.error == "invalid_json"
        return
    turn = Turn(1, 1, 2, "", calls=(call,))
    trajectory = Trajectory("t", 0, 1, (1, 2), (0, 1), (0.0, -1.0), (turn,), StopReason.ANSWER)
    log = RunLog.create(tmp_path / "run", {}, 0)
    log.write_trajectories(1, [trajectory_row(trajectory)])
    (row,) = log.trajectories(1)
    assert row["turns"][0]["calls"][0]["arguments"] == call.arguments
