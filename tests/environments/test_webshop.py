"""WebShop-style: a generated shop and its goals, the pages, what a purchase earns, players, and the authors' files."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripted_engine import ScriptedEngine
from sod.chat.render import Chat
from sod.engines.base import Sampling
from sod.environments import webshop
from sod.environments.base import (
    Action,
    Began,
    HasChoices,
    HasExpert,
    OffersTasks,
    Replay,
    Replays,
    Reset,
    Step,
    Stepped,
    WorldRequest,
)
from sod.environments.ranking import Ranking
from sod.environments.shop import NO_LIMIT, Goal, Product, generated_goals, generated_products, kinds_there_are
from sod.environments.shop_expert import queries_for
from sod.environments.shop_reward import alike, purchase_reward, type_reward
from sod.environments.webshop import ASK, ASK_IN_WORDS, WebShop
from sod.environments.webshop_products import Files, goals_in, products_in
from sod.environments.worlds import Worlds
from sod.records import SodError, StopReason, Task, ToolCall
from sod.rewards.shaping import Shaping
from sod.rollout.collect import Collector, World
from sod.rollout.earned import EnvironmentReward
from sod.rollout.limits import EpisodeLimits

pytest.importorskip("bm25s")
SMALL: dict[str, Any] = {"products": 60, "kinds": 6, "in_title": 3, "results": 5, "train": 40, "validation": 20}
SHIRT = Product(
    id="B1",
    title="Corado shirt, cotton",
    kind="shirt",
    category="clothing › tops › shirt",  # noqa: RUF001
    price=25.0,
    attributes=("cotton", "slim fit", "hand made"),
    features=("cotton", "slim fit", "hand made"),
    description="A shirt for work.",
    options={"color": ("red", "blue"), "size": ("small", "large")},
)
WANTED = Goal("", SHIRT, ("cotton", "slim fit"), ("red", "small"), 30.0)
RIGHT = {"color": "red", "size": "small"}


def done(world: WebShop, name: str, value: Any) -> tuple[str, str | None, float, bool]:
    """A call of a tool: text, error, reward, done."""
    results, reward, over = world.step((ToolCall(name, {webshop.ARGUMENTS[name]: value}),))
    assert isinstance(results, list)
    return results[0].text, results[0].error, reward, over


def played(world: WebShop, task: Task, player: Callable[[WebShop], Action], turns: int = 30) -> tuple[float, int]:
    """The reward of an episode, and its turns."""
    world.reset(task, 0)
    for turn in range(1, turns + 1):
        _, reward, over = world.step(player(world))
        if over:
            return reward, turn
        assert reward == 0.0
    return 0.0, turns


def expert(world: WebShop) -> Action:
    return world.expert()


def opened(world: WebShop, query: str = "shirt") -> str:
    """Search, and open the first item that is found; its id."""
    done(world, "search", query)
    item = clickable(world)[-1]
    done(world, "click", item)
    return item


def clickable(world: WebShop) -> list[str]:
    return [action[0].arguments["value"] for action in world.choices() if isinstance(action, tuple)]


# the generated shop


def test_a_shop_is_made_by_its_seed() -> None:
    assert generated_products(50, None, 2, 1) == generated_products(50, None, 2, 1)
    assert generated_products(50, None, 2, 1) != generated_products(50, None, 2, 2)


def test_goods_are_of_so_many_kinds_and_titles_name_so_many_attributes() -> None:
    products = generated_products(60, 6, 1, 0)
    assert len({product.id for product in products}) == 60
    kinds = [product.kind for product in products]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(kinds_there_are()[:6], 10)
    for product in products:
        assert product.title.split(", ")[1:] == list(product.attributes[:1])
        assert set(product.features) == set(product.attributes)


def test_a_product_fits_every_goal_and_no_two_goals_are_the_same() -> None:
    products = generated_products(60, None, 2, 3)
    goals = generated_goals(products, 300, 3)
    assert len({(goal.like.kind, frozenset(goal.attributes), goal.options) for goal in goals}) == 300
    for goal in goals:
        chosen = dict(zip(goal.like.options, goal.options, strict=True))
        assert purchase_reward(goal.like, chosen, goal) == 1.0
        assert all(words in goal.instruction for words in (goal.like.kind, *goal.attributes, *goal.options))
        assert f"{goal.price_upper:.2f}" in goal.instruction


def test_the_splits_share_no_goal_and_validation_stays_when_training_grows() -> None:
    world, larger = WebShop(**SMALL), WebShop(**{**SMALL, "train": 60})
    prompts = {split: [task.prompt[0].content for task in world.tasks(split)] for split in ("train", "validation")}
    assert {split: len(prompts[split]) for split in prompts} == {"train": 40, "validation": 20}
    assert not set(prompts["train"]) & set(prompts["validation"])
    assert larger.tasks("validation") == world.tasks("validation")
    assert WebShop(**SMALL).tasks("train") == world.tasks("train")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"products": 0}, "environment.products=0: a shop has 1 product or more"),
        ({"products": 3, "kinds": 5}, "environment.products=3: fewer than environment.kinds=5"),
        ({"kinds": 99}, "environment.kinds=99: there are 26 kinds"),
        ({"in_title": 4}, "environment.in_title=4"),
        ({"results": 0}, "environment.results=0"),
        ({"train": -1}, "train=-1 and validation=200"),
        ({"products": 1, "train": 99}, "a shop of 1 products has no 299 different goals; raise products"),
        ({"attributes_file": "a.json"}, "attributes_file and instructions_file tell of products_file; name it too"),
    ],
)
def test_arguments_that_make_no_shop(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SodError, match=said):
        WebShop(**arguments)


def test_the_objects_of_a_run_share_one_index(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Ranking] = []

    def counted(*arguments: Any) -> Ranking:
        time.sleep(0.05)  # the other threads ask while it is being made
        made.append(Ranking(*arguments))
        return made[-1]

    monkeypatch.setattr(webshop, "Ranking", counted)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: WebShop(products=30, train=5, validation=5, seed=77), range(4)))
    assert len(made) == 1


# players


@pytest.mark.parametrize(
    "arguments",
    [
        SMALL,
        {"products": 300, "results": 10, "in_title": 0, "train": 40, "validation": 20},
        {**SMALL, "tools": False, "in_title": 1, "seed": 5},
    ],
)
def test_the_expert_buys_what_is_asked_for_and_a_random_player_does_not(arguments: dict[str, Any]) -> None:
    world = WebShop(**arguments)
    tasks = [*world.tasks("train"), *world.tasks("validation")]
    assert [played(world, task, expert)[0] for task in tasks] == [1.0] * 60
    luck = random.Random(0)
    earned = [played(world, task, lambda world: luck.choice(world.choices()))[0] for task in tasks]
    assert sum(reward == 1.0 for reward in earned) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("products", [1000, 5000])
def test_the_expert_succeeds_on_every_goal(products: int) -> None:
    world = WebShop(products=products)
    results = [played(world, task, expert) for split in ("train", "validation") for task in world.tasks(split)]
    assert len(results) == 1200
    assert {reward for reward, _ in results} == {1.0}
    assert max(turns for _, turns in results) < 30


def test_the_expert_goes_on_from_where_another_player_left_off() -> None:
    world = WebShop(**SMALL)
    luck = random.Random(1)
    rescued = 0
    for task in world.tasks("train"):
        world.reset(task, 0)
        over = False
        for _ in range(5):
            over = over or world.step(luck.choice(world.choices()))[2]
        if over:
            continue
        for _ in range(30):
            before = world.expert()
            assert world.expert() == before  # asking changes nothing
            _, reward, over = world.step(before)
            if over:
                break
        assert (reward, over) == (1.0, True)
        rescued += 1
    assert rescued > 10


def test_the_expert_is_not_told_which_item_the_goal_was_made_from() -> None:
    """The item is of the kind, but what it is made from does not decide: a goal like any other item of the kind."""
    world = WebShop(**SMALL)
    for task in world.tasks("train")[:15]:
        moves = []
        like = world._shop.catalogue.products[task.extra["item"]]
        twins = [other.id for other in world._shop.catalogue.products.values() if other.kind == like.kind]
        for item in (like.id, twins[0], twins[-1]):
            told = replace(task, extra={**task.extra, "item": item})
            world.reset(told, 0)
            taken = []
            while (move := world.expert()) != "":
                taken.append(move)
                world.step(move)
            moves.append(taken)
        assert moves[0] == moves[1] == moves[2]


def test_200_episodes_a_minute_with_a_scripted_player() -> None:
    world = WebShop()
    tasks = world.tasks("train")[:60]
    begun = time.perf_counter()
    for task in tasks:
        played(world, task, expert)
    assert (time.perf_counter() - begun) / len(tasks) < 60 / 200


# pages and buttons


def test_the_pages_and_where_their_buttons_lead() -> None:
    world = WebShop(**SMALL)
    task = world.tasks("train")[0]
    assert world.reset(task, 1) == (ASK, webshop.TOOLS)
    first, error, reward, over = done(world, "search", "shirt")
    assert (error, reward, over) == (None, 0.0, False)
    assert first.splitlines()[0] == "[Back to Search] [Next >] Page 1 of 2"
    assert len(first.splitlines()) == 6
    second = done(world, "click", "next >")[0]
    assert second.splitlines()[0] == "[Back to Search] [< Prev] Page 2 of 2"
    assert done(world, "click", "< Prev")[0] == first

    item = clickable(world)[2]
    product = world._shop.catalogue.products[item]
    page = done(world, "click", item.lower())[0]
    name, values = next(iter(product.options.items()))
    assert page.splitlines()[1:4] == [
        product.title,
        f"Price: ${product.price:.2f}",
        f"{name}: {' '.join(f'[{value}]' for value in values)}",
    ]
    assert f"{name} = {values[1]}: " in done(world, "click", values[1])[0]
    chosen = done(world, "click", values[0])[0]
    assert f"{name} = {values[0]}: " in chosen
    assert done(world, "click", "Features")[0].splitlines()[1:] == [f"- {feature}" for feature in product.features]
    assert done(world, "click", "< Prev")[0] == chosen  # the options that were chosen stay
    assert done(world, "click", "Description")[0].splitlines()[1:] == [product.description]
    assert done(world, "click", "< Prev")[0] == chosen
    assert done(world, "click", "< Prev")[0] == first
    assert done(world, "click", item)[0] == page  # and are gone when the item is left
    assert done(world, "click", "Back to Search")[0] == "The search page: search for keywords."
    assert done(world, "search", "zzz")[0] == "[Back to Search]\nNothing was found."


def test_buying_ends_the_visit_with_the_reward() -> None:
    world = WebShop(**SMALL)
    world.reset(world.tasks("train")[0], 1)
    item = opened(world, "tea shampoo boots lamp shirt")
    text, error, reward, over = done(world, "click", "Buy Now")
    assert text == f"You have bought {item}. Your score (0 to 1): {reward:.2f}"
    assert (error, over, reward < 1.0) == (None, True, True)
    assert world.choices() == []
    assert world.expert() == ""
    assert done(world, "click", "Buy Now")[1:] == ("wrong_arguments", 0.0, True)


def test_what_cannot_be_done_is_a_tool_error_that_names_what_can() -> None:
    world = WebShop(**SMALL)
    world.reset(world.tasks("train")[0], 1)
    assert done(world, "click", "Buy Now")[:2] == ("Error: no button 'Buy Now' here; search first", "wrong_arguments")
    assert done(world, "search", 7)[:2] == ("Error: keywords has to be text", "wrong_arguments")
    assert done(world, "search", " ")[1] == "wrong_arguments"
    done(world, "search", "zzz")
    assert done(world, "click", "B99")[0] == "Error: no button 'B99' here; [Back to Search]"
    results, _, _ = world.step((ToolCall("search", {"query": "shirt"}),))
    assert isinstance(results, list)
    assert results[0].error == "wrong_arguments"


def test_calls_of_one_turn_are_taken_in_their_order() -> None:
    world = WebShop(**SMALL)
    world.reset(world.tasks("train")[0], 1)
    item = opened(world)
    world.reset(world.tasks("train")[0], 1)
    calls = [("search", "shirt"), ("click", item), ("click", "Buy Now"), ("click", "Buy Now")]
    results, reward, over = world.step(tuple(ToolCall(name, {webshop.ARGUMENTS[name]: value}) for name, value in calls))
    assert isinstance(results, list)
    assert [result.error for result in results] == [None, None, None, "wrong_arguments"]
    assert over
    assert results[2].text.endswith(f"{reward:.2f}")


@pytest.mark.parametrize("tools", [True, False])
def test_what_is_said_is_an_action_too(tools: bool) -> None:
    world = WebShop(**SMALL, tools=tools)
    assert world.reset(world.tasks("train")[0], 1) == ((ASK, webshop.TOOLS) if tools else (ASK_IN_WORDS, ()))
    result, reward, over = world.step("First I look.\nAction: search[shirt]")
    assert not isinstance(result, list)
    assert result.text.startswith("[Back to Search]")
    assert (reward, over) == (0.0, False)
    result, _, _ = world.step("I could say click[Next >], but I go back: Click[back to search].")
    assert not isinstance(result, list)
    assert result.text == "The search page: search for keywords."
    result, _, over = world.step("I am done.")
    assert not isinstance(result, list)
    assert (result.text, over) == ("Error: say search[keywords] or click[value]", False)


def test_a_visit_is_replayed_to_where_it_was() -> None:
    world = WebShop(**SMALL)
    task = world.tasks("validation")[0]
    world.reset(task, 1)
    actions = []
    while True:
        move = world.expert()
        text, _, over = world.step(move)
        if over:
            break
        actions.append((move, text))
    other = WebShop(**SMALL)
    for count in range(len(actions)):
        other.reset(task, 2)
        other.replay([move for move, _ in actions[:count]])
        assert other.step(actions[count][0])[0] == actions[count][1]


def test_it_plays_among_the_environments_of_a_run() -> None:
    worlds = Worlds(lambda: WebShop(**SMALL), at_once=2)
    task = WebShop(**SMALL).tasks("train")[0]
    began = worlds.run([WorldRequest(name, Reset(task, 1)) for name in ("one", "two")])
    assert all(isinstance(reply, Began) and len(reply.tools) == 2 for reply in began)
    search = (ToolCall("search", {"keywords": "shirt"}),)
    (first,) = worlds.run([WorldRequest("one", Step(search))])
    worlds.run([WorldRequest("two", Replay((search,), (("",),)))])
    back = (ToolCall("click", {"value": "Back to Search"}),)
    replies = worlds.run([WorldRequest(name, Step(back)) for name in ("one", "two")])
    assert isinstance(first, Stepped)
    assert replies[0] == replies[1]
    assert isinstance(WebShop(**SMALL), HasExpert)
    assert isinstance(WebShop(**SMALL), HasChoices)
    assert isinstance(WebShop(**SMALL), OffersTasks)
    assert isinstance(WebShop(**SMALL), Replays)
    worlds.close()


@pytest.mark.parametrize("tools", [True, False])
def test_an_episode_of_a_run_is_won_by_calls_and_by_words(tokenizer: Any, tools: bool) -> None:
    world = WebShop(**SMALL, tools=tools)
    task = world.tasks("train")[0]
    world.reset(task, 0)
    moves = []
    while (move := world.expert()) != "":
        moves.append(move)
        world.step(move)
    chat = Chat(tokenizer, [], template="hermes")
    engine = ScriptedEngine(chat, {task.id: [said(move) for move in moves]})
    limits = EpisodeLimits(max_turns=10, max_turn_tokens=200, max_response_tokens=8000)
    worlds = World(Worlds(lambda: WebShop(**SMALL, tools=tools)), 3000)
    collector = Collector(engine, chat, {}, limits, EnvironmentReward(1.0, Shaping()), 0, world=worlds)
    ((trajectory,),) = [group.trajectories for group in collector.collect([task], 1, Sampling(1.0), "train", 1).groups]
    stop = StopReason.DONE if tools else StopReason.ANSWER
    assert (trajectory.stop, trajectory.reward, trajectory.correct) == (stop, 1.0, True)
    assert len(trajectory.turns) == len(moves)


def said(move: Action) -> str:
    if isinstance(move, str):
        return move
    return f"<tool_call>{json.dumps({'name': move[0].name, 'arguments': dict(move[0].arguments)})}</tool_call>"


@pytest.mark.parametrize(
    "extra",
    [{}, {"item": "B00", "attributes": [], "options": 3}, {"item": "nothing", "attributes": [], "options": []}],
)
def test_a_task_without_a_goal_stops_the_run(extra: dict[str, Any]) -> None:
    with pytest.raises(SodError, match=r"task 'mine': .*needs item \(an id of the shop\), attributes, options"):
        WebShop(**SMALL).reset(Task("mine", (), "", extra=extra), 1)


# what a purchase earns


@pytest.mark.parametrize(
    ("changes", "chosen", "reward"),
    [
        ({}, RIGHT, 1.0),
        ({}, {"color": "red", "size": "large"}, 4 / 5),
        ({}, {"color": "red"}, 4 / 5),
        ({}, {}, 3 / 5),
        ({"price": 30.01}, RIGHT, 4 / 5),
        ({"price": 30.0}, RIGHT, 1.0),
        ({"attributes": ("wool",), "features": ("wool",)}, RIGHT, 4 / 5),  # cotton is told in the title
        ({"attributes": (), "features": (), "description": "A Slim Fit shirt."}, RIGHT, 1.0),
        ({"attributes": ("very slim fit", "cotton"), "features": ()}, RIGHT, 1.0),
        ({"title": "Melux lamp", "kind": "lamp"}, RIGHT, 0.0),  # no word of the title
    ],
)
def test_what_a_purchase_earns(changes: dict[str, Any], chosen: dict[str, str], reward: float) -> None:
    assert purchase_reward(replace(SHIRT, **changes), chosen, WANTED) == pytest.approx(reward)


def test_sizes_have_to_be_equal_and_other_options_alike() -> None:
    goal = replace(WANTED, attributes=(), options=("dark red", "large"))
    assert purchase_reward(SHIRT, {"color": "red", "size": "extra large"}, goal) == pytest.approx(2 / 3)
    assert purchase_reward(SHIRT, {"color": "red", "size": "Large"}, goal) == 1.0


def test_a_wanted_option_counts_once_so_that_no_reward_exceeds_1() -> None:
    goal = replace(WANTED, attributes=(), options=("red",), price_upper=NO_LIMIT)
    assert purchase_reward(SHIRT, {"color": "red", "trim": "red", "fit": "slim fit"}, goal) == 1.0


@pytest.mark.parametrize(
    ("title", "kind", "category", "reward"),
    [
        ("one two three", "shirt", "a › b › c", 1.0),  # noqa: RUF001
        ("one", "other", "x › y", 0.5),  # noqa: RUF001  a fifth of the words and no more
        ("one", "other", "x › b › a", 1.0),  # noqa: RUF001  two parts of the category
        ("one", "shirt", "x", 1.0),
        ("one two", "other", "x", 1.0),
        ("eleven", "shirt", "a › b › c", 0.0),  # noqa: RUF001
    ],
)
def test_whether_it_is_the_same_type_of_thing(title: str, kind: str, category: str, reward: float) -> None:
    wanted = replace(SHIRT, title="The one, two, three, four and five", category="a › b › c")  # noqa: RUF001
    assert type_reward(replace(wanted, title=title, kind=kind, category=category), wanted) == reward


def test_one_word_of_many_is_hardly_the_same_type() -> None:
    wanted = replace(SHIRT, title=" ".join(f"word{number}" for number in range(11)))
    assert type_reward(replace(wanted, title="word3"), wanted) == 0.1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("essential oils", "essential oil", True),
        ("powder snow", "cool powder snow", True),
        ("tea tree", "earl gray tea", False),
        ("slim fit", "loose fit", False),
        ("3 feet", "6 feet", False),
        ("", "red", False),
    ],
)
def test_which_phrases_are_alike(one: str, other: str, same: bool) -> None:
    assert alike(one, other) == alike(other, one) == same


# the authors' files: rows of their shape, values of ours

ROWS: list[Any] = [
    {
        "asin": "B0LAMP0001",
        "name": "Dremora Desk Lamp, Dimmable",
        "query": " Desk Lamp ",
        "product_category": "Home › Lighting › Desk Lamps",  # noqa: RUF001
        "full_description": "A lamp for reading.",
        "small_description": ["dimmable", "metal base"],
        "pricing": "$1,020.50",
        "customization_options": {"Color": [{"value": " Black/White "}, {"value": "Red", "image": None}], "Size": None},
    },
    {
        "asin": "B0MUG00002",
        "name": "Pelima Mug",
        "query": "mug",
        "product_category": "Home › Kitchen › Mugs",  # noqa: RUF001
        "small_description": "keeps warm",
        "pricing": "$10.00 to $20.00",
        "customization_options": "",
    },
    {"asin": "nan", "name": "x", "query": "x", "product_category": "x"},
    {"asin": "B0MUG00002", "name": "again", "query": "x", "product_category": "x"},
    {"asin": "B0RUG00003", "name": "Norux Rug", "query": "rug", "product_category": "Home", "small_description": None},
]
TOLD: dict[str, Any] = {
    "B0LAMP0001": {
        "attributes": ["dimmable", "metal base"],
        "instruction": "i want a dimmable desk lamp.",
        "instruction_attributes": ["dimmable"],
    },
    "B0MUG00002": {"attributes": ["keeps warm"], "instruction": None, "instruction_attributes": None},
}
WRITTEN: dict[str, Any] = {
    "B0LAMP0001": [
        {
            "instruction": "please find a lamp that dims.",
            "instruction_attributes": ["dimmable"],
            "instruction_options": ["red"],
        },
        {"instruction": "no attributes", "instruction_attributes": [], "instruction_options": []},
    ],
    "B0MUG00002": [
        {
            "instruction": "a mug that keeps warm",
            "instruction_attributes": ["keeps warm"],
            "instruction_options": {},
        },
        {"instruction": "a mug that keeps warm", "instruction_attributes": ["x"], "instruction_options": []},  # again
    ],
    "B0ELSE0009": [{"instruction": "not in the shop", "instruction_attributes": ["x"], "instruction_options": []}],
}


def written(folder: Path, rows: Any = ROWS, told: Any = TOLD, people: Any = WRITTEN) -> Files:
    paths = [folder / name for name in ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json")]
    for path, value in zip(paths, (rows, told, people), strict=True):
        path.write_text(json.dumps(value), encoding="utf-8")
    return Files(*map(str, paths))


def test_products_of_the_authors_files(tmp_path: Path) -> None:
    lamp, mug, rug = products_in(written(tmp_path), None, 0)
    assert (lamp.id, lamp.title, lamp.kind) == ("B0LAMP0001", "Dremora Desk Lamp, Dimmable", "desk lamp")
    assert (lamp.price, rug.price) == (1020.5, 100.0)
    assert 10.0 <= mug.price <= 20.0
    assert lamp.attributes == ("dimmable", "metal base")
    assert (lamp.options, mug.options) == ({"color": ("black | white", "red")}, {})
    assert (lamp.features, mug.features, rug.features) == (("dimmable", "metal base"), ("keeps warm",), ())
    assert products_in(written(tmp_path), 1, 0) == [lamp]
    assert products_in(written(tmp_path), None, 0) == [lamp, mug, rug]


def test_goals_of_the_instructions_that_people_wrote(tmp_path: Path) -> None:
    files = written(tmp_path)
    products = products_in(files, None, 0)
    goals = goals_in(files, products, 2, 0)
    assert goals is not None
    by_item = {goal.like.id: goal for goal in goals}
    lamp, mug = by_item["B0LAMP0001"], by_item["B0MUG00002"]
    assert (lamp.instruction, lamp.price_upper) == ("please find a lamp that dims", NO_LIMIT)  # too dear for a limit
    assert (lamp.attributes, lamp.options, mug.options) == (("dimmable",), ("red",), ())
    assert mug.instruction == f"a mug that keeps warm, price lower than {mug.price_upper:.2f} dollars"
    assert products[1].price < mug.price_upper
    with pytest.raises(SodError, match=r"items_human_ins.json': has 2 goals of these products; lower train"):
        goals_in(files, products, 3, 0)


def test_goals_of_the_generated_instructions_take_every_option(tmp_path: Path) -> None:
    files = replace(written(tmp_path), instructions=None)
    products = products_in(files, None, 0)
    goals = goals_in(files, products, 2, 0)
    assert goals is not None
    assert sorted(goal.instruction for goal in goals) == [
        "i want a dimmable desk lamp, color: black | white",
        "i want a dimmable desk lamp, color: red",
    ]
    with pytest.raises(SodError, match=r"items_ins_v2.json': has 2 goals"):
        goals_in(files, products, 3, 0)


@pytest.mark.parametrize("people", [True, False])
def test_a_shop_of_the_authors_files_is_played_like_the_other(tmp_path: Path, people: bool) -> None:
    files = written(tmp_path)
    world = WebShop(
        products_file=files.products,
        attributes_file=files.attributes,
        instructions_file=files.instructions if people else None,
        train=1,
        validation=1,
    )
    for task in (*world.tasks("train"), *world.tasks("validation")):
        assert played(world, task, expert)[0] == 1.0


def test_rows_of_ones_own_in_a_shop_of_products_alone(tmp_path: Path) -> None:
    world = WebShop(products_file=written(tmp_path).products)
    with pytest.raises(SodError, match="no goals in it; name attributes_file or instructions_file"):
        world.tasks("train")
    row = {"item": "B0LAMP0001", "attributes": ["metal base"], "options": ["red"]}
    assert played(world, Task("mine", (), "", extra=row), expert)[0] == 1.0


def changed(**values: Any) -> list[Any]:
    return [ROWS[0], {**ROWS[1], **values}]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": 1}, "items_shuffle.json': holds an object; it has to be a list of products"),
        ([ROWS[0], 5], "items_shuffle.json' row 2: is a number; it has to be an object with asin"),
        (changed(name=None), "row 2: has no name in text; a product has asin, name, query, product_category"),
        (changed(pricing="$cheap"), "row 2: pricing '.cheap' is no price like"),
        (changed(pricing="10"), "row 2: pricing '10' is no price like"),
        (changed(small_description=[1]), "row 2: small_description has to be a list of texts"),
        (changed(customization_options=["red"]), "row 2: customization_options is a list; it has to be an object"),
        (changed(customization_options={"color": ["red"]}), "row 2: customization_options.color has to be a list of"),
        ([{**ROWS[0], "asin": "longer than ten"}], "has no products with an asin of at most 10 characters"),
    ],
)
def test_products_that_cannot_be_read_are_named_by_file_and_row(tmp_path: Path, rows: Any, said: str) -> None:
    with pytest.raises(SodError, match=said):
        products_in(written(tmp_path, rows=rows), None, 0)


@pytest.mark.parametrize(
    ("told", "people", "said"),
    [
        ([], WRITTEN, "attributes_file='.*items_ins_v2.json': holds a list; it has to be an object by asin"),
        ({"B0LAMP0001": "x"}, WRITTEN, "items_ins_v2.json' row 'B0LAMP0001': is text; it has to be an object"),
        ({"B0LAMP0001": {"attributes": "x"}}, WRITTEN, "row 'B0LAMP0001': attributes has to be a list of texts"),
        (TOLD, {"B0LAMP0001": {}}, "items_human_ins.json' row 'B0LAMP0001': is an object; it has to be a list of"),
        (TOLD, {"B0LAMP0001": [{}]}, "items_human_ins.json' row 'B0LAMP0001': has no instruction in text"),
    ],
)
def test_goals_that_cannot_be_read_are_named_by_file_and_row(tmp_path: Path, told: Any, people: Any, said: str) -> None:
    files = written(tmp_path, told=told, people=people)
    with pytest.raises(SodError, match=said):
        goals_in(files, products_in(files, None, 0), 1, 0)


def test_a_file_that_is_not_there_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"environment.products_file='.*none.json': cannot be read as JSON"):
        WebShop(products_file=str(tmp_path / "none.json"))
    broken = tmp_path / "broken.json"
    broken.write_text("[{")
    with pytest.raises(SodError, match=r"broken.json': cannot be read as JSON"):
        WebShop(products_file=str(broken))


def test_queries_ask_for_all_first_and_for_less_then() -> None:
    assert queries_for(WANTED) == [
        "cotton slim fit shirt red small",
        "cotton slim fit shirt",
        "shirt red small",
        "shirt",
        "cotton slim fit",
    ]
