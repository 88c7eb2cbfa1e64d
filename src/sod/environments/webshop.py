"""WebShop-style: a shop, what a customer wants of it, `search[keywords]` and `click[value]`, a reward by attributes.

After WebShop (Yao et al. 2022, arXiv 2207.01206): search page, results, item, the texts of an item, and Buy Now, which
ends the episode with the reward (`sod.environments.shop_reward`). The search is BM25 over title, description, features
and options (package `bm25s`; theirs is Lucene's, with the first feature only).

Without files the goods are generated (`sod.environments.shop`). With `products_file` they are those of a file as the
authors publish it (`sod.environments.webshop_products`).

Deviations: a button that the page does not have is a tool error that names those it has, where the authors' shop shows
the page again; pages are shorter (`sod.environments.shop_visit`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sod.environments.base import Action
from sod.environments.ranking import Ranking
from sod.environments.shared import shared
from sod.environments.shop import NO_LIMIT, Goal, Product, generated_goals, generated_products
from sod.environments.shop_expert import Click, Search, expert_move, queries_for
from sod.environments.shop_reward import purchase_reward
from sod.environments.shop_visit import Catalogue, Visit, buttons, clicked, page_text, searched
from sod.environments.webshop_products import Files, goals_in, products_in
from sod.records import Message, SodError, Task, ToolCall, ToolResult
from sod.seeds import derive

WHERE = "sod.environments.webshop"
PRODUCTS = 1000
"""How many goods are generated where nothing is said."""


def _tool(name: str, description: str, argument: str, meaning: str) -> Mapping[str, Any]:
    properties = {argument: {"type": "string", "description": meaning}}
    parameters = {"type": "object", "properties": properties, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = (
    _tool("search", "Search the shop.", "keywords", "What to look for."),
    _tool("click", "Click on a button of the page.", "value", "The text of the button, without brackets."),
)
ARGUMENTS = {"search": "keywords", "click": "value"}
ASK = "Buy it in this shop: call search, then click on what stands in [brackets]. Buy Now ends the visit."
ASK_IN_WORDS = (
    "Buy it in this shop: say search[keywords], then click[value] for what stands in [brackets], one in each turn. "
    "Buy Now ends the visit."
)
SPOKEN = re.compile(r"\b(search|click)\[([^\[\]]+)\]", re.IGNORECASE)


@final
@dataclass(frozen=True)
class _Shop:
    """What all objects of a run share: the goods, and the goals of each split."""

    catalogue: Catalogue
    goals: Mapping[str, tuple[Goal, ...]]


@final
@dataclass(frozen=True)
class _Plan:
    """What decides a shop: two objects with the same plan have the same one."""

    products: int | None
    kinds: int | None
    in_title: int
    counts: tuple[int, int]
    seed: int
    files: Files | None


@final
class WebShop:
    """`sod.environments.base.Environment`: the model calls `search` and `click`, or says `search[...]` or `click[...]`.

    `products` goods of `kinds` kinds (None: all), whose titles name `in_title` of their three attributes; `results`
    items a page; `train` and `validation` goals, none in both; `tools: false` shows no tools: the model says its moves.
    Of files, `products` is how many rows are read (None: all). Raises SodError where an argument or a file is wrong.
    """

    def __init__(
        self,
        products: int | None = None,
        kinds: int | None = None,
        in_title: int = 2,
        results: int = 10,
        train: int = 1000,
        validation: int = 200,
        seed: int = 0,
        tools: bool = True,
        products_file: str | None = None,
        attributes_file: str | None = None,
        instructions_file: str | None = None,
    ) -> None:
        if products is not None and products < 1:
            raise SodError(f"environment.products={products}: a shop has 1 product or more")
        if results < 1:
            raise SodError(f"environment.results={results}: a page of results shows 1 item or more")
        if min(train, validation) < 0:
            raise SodError(f"environment: train={train} and validation={validation} are numbers of goals, 0 or more")
        files = _files(products_file, attributes_file, instructions_file)
        plan = _Plan(products, kinds, in_title, (train, validation), seed, files)
        self._shop: _Shop = shared(plan, lambda: _made(plan))
        self._results = results
        self._tools = tools
        self._goal: Goal | None = None
        self._visit = Visit(page="end")

    def tasks(self, split: str) -> list[Task]:
        """The goals of a split; `Task.extra` says what the reward goes by: item, attributes, options, price_upper."""
        if not self._shop.goals:
            raise SodError(
                "environment.products_file: no goals in it; name attributes_file or instructions_file, "
                "or give data.train rows with item, attributes, options and price_upper"
            )
        return [_task(f"{split}-{number}", goal) for number, goal in enumerate(self._shop.goals[split])]

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        """See `Environment.reset`. Nothing is left to `seed`. Raises SodError for a task without a goal."""
        self._goal = goal_of(task, self._shop.catalogue.products)
        self._visit = Visit()
        return (ASK, TOOLS) if self._tools else (ASK_IN_WORDS, ())

    def step(self, action: Action) -> tuple[ToolResult | list[ToolResult], float, bool]:
        """See `Environment.step`. The last `search[...]` or `click[...]` of what was said counts."""
        if isinstance(action, str):
            result, reward = self._spoken(action)
            return result, reward, self._visit.page == "end"
        taken = [self._done(call.name, call.arguments.get(ARGUMENTS[call.name])) for call in action]
        return [result for result, _ in taken], sum(reward for _, reward in taken), self._visit.page == "end"

    def replay(self, actions: Sequence[Action]) -> None:
        """Take the actions: a visit depends on nothing else."""
        for action in actions:
            self.step(action)

    def expert(self) -> Action:
        """See `HasExpert.expert`: by the goal and what the pages have shown; nothing once the visit is over."""
        if self._goal is None or self._visit.page == "end":
            return ""
        move = expert_move(self._visit, self._goal, self._shop.catalogue, self._results)
        return self._action(move)

    def choices(self) -> list[Action]:
        """See `HasChoices.choices`: every button of the page, or up to three searches."""
        if self._goal is None or self._visit.page == "end":
            return []
        if self._visit.page == "search":
            return [self._action(Search(query)) for query in queries_for(self._goal)[-3:]]
        return [self._action(Click(button)) for button in buttons(self._visit, self._shop.catalogue, self._results)]

    def _action(self, move: Search | Click) -> Action:
        name, value = ("search", move.keywords) if isinstance(move, Search) else ("click", move.value)
        return (ToolCall(name, {ARGUMENTS[name]: value}),) if self._tools else f"{name}[{value}]"

    def _spoken(self, said: str) -> tuple[ToolResult, float]:
        actions = SPOKEN.findall(said)
        if not actions:
            return _refused("say search[keywords] or click[value]"), 0.0
        name, value = actions[-1]
        return self._done(name.lower(), value)

    def _done(self, name: str, value: Any) -> tuple[ToolResult, float]:
        """Search or click: what the page then shows, and the reward."""
        if self._visit.page == "end" or self._goal is None:
            return _refused("you have bought something, and the visit is over"), 0.0
        if not isinstance(value, str) or not value.strip():
            return _refused(f"{ARGUMENTS[name]} has to be text"), 0.0
        shop = self._shop.catalogue
        if name == "search":
            self._visit = searched(self._visit, value, shop)
        else:
            after = clicked(self._visit, value, shop, self._results)
            if after is None:
                return _refused(self._no_button(value)), 0.0
            self._visit = after
        if self._visit.page != "end":
            return ToolResult(page_text(self._visit, shop, self._results)), 0.0
        reward = purchase_reward(shop.products[self._visit.item], self._visit.chosen, self._goal)
        return ToolResult(f"You have bought {self._visit.item}. Your score (0 to 1): {reward:.2f}"), reward

    def _no_button(self, value: str) -> str:
        there = buttons(self._visit, self._shop.catalogue, self._results)
        return f"no button {value!r} here; {' '.join(f'[{button}]' for button in there) or 'search first'}"


def goal_of(task: Task, products: Mapping[str, Product]) -> Goal:
    """The goal that a task's row tells. Raises SodError where it tells none, or of an item that the shop lacks."""
    row = task.extra
    try:
        like = products[str(row["item"])]
        attributes, options = tuple(map(str, row["attributes"])), tuple(map(str, row["options"]))
        upper = float(row.get("price_upper", NO_LIMIT))
    except (KeyError, TypeError, ValueError) as error:
        raise SodError(
            f"task {task.id!r}: {error!r}: a task of the shop needs item (an id of the shop), attributes, options and "
            "price_upper; leave data.train out, and the shop gives its own"
        ) from None
    return Goal(task.prompt[-1].content if task.prompt else "", like, attributes, options, upper)


