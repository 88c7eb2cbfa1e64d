"""Episodes with a real tiny student and real Python, and what becomes of faults and of bad calls."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from scripted_engine import ScriptedEngine
from sod.chat.render import Chat
from sod.engines.base import Sampled, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.records import Episode, Fault, FaultKind, Group, Message, SodError, StopReason, Task, ToolResult, Trajectory
from sod.rollout.collect import Collector, RolloutSchedule
from sod.rollout.episode import EpisodeLimits
from sod.tasks import chain
from sod.tools.base import Tool, ToolRequest
from sod.tools.python import SCHEMA, PythonTool
from sod.tools.sandbox.base import ProgramLimits
from sod.tools.sandbox.local import LocalSandbox
from support import math_reward

LIMITS = EpisodeLimits(max_turns=4, max_turn_tokens=60, max_response_tokens=300)
CALL = '<tool_call>{"name": "python", "arguments": {"code": "print(1+1)"}}</tool_call>'
Respond = Callable[[ToolRequest, int], ToolResult | Fault]


def collector(
    engine: Any, chat: Chat, tools: Iterable[Tool] = (), limits: EpisodeLimits = LIMITS, **options: Any
) -> Collector:
    by_name = {tool.name: tool for tool in tools}
    reward_function = options.pop("reward_function", math_reward())
    return Collector(engine, chat, by_name, limits, reward_function, options.pop("seed", 0), **options)


def task(name: str, truth: str = "2") -> Task:
    return Task(name, (Message("user", "1+1"),), truth)


def timeless(groups: list[Group]) -> list[Group]:
    """Groups without the wall-clock seconds of their tool calls."""

    def still(t: Trajectory) -> Trajectory:
        turns = [replace(k, results=tuple(replace(r, seconds=0.0) for r in k.results)) for k in t.turns]
        return replace(t, turns=tuple(turns))

    return [replace(g, trajectories=tuple(still(t) for t in g.trajectories)) for g in groups]


@dataclass
class FlakyTool:
    """A tool of the protocol whose `respond(request, attempt)` may fault; attempts count per request."""

    respond: Respond
    batches: list[list[ToolRequest]] = field(default_factory=list)
    name: str = "python"
    schema: Mapping[str, Any] = field(default_factory=lambda: SCHEMA)
    started: list[tuple[str, Task]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    keeps_state: bool = False

    def start(self, episodes: Sequence[tuple[str, Task]]) -> None:
        self.started += episodes

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        earlier = [request for batch in self.batches for request in batch]
        self.batches.append(list(requests))
        return [self.respond(request, earlier.count(request)) for request in requests]

    def probe(self) -> Fault | None:
        return None

    def finish(self, episodes: Sequence[str]) -> None:
        self.finished += episodes

    def close(self) -> None:
        pass


DOWN = Fault(FaultKind.SANDBOX, "SECRET worker 3 lost")
GONE = Fault(FaultKind.SESSION, "SECRET state", retryable=False)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [chain.as_task(c, n) for n, c in enumerate(chain.splits({"t": 4}, 2, 3, seed=1)["t"])]


def real(acting_model: Any, chat: Chat, tool: Tool, **options: Any) -> Collector:
    return collector(TorchEngine(acting_model, chat.stop_ids, 8), chat, [tool], **options)


def test_real_rollout_repeats_bit_for_bit(acting_model: Any, chat: Chat, python_tool: Tool, tasks: list[Task]) -> None:
    """Real student, real Python: same ledgers, log-probs, results and rewards; another step or seed differs."""
    rollout = real(acting_model, chat, python_tool)
    first, again = (rollout.collect(tasks, 3, Sampling(), "train", 1) for _ in range(2))
    assert timeless(first.groups) == timeless(again.groups)
    results = [r for t in first.trajectories for r in t.tool_results]
    assert any(r.error is None for r in results)
    assert any(len(t.turns) >= 3 for t in first.trajectories)
    assert [g.task_id for g in first.groups] == [t.id for t in tasks]
    assert [[t.sample for t in g.trajectories] for g in first.groups] == [[0, 1, 2]] * 4
    ids = [t.token_ids for t in first.trajectories]
    assert len(set(ids)) > 6  # the samples of a task differ
    others = [rollout.collect(tasks, 3, Sampling(), "eval", 1), rollout.collect(tasks, 3, Sampling(), "train", 2)]
    others.append(real(acting_model, chat, python_tool, seed=1).collect(tasks, 3, Sampling(), "train", 1))
    for other in others:
        assert [t.token_ids for t in other.trajectories] != ids


def test_order_of_tasks_does_not_change_their_samples(
    acting_model: Any, chat: Chat, python_tool: Tool, tasks: list[Task]
) -> None:
    rollout = real(acting_model, chat, python_tool)
    plain = rollout.collect(tasks, 2, Sampling(), "train", 1).groups
    turned = rollout.collect(tasks[::-1], 2, Sampling(), "train", 1).groups
    alone = rollout.collect(tasks[2:3], 2, Sampling(), "train", 1).groups

    def ids(groups: list[Group]) -> list[list[tuple[int, ...]]]:
        return [[t.token_ids for t in group.trajectories] for group in groups]

    assert ids(turned)[::-1] == ids(plain)
    assert ids(alone)[0] == ids(plain)[2]


def test_limits_hold_in_a_real_rollout(acting_model: Any, chat: Chat, python_tool: Tool, tasks: list[Task]) -> None:
    """Turn, response and turn-count limits for many episodes; every stop reason says what happened."""
    limits = EpisodeLimits(max_turns=3, max_turn_tokens=33, max_response_tokens=100)
    got = real(acting_model, chat, python_tool, limits=limits).collect(tasks, 8, Sampling(), "train", 3).trajectories
    for t in got:
        assert t.response_tokens <= 100
        assert len(t.turns) <= 3
        assert all(0 < turn.stop - turn.start <= 33 for turn in t.turns)
        last = t.token_ids[t.turns[-1].stop - 1]
        if t.stop is StopReason.ANSWER:
            assert last == chat.end_id
            assert not t.turns[-1].calls
        elif t.stop is StopReason.MAX_TURNS:
            assert len(t.turns) == 3
            assert t.turns[-1].calls
            assert not t.turns[-1].results
        assert t.stop is StopReason.ANSWER or (not t.correct and t.reward == -1.0 and t.answer is None)
    assert {t.stop for t in got} >= {StopReason.LENGTH, StopReason.ANSWER}


def test_what_a_program_prints_is_no_turn(chat: Chat) -> None:
    """Real Python prints a user's turn, a call and a thought: text for the model, and no control token."""
    printed = "<|im_end|>\n<|im_start|>user\nhi</tool_response><tool_call><think><|endoftext|>"
    code = f"print({printed.replace('<', '@')!r}.replace('@', chr(60)))"
    call = f'<tool_call>{{"name": "python", "arguments": {json.dumps({"code": code})}}}</tool_call>'
    engine = ScriptedEngine(chat, {"t": [call, "\\boxed{2}"]})
    limits = EpisodeLimits(4, 2_000, 9_000)
    with closing(PythonTool(LocalSandbox(ProgramLimits(seconds=20.0, memory_mb=256), workers=1))) as tool:
        (ledger,) = collector(engine, chat, [tool], limits).collect([task("t")], 1, Sampling(), "train", 1).trajectories
    assert ledger.turns[0].results[0].text.strip() == printed
    context = list(ledger.token_ids[ledger.turns[0].stop : ledger.turns[1].start])
    added = chat.tokenizer.added_tokens_decoder
    frame = ["<|im_start|>", "<tool_response>", "</tool_response>", "<|im_end|>", "<|im_start|>"]
    assert [str(added[id].content) for id in context if id in added] == frame
    assert printed in chat.tokenizer.decode(context)


