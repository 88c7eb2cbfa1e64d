"""A customer that buys what is asked for. It goes by the goal and by what the pages have shown, and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sod.environments.shop import Goal, Product
from sod.environments.shop_reward import alike, fits_option, is_told
from sod.environments.shop_visit import BACK, BUY, FEATURES, NEXT, PREV, Catalogue, Visit, buttons, shown_items


@final
@dataclass(frozen=True)
class Search:
    """Search for these words."""

    keywords: str


@final
@dataclass(frozen=True)
class Click:
    """Click on this button."""

    value: str


def queries_for(goal: Goal) -> list[str]:
    """What to search for, one after the other: all that was asked for first, then less of it."""
    attributes, options = " ".join(goal.attributes), " ".join(goal.options)
    words = (
        f"{attributes} {goal.like.kind} {options}",
        f"{attributes} {goal.like.kind}",
        f"{goal.like.kind} {options}",
        goal.like.kind,
        attributes,
    )
    return list(dict.fromkeys(" ".join(query.split()) for query in words))


def expert_move(visit: Visit, goal: Goal, shop: Catalogue, results: int) -> Search | Click:
    """The next move, while the visit is not over. Where nothing fits and no query is left it buys what it finds."""
    if visit.page == "search":
        left = [query for query in queries_for(goal) if query not in visit.queries]
        return Search(left[0] if left else goal.like.kind)
    if visit.page == "results":
        return _from_results(visit, goal, shop, results)
    if visit.page == "item":
        return _from_item(visit, goal, shop.products[visit.item])
    return Click(PREV)


def _from_results(visit: Visit, goal: Goal, shop: Catalogue, results: int) -> Click:
    shown = shown_items(visit, results)
    for number in shown:
        if _may_fit(shop.products[number], visit, goal):
            return Click(number)
    if NEXT in buttons(visit, shop, results):
        return Click(NEXT)
    return Click(shown[0] if shown and _resigned(visit, goal) else BACK)


def _from_item(visit: Visit, goal: Goal, product: Product) -> Click:
    if not _may_fit(product, visit, goal):
        if not _resigned(visit, goal):
            return Click(PREV)
    elif product.id not in visit.read and not _told_in_title(product, goal):
        return Click(FEATURES)
    for wanted in goal.options:
        value = _to_choose(product, wanted, visit, goal)
        if value is not None:
            return Click(value)
    return Click(BUY)


def _resigned(visit: Visit, goal: Goal) -> bool:
    """Whether every query was tried, and the widest once more."""
    return set(queries_for(goal)) <= set(visit.queries) and visit.queries.count(goal.like.kind) > 1


def _may_fit(product: Product, visit: Visit, goal: Goal) -> bool:
    """Whether nothing that was seen of a product speaks against it.

    Results show its title, which says its kind, and its price; its page shows the options.
    """
    if product.kind != goal.like.kind or product.price > goal.price_upper:
        return False
    if product.id in visit.opened and not all(_offers(product, wanted) for wanted in goal.options):
        return False
    return product.id not in visit.read or all(_is_read(product, wanted) for wanted in goal.attributes)


def _told_in_title(product: Product, goal: Goal) -> bool:
    return all(is_told(wanted, [product.title]) for wanted in goal.attributes)


def _is_read(product: Product, wanted: str) -> bool:
    texts = (product.title, *product.features)
    return is_told(wanted, texts) or any(alike(wanted, feature) for feature in product.features)


def _offers(product: Product, wanted: str) -> bool:
    return any(fits_option(wanted, name, value) for name, values in product.options.items() for value in values)


def _to_choose(product: Product, wanted: str, visit: Visit, goal: Goal) -> str | None:
    """The value to click for an option that was asked for; None where it is chosen, or not to be had."""
    for name, values in product.options.items():
        fitting = [value for value in values if fits_option(wanted, name, value)]
        now = visit.chosen.get(name)
        if now in fitting:
            return None
        if fitting and not (now is not None and any(fits_option(other, name, now) for other in goal.options)):
            return fitting[0]
    return None