def _task(number: str, goal: Goal) -> Task:
    extra = {
        "item": goal.like.id,
        "attributes": list(goal.attributes),
        "options": list(goal.options),
        "price_upper": goal.price_upper,
    }
    return Task(number, (Message("user", goal.instruction),), goal.like.id, "webshop", extra=extra)


def _refused(why: str) -> ToolResult:
    return ToolResult(f"Error: {why}", error="wrong_arguments")


def _files(products: str | None, attributes: str | None, instructions: str | None) -> Files | None:
    if products is not None:
        return Files(products, attributes, instructions)
    if attributes is not None or instructions is not None:
        raise SodError("environment: attributes_file and instructions_file tell of products_file; name it too")
    return None


def _made(plan: _Plan) -> _Shop:
    train, validation = plan.counts
    if plan.files is None:
        count = PRODUCTS if plan.products is None else plan.products
        products = generated_products(count, plan.kinds, plan.in_title, plan.seed)
        goals: list[Goal] | None = generated_goals(products, train + validation, plan.seed)
    else:
        products = products_in(plan.files, plan.products, plan.seed)
        goals = goals_in(plan.files, products, train + validation, derive(plan.seed, "goals"))
    texts = [_indexed(product) for product in products]
    catalogue = Catalogue({product.id: product for product in products}, Ranking(texts, WHERE))
    # the validation goals come first, so that they stay the same whatever the number of training goals
    split = {} if goals is None else {"validation": tuple(goals[:validation]), "train": tuple(goals[validation:])}
    return _Shop(catalogue, split)


def _indexed(product: Product) -> str:
    options = [f"{name} {value}" for name, values in product.options.items() for value in values]
    return " ".join([product.title, product.description, *product.features, *options])