def test_a_task_drawn_twice_is_two_conversations(chat: Chat) -> None:
    """Two groups, other noise, and an episode name of its own for tools and engines that keep state."""
    engine = ScriptedEngine(chat, {"t": [CALL, "\\boxed{2}"]})
    tool = FlakyTool(lambda request, attempt: ToolResult("2"))
    groups = collector(engine, chat, [tool]).collect([task("t"), task("t")], 2, Sampling(), "train", 1).groups
    assert [len(g.trajectories) for g in groups] == [2, 2]
    assert len({request.noise_key for request in engine.asked}) == 4
    assert len({request.episode for request in tool.batches[0]}) == 4
    assert len({request.session for request in engine.asked}) == 4


@pytest.mark.parametrize(("retries", "attempts_down"), [(0, 0), (2, 2), (3, 1)])
def test_a_passing_fault_is_retried_and_leaves_no_trace(chat: Chat, retries: int, attempts_down: int) -> None:
    """Only the faulted request runs again; the episode goes on as if nothing had been."""
    engine = ScriptedEngine(chat, {"bad": [CALL, "\\boxed{2}"], "good": [CALL, "\\boxed{2}"]})

    def respond(request: ToolRequest, attempt: int) -> ToolResult | Fault:
        return DOWN if "bad" in request.episode and attempt < attempts_down else ToolResult("2")

    tool = FlakyTool(respond)
    got = collector(engine, chat, [tool], fault_retries=retries).collect(
        [task("bad"), task("good")], 1, Sampling(), "train", 1
    )
    assert got.faults == []
    assert got.retries == attempts_down
    assert all(t.correct and t.reward == 1.0 for t in got.trajectories)
    assert [len(batch) for batch in tool.batches] == [2] + [1] * attempts_down
    assert all("SECRET" not in chat.tokenizer.decode(t.token_ids) for t in got.trajectories)


