"""Households made by a seed, and what a searching player does in one: nothing of TextWorld runs here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sod.environments import alfworld_rooms
from sod.environments.alfworld import AlfWorld, said_command
from sod.environments.alfworld_expert import Goal, goal_of, house_of, next_command, shown_in
from sod.environments.alfworld_games import UNKNOWN, original, package_source
from sod.environments.alfworld_problems import KINDS, problem
from sod.records import SodError, Task, ToolFault

TREATED = {KINDS[2]: "isclean", KINDS[3]: "ishot", KINDS[4]: "iscool"}


def placed(pddl: str) -> dict[str, str]:
    """The type of the furniture that each thing is in or on."""
    return dict(re.findall(r"\(inReceptacle (\w+) ([A-Za-z]+)_bar", pddl))


@pytest.fixture(scope="module", autouse=True)
def _package() -> None:
    pytest.importorskip("alfworld")


def test_problems_repeat_and_differ_and_held_out_ones_are_in_rooms_of_their_own() -> None:
    every = {split: [problem(3, split, number) for number in range(120)] for split in ("train", "validation")}
    problem.cache_clear()
    assert [problem(3, "train", number) for number in range(12)] == every["train"][:12]
    assert problem(4, "train", 0) != every["train"][0]
    rooms = {split: {made.room for made in every[split]} for split in every}
    assert not rooms["train"] & rooms["validation"]
    assert min(len(numbers) for numbers in rooms.values()) > 15
    assert len({made.pddl for made in (*every["train"], *every["validation"])}) == 240
    assert [made.kind for made in every["train"][:6]] == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_goal_is_open_can_be_reached_and_is_what_its_words_say(kind: str) -> None:
    for number in range(40):
        made = problem(0, "train", number, (kind,))
        goal = goal_of(made.pddl)
        thing, target = made.thing.lower(), made.target.lower()
        lamp = target if kind == "look_at_obj_in_light" else ""
        assert goal == Goal(thing, "" if lamp else target, TREATED.get(kind, ""), lamp, 2 if kind == KINDS[5] else 1)
        assert thing in made.text
        assert target in made.text
        places = placed(made.pddl)
        mine = [place for name, place in places.items() if name.startswith(f"{made.thing}_")]
        assert len(mine) >= goal.count
        assert made.target not in mine
        if not lamp:
            assert f"(canContain {made.target}Type {made.thing}Type)" in made.pddl
        appliance = {"isclean": "SinkBasinType", "ishot": "MicrowaveType", "iscool": "FridgeType"}.get(goal.quality)
        assert appliance is None or re.search(rf"\(receptacleType \w+ {appliance}\)", made.pddl)


def test_goals_of_other_kinds_are_told_apart() -> None:
    with pytest.raises(ValueError, match="none of ALFWorld's six kinds"):
        goal_of("(:goal (and (isSliced ?o) (objectType ?o AppleType) (receptacleType ?r FridgeType)))")


HOUSE = [
    *(["receptacletype", name, f"{name.split()[0]}type"] for name in ("desk 1", "drawer 1", "fridge 1", "shelf 1")),
    *(["receptacleatlocation", name, f"at {name}"] for name in ("desk 1", "drawer 1", "fridge 1", "shelf 1")),
    ["cancontain", "desktype", "mugtype"],
    ["cancontain", "drawertype", "mugtype"],
    ["cancontain", "fridgetype", "mugtype"],
    ["openable", "drawer 1"],
    ["openable", "fridge 1"],
    ["objecttype", "mug 1", "mugtype"],
    ["objecttype", "mug 2", "mugtype"],
    ["objecttype", "desklamp 1", "desklamptype"],
    ["inreceptacle", "desklamp 1", "shelf 1"],
]
PUT = Goal("mug", "desk", "", "", 1)
COOL = Goal("mug", "desk", "iscool", "", 1)
LOOK = Goal("mug", "", "", "desklamp", 1)
BOTH = Goal("mug", "desk", "", "", 2)
IN = [["inreceptacle", "mug 1", "drawer 1"], ["inreceptacle", "mug 2", "fridge 1"]]
LAMP_HELD = [["holds", "agent1", "desklamp 1"], ["cancontain", "shelftype", "desklamptype"]]
HELD = [["holds", "agent1", "mug 1"], ["inreceptacle", "mug 2", "fridge 1"]]


@pytest.mark.parametrize(
    ("goal", "at", "more", "seen", "command"),
    [
        (PUT, "nowhere", IN, "", "go to desk 1"),  # what needs no opening first, where mugs can be
        (PUT, "at desk 1", IN, "desk 1", "go to drawer 1"),
        (PUT, "at drawer 1", IN, "desk 1", "open drawer 1"),
        (PUT, "at drawer 1", [*IN, ["opened", "drawer 1"]], "desk 1 drawer 1", "take mug 1 from drawer 1"),
        (PUT, "at shelf 1", IN, "drawer 1", "go to drawer 1"),  # it was seen there
        (PUT, "at drawer 1", IN, "drawer 1", "open drawer 1"),  # and was shut again
        (PUT, "at drawer 1", HELD, "drawer 1", "go to desk 1"),
        (PUT, "at desk 1", HELD, "drawer 1", "move mug 1 to desk 1"),
        (COOL, "at drawer 1", HELD, "drawer 1", "go to fridge 1"),
        (COOL, "at fridge 1", HELD, "drawer 1", "cool mug 1 with fridge 1"),
        (COOL, "at fridge 1", [*HELD, ["iscool", "mug 1"]], "drawer 1", "go to desk 1"),
        (COOL, "at desk 1", [["inreceptacle", "mug 1", "desk 1"]], "desk 1", "take mug 1 from desk 1"),  # not cool yet
        (LOOK, "at drawer 1", HELD, "drawer 1", "go to desk 1"),  # the lamp has not been seen
        (LOOK, "at drawer 1", HELD, "shelf 1", "go to shelf 1"),
        (LOOK, "at shelf 1", HELD, "shelf 1", "use desklamp 1"),
        (BOTH, "at desk 1", [["inreceptacle", "mug 1", "desk 1"], IN[1]], "desk 1 fridge 1", "go to fridge 1"),
        (PUT, "at desk 1", LAMP_HELD, "", "go to shelf 1"),  # away with it
    ],
)  # fmt: skip
def test_the_expert_searches_and_knows_only_what_it_has_seen(
    goal: Goal, at: str, more: list[list[str]], seen: str, command: str
) -> None:
    house = house_of([*HOUSE, ["atlocation", "agent1", at], *more])
    shown = frozenset(re.findall(r"\w+ \d", seen))
    assert next_command(goal, house, shown) == command


def test_the_expert_of_a_house_that_lacks_what_the_task_takes_says_so() -> None:
    house = house_of([*HOUSE, ["atlocation", "agent1", "at desk 1"], *HELD])
    with pytest.raises(ToolFault, match="nothing in the house that this task takes"):
        next_command(Goal("mug", "bed", "", "", 1), house, frozenset())


def test_what_a_text_shows() -> None:
    text = "You open the safe 1. The safe 1 is open. In it, you see nothing."
    assert shown_in(text) == {"safe 1"}
    assert shown_in("You arrive at desk 2. On the desk 2, you see a pen 1.") == {"desk 2"}
    assert shown_in("You open drawer 3. In drawer 3, you see a cd 1.") == {"drawer 3"}  # older games
    assert shown_in("You arrive at safe 1. The safe 1 is closed.") == set()


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("I look there. <action>Go to  Desk 1</action>", "go to desk 1"),
        ("<action>look</action> no: <action>inventory</action>", "inventory"),
        ("I think.\n> open safe 1.", "open safe 1"),
        ("", ""),
    ],
)
def test_a_command_is_found_in_what_was_said(said: str, command: str) -> None:
    assert said_command(said) == command


def game_file(folder: Path, name: str, task: str = "put a pen in bed", **more: object) -> Path:
    domain, grammar = package_source()
    file = folder / name / "game.tw-pddl"
    file.parent.mkdir(parents=True)
    parts = {"pddl_domain": domain, "grammar": grammar.replace(UNKNOWN, task), "pddl_problem": "(define)"}
    file.write_text(json.dumps({**parts, **more}))
    return file


def test_games_of_a_folder_are_found_by_split_and_kind(tmp_path: Path) -> None:
    game_file(tmp_path / "train", "pick_and_place_simple-Pen-None-Bed-301/trial_1")
    game_file(tmp_path / "train", "look_at_obj_in_light-Pen-None-DeskLamp-301/trial_2")
    game_file(tmp_path / "train", "pick_and_place_with_movable_recep-Pen-Mug-Bed-301/trial_3")
    game_file(tmp_path / "train", "pick_and_place_simple-Pen-None-Bed-302/trial_4", solvable=False)
    game_file(tmp_path / "valid_seen", "pick_and_place_simple-Pen-None-Bed-301/trial_5")
    game_file(tmp_path / "valid_unseen", "pick_and_place_simple-Pen-None-Bed-303/trial_6")
    world = AlfWorld(games=str(tmp_path))
    assert {task.id.rpartition("trial_")[2] for task in world.tasks("train")} == {"1/game.tw-pddl", "2/game.tw-pddl"}
    assert world.tasks("train") == AlfWorld(games=str(tmp_path)).tasks("train")
    assert [task.extra["game"] for task in world.tasks("validation")] == [
        "valid_unseen/pick_and_place_simple-Pen-None-Bed-303/trial_6/game.tw-pddl"
    ]
    (only,) = AlfWorld(games=str(tmp_path), kinds="look_at_obj_in_light").tasks("train")
    assert only.data_source == "look_at_obj_in_light"
    assert len(AlfWorld(games=str(tmp_path), train=1).tasks("train")) == 1


def test_games_without_folders_for_splits_are_split_all_the_same(tmp_path: Path) -> None:
    for number in range(20):
        game_file(tmp_path, f"game_{number:02}")
    world = AlfWorld(games=str(tmp_path))
    train, validation = ({task.id for task in world.tasks(split)} for split in ("train", "validation"))
    assert (len(train), len(validation), len(train & validation)) == (18, 2, 0)


def test_one_grammar_serves_all_games(tmp_path: Path) -> None:
    file = game_file(tmp_path, "game", 'put a \\"pen\\" in bed')
    source = original(file)
    assert source.task == 'put a "pen" in bed'
    assert (source.domain, source.grammar) == package_source()


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SodError, match=r"environment\.kinds=\['fly'\]: name some of pick_and_place_simple, "):
        AlfWorld(kinds=["fly"])
    with pytest.raises(SodError, match=r"environment\.expert='oracle': is search or planner"):
        AlfWorld(expert="oracle")  # type: ignore[arg-type]
    with pytest.raises(SodError, match=r"environment\.games=.*no game\.tw-pddl below it that can be played"):
        AlfWorld(games=str(tmp_path)).tasks("train")
    with pytest.raises(SodError, match=r"task row-1: .*leave data\.train out, or give rows a `game`"):
        AlfWorld().reset(Task("row-1", (), "", extra={"question": "?"}), 1)
    (tmp_path / "game.tw-pddl").write_text("{}")
    with pytest.raises(SodError, match=r"game\.tw-pddl: is no game of ALFWorld"):
        AlfWorld().reset(Task("row-1", (), "", extra={"game": str(tmp_path / "game.tw-pddl")}), 1)
    alfworld_rooms.package_folder.cache_clear()
    monkeypatch.setattr(alfworld_rooms.importlib.util, "find_spec", lambda name: None)
    try:
        with pytest.raises(SodError, match=r"needs the packages .*`pip install 'sod-distill\[envs\]'`"):
            AlfWorld()
    finally:
        alfworld_rooms.package_folder.cache_clear()