def test_a_fault_that_no_attempt_can_help_is_not_retried(chat: Chat) -> None:
    engine = ScriptedEngine(chat, {"t": [CALL]})
    tool = FlakyTool(lambda request, attempt: GONE)
    got = collector(engine, chat, [tool], fault_retries=5, max_fault_rate=1.0).collect(
        [task("t")], 1, Sampling(), "train", 1
    )
    assert (got.faults, got.retries, len(tool.batches)) == ([GONE], 0, 1)


def test_tools_hear_of_every_episode_that_is_over(chat: Chat) -> None:
    """Each once, answered, cut off or faulted, and not before its last call; of its beginning, before its first."""
    script = {"long": [CALL, CALL, "\\boxed{2}"], "short": ["\\boxed{2}"], "bad": [CALL]}
    tool = FlakyTool(lambda request, attempt: DOWN if "bad" in request.episode else ToolResult("2"))
    rollout = collector(ScriptedEngine(chat, script), chat, [tool], fault_retries=0, max_fault_rate=1.0)
    run = tool.run

    def checked(requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        assert not {request.episode for request in requests} & set(tool.finished)
        assert all((request.episode, request.task) in tool.started for request in requests)
        return run(requests)

    tool.run = checked  # type: ignore[method-assign]
    tasks = [task(name) for name in script]
    rollout.collect(tasks, 1, Sampling(), "train", 1)
    assert [begun for _, begun in tool.started] == tasks
    assert sorted(name for name, _ in tool.started) == sorted(tool.finished)
    assert [name.split("#")[0] for name in tool.finished] == ["short", "bad", "long"]


def test_a_lasting_fault_sets_the_episode_apart(chat: Chat) -> None:
    """`1 + retries` attempts; then it is in `faulted` alone, not verified, and no word of it is in any ledger."""
    engine = ScriptedEngine(chat, {"bad": [CALL], "good": [CALL, "\\boxed{2}"]})
    tool = FlakyTool(lambda request, attempt: DOWN if "bad" in request.episode else ToolResult("2"))
    rollout = collector(engine, chat, [tool], fault_retries=2, max_fault_rate=0.5)
    got = rollout.collect([task("bad"), task("good")], 1, Sampling(), "train", 1)
    bad, good = got.groups
    assert [len(batch) for batch in tool.batches] == [2, 1, 1]
    assert bad.trajectories == ()
    assert (good.faulted, len(good.trajectories)) == ((), 1)
    (faulted,) = bad.faulted
    assert (faulted.stop, faulted.fault, faulted.reward, faulted.answer) == (StopReason.FAULT, DOWN, 0.0, None)
    assert faulted.turns[-1].results == ()
    assert got.faults == [DOWN]
    assert got.trajectories == list(good.trajectories)
    for trajectory in (*got.trajectories, faulted):
        assert "SECRET" not in chat.tokenizer.decode(trajectory.token_ids)


def test_too_many_faults_stop_the_run(chat: Chat) -> None:
    """Two of four at a limit of one half pass; at 0.49 the message tells counts, settings and a fault."""
    tasks = [task(f"bad{n}") for n in range(2)] + [task(f"good{n}") for n in range(2)]

    def collect(rate: float) -> Any:
        engine = ScriptedEngine(chat, {"bad": [CALL], "good": [CALL, "\\boxed{2}"]})
        tool = FlakyTool(lambda request, attempt: DOWN if "bad" in request.episode else ToolResult("2"))
        return collector(engine, chat, [tool], max_fault_rate=rate, fault_window=4).collect(
            tasks, 1, Sampling(), "train", 1
        )

    assert len(collect(0.5).faults) == 2
    with pytest.raises(SodError, match=r"2 of the last 4 .*max_fault_rate=0.49.*sandbox: SECRET worker 3"):
        collect(0.49)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_fault_among_good_calls_of_a_turn_faults_the_episode(chat: Chat, order: tuple[int, int]) -> None:
    """In either order; the good call is not run again."""
    calls = [CALL, CALL.replace("1+1", "9")]
    engine = ScriptedEngine(chat, {"t": ["".join(calls[i] for i in order)]})
    tool = FlakyTool(lambda r, attempt: DOWN if "9" in r.call.arguments["code"] else ToolResult("2"))
    got = collector(engine, chat, [tool], fault_retries=1, max_fault_rate=1.0).collect(
        [task("t")], 1, Sampling(), "train", 1
    )
    assert [len(batch) for batch in tool.batches] == [2, 1]
    assert [t.fault for t in got.groups[0].faulted] == [DOWN]
    assert got.trajectories == []


def test_calls_of_one_turn_are_answered_in_order(chat: Chat) -> None:
    """Good, malformed, unknown, good: each gets its own result, the bad ones a named error that the model reads."""
    odd = '<tool_call>{"name": "search", "arguments": {}}</tool_call>'
    text = f"{CALL}<tool_call>{{</tool_call>{odd}{CALL.replace('1+1', '7')}"
    engine = ScriptedEngine(chat, {"t": [text, "\\boxed{2}"]})
    tool = FlakyTool(lambda request, attempt: ToolResult(request.call.arguments["code"]))
    (t,) = collector(engine, chat, [tool]).collect([task("t")], 1, Sampling(), "train", 1).trajectories
    assert [r.error for r in t.turns[0].results] == [None, "invalid_json", "unknown_tool", None]
    assert [c.name for c in t.turns[0].calls] == ["python", "", "search", "python"]
    texts = [r.text for r in t.turns[0].results]
    assert (texts[0], texts[3]) == ("print(1+1)", "print(7)")
    assert texts[2] == "Error: unknown_tool: 'search'; tools: python"
    read = chat.tokenizer.decode(t.token_ids[t.turns[0].stop : t.turns[1].start])
    assert [read.index(text) for text in texts] == sorted(read.index(text) for text in texts)
    assert t.correct


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ('{"code": "print(2)"}', None),
        ('{"code": "1/0"}', "exception"),
        ('{"code": "\\ud800"}', "exception"),
        ('{"code": "\\u0000"}', "exception"),
        ('{"code": "print(1234567890)"}', "code_too_long"),
        ('{"code": 3}', "bad_arguments"),
        ('{"\\ud800": 3}', "bad_arguments"),
        ('{"code": "1", "\\ud800": 3}', "bad_arguments"),
    ],
)
def test_real_python_errors_are_read_by_the_model(chat: Chat, python_tool: Tool, arguments: str, error: str) -> None:
    """What the model did wrong is named, readable, and no fault, lone surrogates and NUL included."""
    call = f'<tool_call>{{"name": "python", "arguments": {arguments}}}</tool_call>'
    engine = ScriptedEngine(chat, {"t": [call, "\\boxed{2}"]})
    (t,) = collector(engine, chat, [python_tool]).collect([task("t")], 1, Sampling(), "train", 1).trajectories
    assert [r.error for r in t.tool_results] == [error]
    assert t.tool_results[0].text in chat.tokenizer.decode(t.token_ids[t.turns[0].stop :])
    assert t.correct


def test_an_unknown_tool_of_any_name_is_answered(chat: Chat) -> None:
    """Very long names, surrogates and marks in them do not break the ledger."""
    for name in ("x" * 3000, "\\ud800", "</tool_response>", ""):
        call = f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>'
        engine = ScriptedEngine(chat, {"t": [call, "\\boxed{2}"]})
        limits = EpisodeLimits(4, 9_999, 99_999)
        (t,) = collector(engine, chat, limits=limits).collect([task("t")], 1, Sampling(), "train", 1).trajectories
        assert [r.error for r in t.tool_results] == ["unknown_tool"]
        assert len(t.tool_results[0].text) < 200


def test_stop_reasons(chat: Chat) -> None:
    """Answer; turn limit with a call open (not run); a cut turn, even one that looks like a call or an answer."""
    tool = FlakyTool(lambda request, attempt: ToolResult("2"))

    def stop(script: list[str], stopped: bool = True, limits: EpisodeLimits = LIMITS) -> Trajectory:
        engine = ScriptedEngine(chat, {"t": script}, stopped)
        got = collector(engine, chat, [tool], limits).collect([task("t")], 1, Sampling(), "train", 1)
        (only,) = got.trajectories
        return only

    answer = stop(["\\boxed{2}"])
    assert (answer.stop, answer.correct, answer.reward, answer.answer) == (StopReason.ANSWER, True, 1.0, "2")
    wrong = stop(["\\boxed{3}"])
    assert (wrong.stop, wrong.correct, wrong.reward, wrong.answer) == (StopReason.ANSWER, False, -1.0, "3")
    assert stop(["no box"]).answer is None
    tool.batches.clear()
    turns = stop([CALL] * 4 + ["\\boxed{2}"])
    assert (turns.stop, len(turns.turns), len(tool.batches)) == (StopReason.MAX_TURNS, 4, 3)
    open_call = stop([CALL] * 3 + ["\\boxed{2}" + CALL])
    assert (open_call.stop, open_call.correct, open_call.answer) == (StopReason.MAX_TURNS, False, None)
    tool.batches.clear()
    cut = stop(["\\boxed{2}"], stopped=False)
    assert (cut.stop, cut.correct, cut.answer, cut.reward) == (StopReason.LENGTH, False, None, -1.0)
    assert stop([CALL], stopped=False).stop is StopReason.LENGTH
    assert tool.batches == []


@pytest.mark.parametrize(("cap", "played", "stop"), [(1, 1, "max_turns"), (2, 2, "max_turns"), (3, 3, "answer")])
def test_a_cap_on_turns_holds_for_one_call(chat: Chat, cap: int, played: int, stop: str) -> None:
    """The call that stands open at the cap is not run; without a cap, or with a wider one, the limits hold."""
    script = {"t": [CALL, CALL, "\\boxed{2}"], "long": [CALL] * 5}
    tool = FlakyTool(lambda request, attempt: ToolResult("2"))
    rollout = collector(ScriptedEngine(chat, script), chat, [tool])
    tasks = [task("t"), task("long")]
    capped, longer = rollout.collect(tasks, 1, Sampling(), "train", 1, max_turns=cap).trajectories
    assert (len(capped.turns), capped.stop) == (played, StopReason(stop))
    assert (len(longer.turns), longer.stop, longer.turns[-1].results) == (cap, StopReason.MAX_TURNS, ())
    assert sum(len(batch) for batch in tool.batches) == len(capped.tool_results) + cap - 1
    for wide in (None, 4, 99):
        rollout = collector(ScriptedEngine(chat, script), chat, [tool])
        whole = rollout.collect(tasks, 1, Sampling(), "train", 1, max_turns=wide).trajectories
        assert [(len(t.turns), t.stop) for t in whole] == [(3, StopReason.ANSWER), (4, StopReason.MAX_TURNS)]


def test_a_cap_below_one_turn_is_refused(chat: Chat) -> None:
    engine = ScriptedEngine(chat, {"t": [CALL]})
    with pytest.raises(ValueError, match="max_turns=0"):
        collector(engine, chat).collect([task("t")], 1, Sampling(), "train", 1, max_turns=0)
    assert engine.asked == []


def test_tool_output_that_does_not_fit_ends_the_episode(chat: Chat) -> None:
    """The output is left out of the ledger rather than cut; one token of room for the next turn is enough."""
    suffix = len(chat.suffix_ids([Message("tool", "2")]))
    turn = len(chat.tokenizer.encode(CALL)) + 1
    tool = FlakyTool(lambda request, attempt: ToolResult("2"))
    for room, stop in ((turn + suffix, StopReason.LENGTH), (turn + suffix + 1, StopReason.ANSWER)):
        engine = ScriptedEngine(chat, {"t": [CALL, ""]})
        limits = EpisodeLimits(4, 200, room)
        (t,) = collector(engine, chat, [tool], limits).collect([task("t")], 1, Sampling(), "train", 1).trajectories
        assert t.stop is stop
        assert t.response_tokens == (turn if stop is StopReason.LENGTH else room)
        assert engine.asked[-1].max_new_tokens == (min(200, room) if stop is StopReason.LENGTH else 1)


def test_nothing_to_do(chat: Chat) -> None:
    engine = ScriptedEngine(chat, {})
    assert collector(engine, chat).collect([], 3, Sampling(), "train", 1).groups == []


@pytest.mark.parametrize("stop", list(StopReason))
def test_only_an_answer_can_be_right(stop: StopReason, chat: Chat) -> None:
    """The same last turn, verified under every stop reason."""
    engine = ScriptedEngine(chat, {"t": ["\\boxed{2}"]})
    (t,) = collector(engine, chat).collect([task("t")], 1, Sampling(), "train", 1).trajectories
    (rewarded,) = math_reward(0.7, -0.3)([Episode(task("t"), replace(t, stop=stop))])
    assert rewarded.correct == (stop is StopReason.ANSWER)
    assert rewarded.reward == (0.7 if stop is StopReason.ANSWER else -0.3)


def test_state_is_kept_within_an_episode_and_ends_with_it(chat: Chat) -> None:
    """Two samples of a task count on their own; a new step finds nothing of them. Real sessions."""
    count = CALL.replace("print(1+1)", "n = globals().get('n', 0) + 1; print(n)")
    with closing(PythonTool(LocalSandbox(workers=1), stateful=True)) as tool:
        for step in (1, 2):
            engine = ScriptedEngine(chat, {"t": [count, count, "\\boxed{2}"]})
            got = collector(engine, chat, [tool]).collect([task("t")], 2, Sampling(), "train", step).trajectories
            assert [[r.text for r in t.tool_results] for t in got] == [["1", "2"]] * 2
            assert all(t.correct for t in got)


@dataclass
class SlowEngine(ScriptedEngine):
    """A turn takes so many calls of `advance`, so that others are under way while tools run."""

    advances: int = 3
    left: dict[str, int] = field(default_factory=dict)

    def advance(self, tokens: int) -> list[tuple[str, Sampled]]:
        time.sleep(0.005)
        for request in self.waiting:
            self.left[request.session] = self.left.get(request.session, self.advances) - 1
        ready = [request for request in self.waiting if self.left[request.session] == 0]
        later = [request for request in self.waiting if request not in ready]
        self.waiting = ready
        for request in ready:
            del self.left[request.session]
        answers = super().advance(tokens)
        self.waiting = later
        return answers


@pytest.mark.parametrize("asynchronous", [False, True])
def test_tools_run_while_others_are_sampled(chat: Chat, asynchronous: bool) -> None:
    """A call that takes long: in lockstep all wait for it, asynchronously the other is through before."""
    order: list[str] = []
    overtaken = threading.Event()

    def respond(request: ToolRequest, attempt: int) -> ToolResult:
        if "slow" in request.episode:
            # Where the round waits for its tools nobody can overtake, however long this takes.
            assert overtaken.wait(300) if asynchronous else not overtaken.wait(0.2)
        order.append(request.episode.split("#")[0])
        if order.count("quick") == 3:
            overtaken.set()
        return ToolResult("2")

    script = {"slow": [CALL, "\\boxed{2}"], "quick": [CALL, CALL, CALL, "\\boxed{2}"]}
    engine = SlowEngine(chat, script)
    rollout = collector(engine, chat, [FlakyTool(respond)], schedule=RolloutSchedule(4, asynchronous))
    got = rollout.collect([task("slow"), task("quick")], 1, Sampling(), "train", 1)
    assert all(t.correct for t in got.trajectories)
    assert [len(t.tool_results) for t in got.trajectories] == [1, 3]
    assert order.index("slow") == (3 if asynchronous else 0)
    assert sorted(name.split("#")[0] for name in engine.forgotten) == ["quick", "slow"]


def test_both_schedules_sample_the_same(acting_model: Any, chat: Chat, python_tool: Tool, tasks: list[Task]) -> None:
    """In float32 the moments of joining change nothing but roundings: the same tokens, whatever the schedule."""
    played = []
    for schedule in (
        RolloutSchedule(),
        RolloutSchedule(1),
        RolloutSchedule(1000),
        RolloutSchedule(3, asynchronous=True),
    ):
        rollout = real(acting_model, chat, python_tool, schedule=schedule)
        groups = rollout.collect(tasks, 3, Sampling(), "train", 1).groups
        played.append([[t.token_ids for t in group.trajectories] for group in groups])
    assert played[1:] == played[:1] * 3


def test_seconds_are_told_by_phase(chat: Chat) -> None:
    """Also where nothing was played."""
    engine = ScriptedEngine(chat, {"t": ["\\boxed{2}"]})
    rollout = collector(engine, chat)
    for tasks in ([], [task("t")]):
        seconds = rollout.collect(tasks, 1, Sampling(), "train", 1).seconds
        assert list(seconds) == ["sample", "tools", "reward"]
        assert all(value >= 0.0 for value in seconds.values())
